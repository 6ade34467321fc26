"""Compiles model folders: the reference is the framework's own engine."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.arrays import InputBatch
from app.compiling.compilation import Reference, draw_pictures, hold_compilation, read_picture, write_compiled
from app.config.cpu_count import count_cores
from app.config.settings import Settings
from app.engines.base import build_engine
from app.engines.compile_report import CompileReport, read_report
from app.engines.conversion import require_framework
from app.errors import CompiledModelError
from app.manifest.model_manifest import ModelManifest, read_manifest
from app.pipeline.postprocess import check_scores
from app.processes.confined_process import run_confined
from app.repository.model_folder import ModelFolder
from app.repository.signing import require_trusted_artifact
from app.repository.staging import COMPILING_PATTERN

if TYPE_CHECKING:
    from app.engines.reference_engine import ReferenceEngine

RANDOM_PICTURES = 32


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
        return read_report(folder, manifest)


def has_valid_report(folder: Path, manifest: ModelManifest) -> bool:
    """Whether the folder's compiled model can be served as it is."""
    try:
        read_report(folder, manifest)
    except CompiledModelError:
        return False
    return True


def compile_model(folder: Path | str) -> CompileReport:
    """Compile one model version in this process into its `compiled/`. Raises `ModelFolderError` or `RequestError`."""
    path = Path(folder)
    manifest = read_manifest(path)
    ModelFolder(path).verify_artifact(manifest)
    require_framework(manifest.framework)
    engine: ReferenceEngine = build_engine(manifest.framework, path, manifest, count_cores())  # type: ignore[assignment]  # the frameworks' own engines all convert
    engine.load()
    try:
        pictures = make_comparison_batch(manifest, path)
        scores = engine.infer(pictures)
        check_scores(scores, manifest.output)
        reference = Reference(
            manifest, engine.to_openvino, pictures, scores, title=manifest.framework, framework=engine.framework
        )
        return write_compiled(reference, path)
    finally:
        engine.close()


def make_comparison_batch(manifest: ModelManifest, folder: Path) -> InputBatch:
    """Seeded random pictures and the model's examples: uint8, [N, height, width, 3]."""
    spec = manifest.input
    drawn = draw_pictures([(spec.width_px, spec.height_px)] * RANDOM_PICTURES)
    examples = ModelFolder(folder).read_examples().values()
    return np.stack([*drawn, *(read_picture(example, spec) for example in examples)])
