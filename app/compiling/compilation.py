"""The one flow of the slow road: a reference's network becomes an IR, is compared with the reference, and is reported.

A reference comes from a model folder (`folder_compiler.py`) or from an archive (`archive_compiler.py`).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.arrays import InputBatch, Probabilities, RGBImage, Scores
from app.config.cpu_count import count_cores
from app.config.settings import Settings
from app.engines.compiled.compile_report import COMPILED_FOLDER, IR_FILE, TOLERANCE, CompileReport, hash_ir
from app.engines.compiled.openvino_engine import OpenVINOEngine
from app.engines.conversion import converter_version, save_ir
from app.errors import CompiledModelError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import apply_activation
from app.pipeline.preprocess import read_file
from app.processes.locks import hold_lock
from app.repository.model_folder import ModelFolder
from app.repository.staging import COMPILING_PATTERN, stage

RANDOM_SEED = 0
COARSE_PX = 8
"""Side of the squares of one colour in coarse pictures, which a network sees more in than in noise."""
BATCH = 8
EXAMPLE_LIMITS = ImageLimits(max_pixels=25_000_000)


@dataclass(frozen=True)
class Reference:
    """A model in its own framework: what is compiled, and what the compiled model must agree with.

    Attributes:
        to_openvino: returns the network as an `openvino.Model` that takes pixels.
        pictures: uint8, [N, height, width, 3]; `scores` are what the framework computes of them.
        title: how messages call what computed the scores; `framework` is its name and version.
        note: what was done to find the weights.
        compiled: the folder that the compiled model goes to.
        files: text files to be written beside the IR, by name.
        held_sha256: of the manifest, if it was held against the network.
    """

    manifest: ModelManifest
    to_openvino: Callable[[], Any]
    pictures: InputBatch
    scores: Scores
    title: str
    framework: str
    note: str = ""
    compiled: str = COMPILED_FOLDER
    files: Mapping[str, str] = field(default_factory=dict)
    held_sha256: str = ""


@contextmanager
def hold_compilation(folder: ModelFolder, pattern: str, settings: Settings) -> Iterator[None]:
    """Keep other processes from compiling a version, and remove the staging folders that killed ones have left."""
    with hold_lock(settings.instance / f"compile-{folder.name}-{folder.version}.lock"):
        for left in folder.path.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
        yield


def write_compiled(reference: Reference, folder: Path) -> CompileReport:
    """Write a reference's compiled model into the folder of its version.

    Raises `CompiledModelError` if a probability strays by more than `TOLERANCE`, or if the folder cannot be written.
    """
    manifest = reference.manifest
    with stage(folder, COMPILING_PATTERN, reference.compiled) as staging:
        target = staging / reference.compiled
        save_ir(reference.to_openvino(), target / IR_FILE)
        ours = apply_activation(infer_compiled(staging, reference), manifest.output)
        theirs = apply_activation(reference.scores, manifest.output)
        report = CompileReport(
            artifact_sha256=manifest.artifact.sha256,
            graph_sha256=manifest.graph_sha256,
            ir_sha256=hash_ir(target),
            max_probability_difference=check_difference(ours, theirs, reference.title),
            tolerance=TOLERANCE,
            images=len(reference.pictures),
            framework=reference.framework,
            converter=converter_version(),
            held_sha256=reference.held_sha256,
            note=reference.note,
        )
        report.write(target)
        for name, text in reference.files.items():
            (target / name).write_text(text, encoding="utf-8")
    return report


def infer_compiled(staging: Path, reference: Reference) -> Scores:
    """Show the pictures to the staged compiled model: the first alone, the others in batches, as requests come."""
    engine = OpenVINOEngine(staging, reference.manifest, count_cores(), reference.compiled)
    engine.load()
    try:
        return np.concatenate([engine.infer(reference.pictures[rows]) for rows in split(len(reference.pictures))])
    finally:
        engine.close()


def split(count: int) -> list[slice]:
    """The first of `count` pictures alone, and the others in batches."""
    return [slice(0, 1), *(slice(start, start + BATCH) for start in range(1, count, BATCH))]


def check_difference(ours: Probabilities, theirs: Probabilities, title: str) -> float:
    """Return the largest difference of a probability; raises `CompiledModelError` if it is more than `TOLERANCE`."""
    difference = float(np.abs(ours - theirs).max())
    if difference > TOLERANCE:
        raise CompiledModelError(
            f"the compiled model's probabilities differ from those of {title} by {difference:.2e}; "
            f"at most {TOLERANCE:.0e} is allowed. A network of half precision differs so: save it in float32"
        )
    return difference


def draw_pictures(sizes_px: Iterable[tuple[int, int]]) -> Iterator[RGBImage]:
    """Draw a random picture of each width and height, in turn of noise and of coarse squares; each time the same."""
    random = np.random.default_rng(RANDOM_SEED)
    for number, (width_px, height_px) in enumerate(sizes_px):
        grain_px = COARSE_PX if number % 2 else 1
        rows, columns = -(-height_px // grain_px), -(-width_px // grain_px)
        grains = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        yield grains.repeat(grain_px, axis=0).repeat(grain_px, axis=1)[:height_px, :width_px]


def read_picture(content: bytes, spec: InputSpec) -> RGBImage:
    """Decode and preprocess a picture's file as a request's is: uint8, [height, width, 3]; raises `RequestError`."""
    return read_file(content, spec, EXAMPLE_LIMITS)[1]
