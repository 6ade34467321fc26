"""Compiles archives of TorchServe's default classifier: the reference is its handler, which runs the network eagerly.

The archive's `model.py` is a program, so `compile_here` is for a confined process only. The result lies in a hidden
folder, which no archive that is registered brings along.
"""

import hashlib
import io
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from app.arrays import Scores
from app.compiling.compilation import Reference, draw_pictures, hold_compilation, read_picture, split, write_compiled
from app.config.settings import Settings
from app.engines.compiled.compile_report import CompileReport, read_report
from app.engines.conversion import converter_version, require_framework
from app.errors import CompiledModelError, ManifestError, NotCompiledNowError
from app.handlers.handler_archive import HandlerArchive, read_archive, read_json
from app.handlers.worker.default_classifier import DefaultClassifier
from app.manifest.model_manifest import INTENDED_USE, UNKNOWN_LICENCE, ModelManifest
from app.manifest.model_specs import Artifact, BatchSpec, InputSpec, OutputSpec
from app.processes.confined_process import run_confined
from app.processes.plain_files import hash_files
from app.repository.model_folder import ARCHIVE_FOLDER, ModelFolder
from app.repository.staging import COMPILING_PATTERN

FRAMEWORK = "torch"
LABELS_FILE, REFUSAL_FILE = "labels.json", "refusal.json"
MAX_SECONDS = 90
"""A registration waits for two minutes; where this is not enough, the rest is for the handler to start."""
LEAST_PAUSE_S, PAUSE_FACTOR = 60.0, 10
"""A try that another time may help is made again at a load after such a pause, and after so many times its duration."""
SIZES_PX = ((224, 224), (256, 256), (300, 260), (180, 500))
PICTURES_OF_EACH_SIZE = 4
# TorchServe's default handler: torchvision's Resize(256), CenterCrop(224), ToTensor() and Normalize(), with the mean
# and deviation of ImageNet's pictures that torchvision's weights were published with.
INPUT = InputSpec(
    width_px=224,
    height_px=224,
    resize="bilinear",
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
    std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    um_per_px=None,
    short_side_px=256,
    is_turned=False,
)


def compile_archive(
    archive: HandlerArchive, settings: Settings, only_if_invalid: bool = True
) -> tuple[ModelManifest, CompileReport]:
    """Return manifest and report of an archive's compiled model, which is made unless it is there.

    With `only_if_invalid`, a valid compiled model stays, and what failed is not tried again as long as the archive,
    OpenVINO and the limits stay as they were; what failed for want of time, memory or disk is, after a pause. Raises
    `FrameworkMissingError` or `CompiledModelError`.
    """
    sha256 = hash_archive(archive)
    timeout_s = min(settings.compile_timeout_s, MAX_SECONDS, archive.limits.startup_timeout_s)
    attempt = [sha256, converter_version(), timeout_s, settings.model_memory_bytes]
    with hold_compilation(ModelFolder(archive.path), COMPILING_PATTERN, settings):
        if only_if_invalid:
            with suppress(CompiledModelError):
                return read_compiled(archive, sha256)
            check_refusal(archive, attempt)
        require_framework(FRAMEWORK)
        with note_refusal(archive, attempt):
            run_confined(compile_here, [archive.path, archive.name, archive.version, sha256], settings, timeout_s)
            return read_compiled(archive, sha256)


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
        if refusal.get("attempt") == attempt and time.time() < (refusal.get("retry_at") or math.inf):
            raise CompiledModelError(str(refusal.get("reason")))


