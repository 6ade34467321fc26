"""The manifest of an archive that is compiled: what its default handler does, in the words of `model.toml`."""

import hashlib
from collections.abc import Sequence

from app.engines.compile_report import hash_files
from app.handlers.handler_archive import HandlerArchive
from app.manifest.model_manifest import INTENDED_USE, UNKNOWN_LICENCE, ModelManifest
from app.manifest.model_specs import Artifact, BatchSpec, InputSpec, OutputSpec

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
CACHE_FOLDER = "__pycache__"
"""What Python writes beside the modules of an archive whose handler runs."""
ALL_FILES = "all files of the archive"


def hash_archive(archive: HandlerArchive) -> str:
    """SHA-256 of the names and contents of an archive's files, in hex, without what we or Python wrote since."""
    digest = hashlib.sha256()
    for path in sorted(archive.path.rglob("*")):
        name = path.relative_to(archive.path)
        if path.is_file() and not name.parts[0].startswith(".") and CACHE_FOLDER not in name.parts:
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
        artifact=Artifact(ALL_FILES, sha256, None),
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
