"""The slow road, in a process of its own: artifact -> framework -> compiled model, compared and reported.

`main` compiles one version, or prints the reason on stderr and ends with 1. Callers use `compile_in_process`, which has
it run in a confined process, so that no framework is ever imported where requests are served.
"""

import os
import sys
from pathlib import Path

import numpy as np

from app.arrays import InputBatch, Probabilities
from app.config.settings import Settings
from app.engines.base import Engine, build_engine
from app.engines.compile_report import (
    COMPILED_FOLDER,
    IR_FILE,
    TOLERANCE,
    WEIGHTS_FILE,
    CompileReport,
    hash_files,
    read_report,
)
from app.engines.conversion import ConvertibleEngine, converter_version, require_framework, write_ir
from app.errors import CompiledModelError, ScancerError
from app.manifest.model_manifest import ModelManifest, read_manifest
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import check_scores, to_probabilities
from app.pipeline.preprocess import preprocess
from app.processes.confined_process import run_confined
from app.processes.locks import hold_lock
from app.repository.model_folder import EXAMPLES_FOLDER, ModelFolder
from app.repository.staging import COMPILING_PATTERN, stage, sweep_staging
from app.repository.trust import require_trusted_artifact

RANDOM_IMAGES = 32
RANDOM_SEED = 0
GRAIN_PX = 8
EXAMPLE_LIMITS = ImageLimits(max_pixels=25_000_000)


def compile_in_process(folder: Path, settings: Settings, only_if_invalid: bool = False) -> CompileReport:
    """Compile one model version in a new process and read its report.

    Args:
        folder: of the version.
        settings: instance folder, for the lock that keeps two processes from compiling the same, and limits.
        only_if_invalid: leave a valid compiled model, which another process may have made meanwhile, as it is.

    Raises:
        FrameworkMissingError: the model's framework is not installed here.
        SignatureError: the artifact is a program that is not trusted.
        CompiledModelError: the conversion failed, took too long, or strays too far from the framework.
    """
    manifest = read_manifest(folder)
    require_trusted_artifact(ModelFolder(folder), manifest, settings)
    require_framework(manifest)
    with hold_lock(settings.instance / f"compile-{manifest.name}-{manifest.version}.lock"):
        if only_if_invalid and has_valid_report(folder, manifest):
            return read_report(folder, manifest)
        sweep_staging(folder, COMPILING_PATTERN)
        run_confined("app.compiling.folder_compiler", [str(folder.resolve())], settings, settings.compile_timeout_s)
        return read_report(folder, manifest)


def has_valid_report(folder: Path, manifest: ModelManifest) -> bool:
    """Whether the folder's compiled model can be served as it is."""
    try:
        read_report(folder, manifest)
    except CompiledModelError:
        return False
    return True


def compile_model(folder: Path) -> CompileReport:
    """Compile one model version in this process, compare it, and put the result into its `compiled/`.

    Raises:
        ModelFolderError: the folder cannot be read or written, or the compiled model strays from the framework.
    """
    manifest = read_manifest(folder)
    ModelFolder(folder).verify_artifact(manifest)
    require_framework(manifest)
    reference: ConvertibleEngine = build_engine(manifest.framework, folder, manifest, os.cpu_count() or 1)  # type: ignore[assignment]  # the frameworks' own engines all convert
    reference.load()
    try:
        with stage(folder, COMPILING_PATTERN, COMPILED_FOLDER) as staging:
            target = staging / COMPILED_FOLDER
            write_ir(reference, target / IR_FILE)
            batch = make_comparison_batch(manifest, folder)
            difference = compare(reference, staging, manifest, batch)
            report = CompileReport(
                artifact_sha256=manifest.artifact.sha256,
                graph_sha256=manifest.graph_sha256,
                ir_sha256=hash_files(target / IR_FILE, target / WEIGHTS_FILE),
                max_probability_difference=difference,
                tolerance=TOLERANCE,
                images=len(batch),
                framework=reference.describe(),
                converter=converter_version(),
            )
            report.write(target)
    finally:
        reference.close()
    return report


def compare(reference: Engine, staging: Path, manifest: ModelManifest, batch: InputBatch) -> float:
    """Return the largest difference of a probability between the staged compiled model and its framework.

    Raises:
        CompiledModelError: it is more than `TOLERANCE`.
        ManifestError: the scores are not what the manifest says.
    """
    compiled = build_engine("openvino", staging, manifest, os.cpu_count() or 1)
    compiled.load()
    scores = [engine.infer(batch) for engine in (reference, compiled)]
    compiled.close()
    check_scores(scores[0], manifest.output)
    theirs, ours = (to_probabilities(each, manifest.output) for each in scores)
    return check_difference(ours, theirs, manifest.framework)


def check_difference(ours: Probabilities, theirs: Probabilities, reference: str) -> float:
    """Return the largest difference of a probability.

    Raises:
        CompiledModelError: it is more than `TOLERANCE`.
    """
    difference = float(np.abs(ours - theirs).max())
    if difference > TOLERANCE:
        raise CompiledModelError(
            f"the compiled model's probabilities differ from those of {reference} by {difference:.2e}; "
            f"at most {TOLERANCE:.0e} is allowed"
        )
    return difference


def make_comparison_batch(manifest: ModelManifest, folder: Path) -> InputBatch:
    """The model's example pictures and 32 seeded random ones (half noise, half coarse), as uint8 [N, H, W, 3]."""
    spec = manifest.input
    random = np.random.default_rng(RANDOM_SEED)
    noise = random.integers(0, 256, (RANDOM_IMAGES // 2, spec.height_px, spec.width_px, 3), dtype=np.uint8)
    rows, columns = -(-spec.height_px // GRAIN_PX), -(-spec.width_px // GRAIN_PX)
    grains = random.integers(0, 256, (RANDOM_IMAGES // 2, rows, columns, 3), dtype=np.uint8)
    coarse = grains.repeat(GRAIN_PX, axis=1).repeat(GRAIN_PX, axis=2)[:, : spec.height_px, : spec.width_px]
    examples = [
        preprocess(decode((folder / EXAMPLES_FOLDER / name).read_bytes(), EXAMPLE_LIMITS).pixels, spec)[np.newaxis]
        for name in ModelFolder(folder).find_examples()
    ]
    return np.ascontiguousarray(np.concatenate([noise, coarse, *examples]))


def main() -> int:
    """Compile the model folder named on the command line."""
    try:
        report = compile_model(Path(sys.argv[1]))
    except ScancerError as error:  # also of the engines and of example pictures
        print(error.message.replace("\n", " "), file=sys.stderr)
        return 1
    print(f"largest probability difference {report.max_probability_difference:.2e} over {report.images} images")
    return 0
