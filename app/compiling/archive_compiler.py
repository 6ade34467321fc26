"""Compiles archives of TorchServe's default classifier, and finds what was compiled before.

`main` runs the archive's `model.py`, which is a program: in a confined process only. What it writes is compared with
the handler as a whole, from a picture's file to the probabilities. All of it stands in a folder of the archive's whose
name begins with a dot: no archive that is registered brings one along.
"""

import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from app.arrays import Scores
from app.compiling.archive_manifest import hash_archive, make_manifest
from app.compiling.folder_compiler import EXAMPLE_LIMITS, GRAIN_PX, RANDOM_SEED, check_difference
from app.config.settings import Settings
from app.engines.compile_report import IR_FILE, TOLERANCE, WEIGHTS_FILE, CompileReport, hash_files, read_report
from app.engines.conversion import converter_version, require_framework
from app.engines.openvino_engine import OpenVINOEngine
from app.errors import CompiledModelError, ManifestError, ScancerError
from app.handlers.handler_archive import HandlerArchive, read_archive, read_json
from app.handlers.worker.default_classifier import DefaultClassifier
from app.manifest.model_manifest import ModelManifest
from app.pipeline.decoding.decode import decode
from app.pipeline.postprocess import to_probabilities
from app.pipeline.preprocess import preprocess
from app.processes.confined_process import run_confined
from app.processes.locks import hold_lock
from app.repository.model_folder import ARCHIVE_FOLDER, EXAMPLES_FOLDER, ModelFolder
from app.repository.staging import COMPILING_PATTERN, stage, sweep_staging

LABELS_FILE, REFUSAL_FILE = "labels.json", "refusal.json"
MAX_SECONDS = 90
"""A registration waits for two minutes; where this is not enough, the rest is for the handler to start."""
SIZES = ((224, 224), (256, 256), (300, 260), (180, 500))
PICTURES_OF_EACH_SIZE = 4
BATCH = 8


def compile_archive(archive: HandlerArchive, settings: Settings) -> tuple[ModelManifest, CompileReport]:
    """Return manifest and report of an archive's compiled model, which is made unless it is there.

    An archive that could not be compiled is not tried again as long as it, OpenVINO and the limits stay as they are.

    Args:
        archive: names the default classifier; see `find_obstacle`.
        settings: instance folder, for the lock that keeps two processes from compiling the same, and limits.

    Raises:
        FrameworkMissingError: PyTorch is not installed here.
        CompiledModelError: the conversion failed, took too long, or strays too far from the handler.
    """
    sha256 = hash_archive(archive)
    timeout_s = min(settings.compile_timeout_s, MAX_SECONDS)
    attempt = [sha256, converter_version(), timeout_s, settings.model_memory_bytes]
    with hold_lock(settings.instance / f"compile-{archive.name}-{archive.version}.lock"):
        with suppress(CompiledModelError):
            return read_compiled(archive, sha256)
        check_refusal(archive, attempt)
        require_framework(make_manifest(archive, (), sha256))
        sweep_staging(archive.path, COMPILING_PATTERN)
        try:
            arguments = [str(archive.path), archive.name, archive.version, sha256]
            run_confined("app.compiling.archive_compiler", arguments, settings, timeout_s)
            return read_compiled(archive, sha256)
        except CompiledModelError as error:
            write_refusal(archive, attempt, error.message)
            raise


def read_compiled(archive: HandlerArchive, sha256: str) -> tuple[ModelManifest, CompileReport]:
    """Read what was compiled; raises `CompiledModelError` unless it was made of these very files."""
    try:
        labels = read_json(archive.path / ARCHIVE_FOLDER / LABELS_FILE)["labels"]
    except (ManifestError, KeyError) as error:
        raise CompiledModelError("the archive is not compiled") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CompiledModelError(f"{LABELS_FILE} must hold a list of texts")
    manifest = make_manifest(archive, labels, sha256)
    return manifest, read_report(archive.path, manifest, ARCHIVE_FOLDER)


def check_refusal(archive: HandlerArchive, attempt: list[object]) -> None:
    """Raise `CompiledModelError` with its reason if the same attempt failed before."""
    with suppress(ManifestError):  # there was none
        refusal = read_json(archive.path / ARCHIVE_FOLDER / REFUSAL_FILE)
        if refusal.get("attempt") == attempt:
            raise CompiledModelError(str(refusal.get("reason")))