@contextmanager
def note_refusal(archive: HandlerArchive, attempt: list[object]) -> Iterator[None]:
    """Note an attempt that fails, and when to try again where another time may help.

    Where nothing can be written, the next load tries again.
    """
    began = time.time()
    try:
        yield
    except CompiledModelError as error:
        now, folder = time.time(), archive.path / ARCHIVE_FOLDER
        pause_s = max(LEAST_PAUSE_S, PAUSE_FACTOR * (now - began))
        with suppress(OSError):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            retry_at = now + pause_s if isinstance(error, NotCompiledNowError) else None
            document = {"attempt": attempt, "reason": error.message, "retry_at": retry_at}
            (folder / REFUSAL_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        raise


def compile_here(path: str, name: str, version: str, sha256: str) -> None:
    """Compile an archive, whose files have this SHA-256, into its `.compiled/`; what its program raises passes."""
    from app.engines.pytorch.torch_engine import (
        convert_network,  # before the archive's modules can take the place of others
    )

    archive = read_archive(Path(path), name, version)
    files = [*make_pictures(), *ModelFolder(archive.path).read_examples().values()]
    classifier = DefaultClassifier(archive)
    scores = np.concatenate([to_scores(classifier.infer(files[rows]), len(files[rows])) for rows in split(len(files))])
    labels = classifier.name_classes(scores.shape[1])
    reference = Reference(
        manifest=make_manifest(archive, labels, sha256),
        to_openvino=lambda: convert_network(classifier.network, INPUT),
        pictures=np.stack([read_picture(file, INPUT) for file in files]),
        scores=scores,
        title="its handler",
        framework=classifier.framework,
        compiled=ARCHIVE_FOLDER,
        files={LABELS_FILE: json.dumps({"labels": labels}) + "\n"},
    )
    write_compiled(reference, archive.path)


def to_scores(found: object, count: int) -> Scores:
    """Take what a model returned for `count` pictures as scores; raises `CompiledModelError` if it is anything else."""
    scores = np.asarray(found)
    if scores.ndim != 2 or len(scores) != count or not scores.shape[1] or scores.dtype != np.float32:
        raise CompiledModelError("the model does not return a row of float32 scores for each picture")
    return scores


def make_pictures() -> list[bytes]:
    """Seeded random pictures of several sizes as PNG files."""
    pictures = []
    for pixels in draw_pictures(size_px for size_px in SIZES_PX for _ in range(PICTURES_OF_EACH_SIZE)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        pictures.append(buffer.getvalue())
    return pictures


def hash_archive(archive: HandlerArchive) -> str:
    """SHA-256 of the names and contents of an archive's files, in hex, without what we or Python wrote since."""
    digest = hashlib.sha256()
    for path in sorted(archive.path.rglob("*")):
        name = path.relative_to(archive.path)
        if path.is_file() and not name.parts[0].startswith(".") and "__pycache__" not in name.parts:
            digest.update(f"{name.as_posix()}\0{hash_files(path)}\n".encode())
    return digest.hexdigest()


def make_manifest(archive: HandlerArchive, labels: Sequence[str], sha256: str) -> ModelManifest:
    """Make the manifest of an archive; `labels` are its classes in output order, `sha256` is of its files."""
    return ModelManifest(
        name=archive.name,
        version=archive.version,
        title=archive.name,
        description="A model archive of TorchServe's, with its default handler's preprocessing.",
        framework="torch",
        engine="compiled",
        licence=UNKNOWN_LICENCE,
        intended_use=INTENDED_USE,
        artifact=Artifact("all files of the archive", sha256, None),
        input=INPUT,
        output=OutputSpec(tell_apart(labels), "softmax", None, None, None, labels=tuple(labels)),
        metrics={},
        batch=make_batch(archive),
    )


def make_batch(archive: HandlerArchive) -> BatchSpec:
    """How pictures are batched: as the archive's configuration says, else as our own models are."""
    default, limits = BatchSpec(), archive.limits
    return BatchSpec(
        limits.batch_size if "batchSize" in archive.config else default.max_size,
        float(limits.max_batch_delay_ms) if "maxBatchDelay" in archive.config else default.max_delay_ms,
    )


def tell_apart(labels: Sequence[str]) -> tuple[str, ...]:
    """Make labels into names of classes; a repeated one gets its index. ImageNet has two cranes: bird and machine."""
    names: dict[str, None] = {}
    for index, label in enumerate(labels):
        name = label
        while name in names:
            name = f"{name} ({index})"
        names[name] = None
    return tuple(names)
