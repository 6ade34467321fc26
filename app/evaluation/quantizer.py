"""From a compiled model to an INT8 one, in a confined process: quantized, compared on labelled pictures, reported."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from app.arrays import InputBatch, Probabilities, Scores
from app.compiling.compilation import hold_compilation
from app.compiling.folder_compiler import compile_in_process, has_valid_report
from app.config.settings import Settings
from app.engines.base import Engine
from app.engines.compiled.compile_report import COMPILED_FOLDER, IR_FILE, CompileReport, hash_ir, read_report
from app.engines.compiled.int8_report import INT8_FOLDER, Int8Report, read_int8_report
from app.engines.compiled.openvino_engine import OpenVINOEngine
from app.engines.conversion import quantize_ir, quantizer_version, require_nncf
from app.errors import CompiledModelError
from app.evaluation.estimates import choose_classes, compare_aucs
from app.evaluation.labelled_folder import LabelledPicture, find_pictures, read_picture, split_pictures
from app.manifest.model_manifest import ModelManifest, read_manifest
from app.manifest.model_specs import OutputSpec
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import decide, to_probabilities
from app.processes.confined_process import run_confined
from app.repository.model_folder import ModelFolder
from app.repository.staging import stage

STAGING_PATTERN = ".quantizing-*"
PICTURES_IN_TURN = 16


@dataclass(frozen=True)
class Measured:
    """What two engines said of the same pictures, [N, classes], and their median milliseconds a picture."""

    labels: NDArray[np.int64]
    f32: Probabilities
    int8: Probabilities
    ms_f32: float
    ms_int8: float


def quantize_in_process(folder: Path, pictures: Path, settings: Settings) -> Int8Report:
    """Quantize one model version in a new process, compiling it first if need be, and read the report.

    `pictures` is a folder of labelled pictures; see `find_pictures`. Raises `FrameworkMissingError` without NNCF,
    `PicturesError` if the pictures cannot be used, `ModelFolderError` if the model cannot be compiled or quantized.
    """
    require_nncf()
    manifest = ModelFolder(folder).read_manifest()
    if manifest.engine == "native":
        raise CompiledModelError("the manifest asks for the framework itself (engine); there is nothing to quantize")
    find_pictures(pictures, manifest.output.classes)
    if not has_valid_report(folder, manifest):
        compile_in_process(folder, settings, only_if_invalid=True)
    with hold_compilation(ModelFolder(folder), STAGING_PATTERN, settings):
        arguments: list[str | Path] = [folder.resolve(), pictures.resolve(), str(settings.max_pixels)]
        run_confined(quantize_model, arguments, settings, shows_output=True)
        return read_int8_report(folder, manifest, read_report(folder, manifest))


def quantize_model(folder_path: str, pictures_path: str, max_pixels: str) -> None:
    """Quantize one compiled model, measure it, and put the result into its `compiled_int8/`, in this process.

    Raises `PicturesError` if the pictures cannot be used, `ModelFolderError` if the folder cannot be read or written.
    """
    folder = Path(folder_path)
    manifest = read_manifest(folder)
    ModelFolder(folder).verify_artifact(manifest)
    f32 = read_report(folder, manifest)
    calibration, measured = split_pictures(find_pictures(Path(pictures_path), manifest.output.classes))
    read = partial(read_picture, spec=manifest.input, limits=ImageLimits(int(max_pixels)))
    with stage(folder, STAGING_PATTERN, INT8_FOLDER) as staging:
        target = staging / INT8_FOLDER
        paths = [picture.path for picture in calibration]
        quantize_ir(folder / COMPILED_FOLDER / IR_FILE, target / IR_FILE, paths, read)
        engines = (OpenVINOEngine(folder, manifest, 1), OpenVINOEngine(staging, manifest, 1, INT8_FOLDER))
        result = measure(engines, measured, read, manifest.output)
        make_report(manifest, f32, hash_ir(target), len(calibration), result).write(target)


def measure(
    engines: tuple[Engine, Engine],
    pictures: Sequence[LabelledPicture],
    read: Callable[[Path], InputBatch],
    spec: OutputSpec,
) -> Measured:
    """Show each picture to both engines, on its own, a few pictures to the one and then to the other.

    In turn, so that a machine that is busy for a while slows both; not one by one, for then the weights of each engine
    would push the other's out of the processor's caches, which no server does to itself.
    """
    for engine in engines:
        engine.load()
    scores: tuple[list[Scores], list[Scores]] = ([], [])
    seconds: tuple[list[float], list[float]] = ([], [])
    with click.progressbar(length=len(pictures), label="Comparing INT8 with float32") as bar:
        for start in range(0, len(pictures), PICTURES_IN_TURN):
            batches = [read(picture.path) for picture in pictures[start : start + PICTURES_IN_TURN]]
            for engine, rows, times in zip(engines, scores, seconds, strict=True):
                for batch in batches:
                    started = time.perf_counter()
                    rows.append(engine.infer(batch))
                    times.append(time.perf_counter() - started)
            bar.update(len(batches))
    for engine in engines:
        engine.close()
    f32, int8 = (to_probabilities(np.concatenate(rows), spec) for rows in scores)
    ms_f32, ms_int8 = (float(np.median(times)) * 1000 for times in seconds)
    return Measured(np.array([picture.label for picture in pictures]), f32, int8, ms_f32, ms_int8)


def make_report(
    manifest: ModelManifest, f32: CompileReport, ir_sha256: str, calibration_pictures: int, result: Measured
) -> Int8Report:
    """Work out the figures."""
    spec = manifest.output
    aucs = compare_aucs(result.f32, result.int8, result.labels, choose_classes(spec.classes, spec.positive_class))
    pairs = zip(result.f32, result.int8, strict=True)
    return Int8Report(
        artifact_sha256=manifest.artifact.sha256,
        graph_sha256=manifest.graph_sha256,
        classes=list(spec.classes),
        f32_ir_sha256=f32.ir_sha256,
        ir_sha256=ir_sha256,
        quantizer=quantizer_version(),
        calibration_pictures=calibration_pictures,
        measured_pictures={name: int((result.labels == index).sum()) for index, name in enumerate(spec.classes)},
        auc_f32=aucs.first,
        auc_int8=aucs.second,
        auc_drop=aucs.drop,
        auc_drop_low=aucs.drop_low,
        auc_drop_high=aucs.drop_high,
        max_probability_change=float(np.abs(result.f32 - result.int8).max()),
        decisions_changed=sum(decide(one, spec).class_name != decide(other, spec).class_name for one, other in pairs),
        ms_f32=result.ms_f32,
        ms_int8=result.ms_int8,
    )