def write_refusal(archive: HandlerArchive, attempt: list[object], reason: str) -> None:
    """Note that an attempt failed; where the folder is gone or the disk is full, it is made once more some day."""
    folder = archive.path / ARCHIVE_FOLDER
    with suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        document = {"attempt": attempt, "reason": reason}
        (folder / REFUSAL_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def compile_here(archive: HandlerArchive, sha256: str) -> None:
    """Compile an archive in this process, compare it with its handler, and write the result.

    Raises:
        CompiledModelError: the scores differ, or are none.
        Exception: whatever the archive's program, PyTorch or OpenVINO raise.
    """
    from app.engines.pytorch.archive_network import (
        write_network,  # before the archive's modules can take the place of others
    )

    pictures = [*make_pictures(), *read_examples(archive.path)]
    batches = [pictures[:1], *(pictures[start : start + BATCH] for start in range(1, len(pictures), BATCH))]
    classifier = DefaultClassifier(archive)
    expected = [to_scores(classifier.infer(batch), len(batch)) for batch in batches]
    labels = classifier.name_classes(expected[0].shape[1])
    manifest = make_manifest(archive, labels, sha256)
    with stage(archive.path, COMPILING_PATTERN, ARCHIVE_FOLDER) as staging:
        target = staging / ARCHIVE_FOLDER
        write_network(classifier.network, manifest.input, target / IR_FILE)
        found = infer_compiled(staging, manifest, batches)
        theirs = to_probabilities(np.concatenate(expected), manifest.output)
        difference = check_difference(to_probabilities(found, manifest.output), theirs, "its handler")
        write_report(target, manifest, difference, len(pictures), classifier.framework)
        (target / LABELS_FILE).write_text(json.dumps({"labels": labels}) + "\n", encoding="utf-8")


def to_scores(found: object, count: int) -> Scores:
    """Take what a model returned for `count` pictures as scores; raises `CompiledModelError` if it is anything else."""
    scores = np.asarray(found)
    if scores.ndim != 2 or len(scores) != count or not scores.shape[1] or scores.dtype != np.float32:
        raise CompiledModelError("the model does not return a row of float32 scores for each picture")
    return scores


def infer_compiled(staging: Path, manifest: ModelManifest, batches: Sequence[Sequence[bytes]]) -> Scores:
    """Decode, preprocess and infer as requests are answered."""
    engine = OpenVINOEngine(staging, manifest, os.cpu_count() or 1, ARCHIVE_FOLDER)
    engine.load()
    spec = manifest.input
    scores = []
    for batch in batches:
        decoded = (decode(picture, EXAMPLE_LIMITS, is_turned=spec.is_turned) for picture in batch)
        scores.append(engine.infer(np.stack([preprocess(each.pixels, spec) for each in decoded])))
    engine.close()
    return np.concatenate(scores)


def write_report(target: Path, manifest: ModelManifest, difference: float, pictures: int, framework: str) -> None:
    """Write the report of a compiled model that was compared."""
    CompileReport(
        artifact_sha256=manifest.artifact.sha256,
        graph_sha256=manifest.graph_sha256,
        ir_sha256=hash_files(target / IR_FILE, target / WEIGHTS_FILE),
        max_probability_difference=difference,
        tolerance=TOLERANCE,
        images=pictures,
        framework=framework,
        converter=converter_version(),
    ).write(target)


def make_pictures() -> list[bytes]:
    """Seeded random pictures of several sizes as PNG files: half noise, half coarse."""
    random = np.random.default_rng(RANDOM_SEED)
    pictures = []
    for width, height in SIZES:
        for number in range(PICTURES_OF_EACH_SIZE):
            grain = GRAIN_PX if number % 2 else 1
            pixels = random.integers(0, 256, (-(-height // grain), -(-width // grain), 3), dtype=np.uint8)
            pixels = pixels.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
            pictures.append(buffer.getvalue())
    return pictures


def read_examples(path: Path) -> list[bytes]:
    """The example pictures that an archive brings along."""
    return [(path / EXAMPLES_FOLDER / name).read_bytes() for name in ModelFolder(path).find_examples()]


def main() -> int:
    """Compile the archive that the command line names: its folder, name and version, and the SHA-256 of its files."""
    path, name, version, sha256 = sys.argv[1:]
    sys.dont_write_bytecode = True  # the archive's folder stays as it came
    try:
        compile_here(read_archive(Path(path), name, version), sha256)
    except Exception as error:  # noqa: BLE001  # whatever the archive's program raises is the reason
        reason = error.message if isinstance(error, ScancerError) else f"{type(error).__name__}: {error}"
        print(reason.replace("\n", " "), file=sys.stderr)
        return 1
    return 0
