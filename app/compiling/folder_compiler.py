"""Compiles model folders: the reference is the framework's own engine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.arrays import InputBatch, Scores
from app.compiling.compilation import Reference, draw_pictures, hold_compilation, read_picture, write_compiled
from app.compiling.manifest_check import check_numbers, hold_manifest
from app.config.settings import Settings
from app.engines.base import build_reference
from app.engines.compiled.compile_report import CompileReport, read_report
from app.engines.conversion import require_framework
from app.engines.process_engine import runs_natively
from app.errors import CompiledModelError, InferenceError
from app.manifest.model_manifest import ModelManifest, read_manifest
from app.processes.confined_process import run_confined
from app.repository.model_folder import ModelFolder
from app.repository.signing import require_trusted_artifact
from app.repository.staging import COMPILING_PATTERN

if TYPE_CHECKING:
    from app.engines.network_facts import NetworkFacts
    from app.engines.reference_engine import ReferenceEngine

log = logging.getLogger(__name__)

RANDOM_PICTURES = 32
FEW = 4
MOST_ROUNDING = 1e-3
"""How far scores of the same picture may lie apart; of larger scores, this share of the largest."""


def compile_in_process(folder: Path, settings: Settings, only_if_invalid: bool = False) -> CompileReport:
    """Compile one model version in a confined process and read its report.

    With `only_if_invalid`, a valid compiled model stays; another process may have made it meanwhile. Raises
    `FrameworkMissingError`, `SignatureError` for a program that is not trusted, or `CompiledModelError`.
    """
    manifest = read_manifest(folder)
    require_trusted_artifact(ModelFolder(folder), manifest, settings)
    require_framework(manifest.framework)
    with hold_compilation(ModelFolder(folder), COMPILING_PATTERN, settings):
        if not (only_if_invalid and has_valid_report(folder, manifest)):
            run_confined(compile_model, [folder.resolve()], settings, settings.compile_timeout_s)
        report = read_report(folder, manifest)
    if report.note:
        log.info("%s/%s: %s", manifest.name, manifest.version, report.note)
    return report


def has_valid_report(folder: Path, manifest: ModelManifest) -> bool:
    """Whether the folder's compiled model can be served as it is."""
    try:
        read_report(folder, manifest)
    except CompiledModelError:
        return False
    return True


def hold_in_process(folder: Path, settings: Settings) -> None:
    """Hold a version's manifest against its network, in a confined process, unless its report says that this was done.

    Raises `FrameworkMissingError`, `SignatureError` for a program that is not trusted, or `CompiledModelError`.
    """
    manifest = read_manifest(folder)
    if not runs_natively(manifest) and read_report(folder, manifest).held_sha256 == manifest.held_sha256:
        return
    require_trusted_artifact(ModelFolder(folder), manifest, settings)
    require_framework(manifest.framework)
    run_confined(hold_model, [folder.resolve()], settings, settings.compile_timeout_s)


def compile_model(folder: Path | str) -> CompileReport:
    """Compile one model version in this process into its `compiled/`. Raises `ModelFolderError` or `RequestError`."""
    with open_reference(Path(folder)) as reference:
        return write_compiled(reference, Path(folder))


def hold_model(folder: Path | str) -> None:
    """Hold one version's manifest against its network in this process; raises as `compile_model`."""
    with open_reference(Path(folder)):
        pass


@contextmanager
def open_reference(path: Path) -> Iterator[Reference]:
    """Load a model in its framework, hold its manifest against it, and give it as a reference."""
    manifest = read_manifest(path)
    ModelFolder(path).verify_artifact(manifest)
    require_framework(manifest.framework)
    engine = build_reference(manifest.framework, path, manifest)
    engine.load()
    try:
        pictures = make_comparison_batch(manifest, path)
        scores = infer(engine, pictures, manifest)
        check_numbers(scores)  # before they are compared
        check_repeats(engine, pictures, scores)
        hold_manifest(manifest, read_facts(engine, manifest), scores)
        yield Reference(
            manifest,
            engine.to_openvino,
            pictures,
            scores,
            title=manifest.framework,
            framework=engine.framework,
            note=engine.note,
            held_sha256=manifest.held_sha256,
        )
    finally:
        engine.close()


def infer(engine: "ReferenceEngine", pictures: InputBatch, manifest: ModelManifest) -> Scores:
    """Show pictures to a framework's network; raises `CompiledModelError` with the framework's reason if it fails."""
    try:
        return engine.infer(pictures)
    except InferenceError as error:
        spec = manifest.input
        raise CompiledModelError(
            f"the network fails on pictures with width_px = {spec.width_px} and height_px = {spec.height_px} in R, G "
            f"and B, as [input] says; it wants others: {find_reason(error.__cause__)}"
        ) from error


def find_reason(error: BaseException | None) -> str:
    """Return the line of a framework's error that says why; TorchScript writes its own lines before."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1 if "TorchScript" in lines[0] else 0] if lines else type(error).__name__


def read_facts(engine: "ReferenceEngine", manifest: ModelManifest) -> "NetworkFacts | None":
    """Read what a network says; None for a native model that OpenVINO cannot read."""
    try:
        return engine.read_facts()
    except CompiledModelError:
        if runs_natively(manifest):
            return None
        raise


def check_repeats(engine: "ReferenceEngine", pictures: InputBatch, scores: Scores) -> None:
    """Raise `CompiledModelError` if scores are random, or depend on the other pictures of a batch."""
    few = pictures[:FEW]
    first, second = engine.infer(few), engine.infer(few)
    slack = MOST_ROUNDING * max(1.0, float(np.abs(scores).max()))
    for other, reason in ((second, "change from call to call"), (scores[:FEW], "depend on the other pictures")):
        if first.shape != other.shape or not np.allclose(first, other, rtol=0, atol=slack, equal_nan=True):
            raise CompiledModelError(
                f"the network's scores {reason}: it was saved in train mode, with Dropout or batch normalization at "
                "work, or it quantizes each batch anew; call network.eval() before you trace or export it (in Keras: "
                "training=False), and export it in float32"
            )


def make_comparison_batch(manifest: ModelManifest, folder: Path) -> InputBatch:
    """Seeded random pictures and the model's examples: uint8, [N, height, width, 3]."""
    spec = manifest.input
    drawn = draw_pictures([(spec.width_px, spec.height_px)] * RANDOM_PICTURES)
    examples = ModelFolder(folder).read_examples().values()
    return np.stack([*drawn, *(read_picture(example, spec) for example in examples)])
