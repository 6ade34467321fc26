"""Takes a model that somebody brings into the model repository, after everything that can be known of it holds.

The way: quarantine, unpack, manifest, files, signature, compile, examples, then one rename. What fails leaves nothing.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from app.compiling.folder_compiler import compile_in_process
from app.config.settings import MIB, Settings
from app.engines.base import Engine, build_engine
from app.engines.compile_report import COMPILED_FOLDER
from app.engines.int8_report import INT8_FOLDER
from app.engines.process_engine import ProcessEngine, runs_natively
from app.errors import (
    AnsweredError,
    CompiledModelError,
    DiskFullError,
    IntegrityError,
    ModelExistsError,
    ModelFileError,
    ModelFormatError,
)
from app.exchange.archive_signing import bring_signature
from app.exchange.model_format import ModelFormat, Trust, identify
from app.exchange.quarantine import Quarantine
from app.exchange.unpacking import ArchiveLimits, unpack, verify_zip
from app.handlers.handler_archive import read_archive
from app.manifest.artifact import FILE_PATTERN, FRAMEWORKS
from app.manifest.model_manifest import MANIFEST_FILE, ModelManifest, parse_manifest, read_document
from app.pipeline.postprocess import check_scores, to_probabilities
from app.repository.artifact_files import hash_artifact, list_artifact, list_companions
from app.repository.model_check import EXPECTED_FILE, check_folder, read_expected
from app.repository.model_folder import EXAMPLES_FOLDER, ModelFolder
from app.repository.signing import SIGNATURE_FILE
from app.repository.trust import require_trust, verify_trusted

UNPACKED_FACTOR = 4
WEIGHTS = (ModelFormat.KERAS, ModelFormat.HDF5, ModelFormat.SAFETENSORS, ModelFormat.STATE_DICT)
PROGRAMS = (ModelFormat.TORCHSCRIPT, ModelFormat.PT2, ModelFormat.ONNX, ModelFormat.SAVED_MODEL)
UNPACKABLE = (ModelFormat.FOLDER, ModelFormat.PACKED, ModelFormat.ARCHIVE, ModelFormat.UNKNOWN)
"""What is unpacked, or refused by `unpack` with a better reason than that its kind is unknown."""
ARTIFACT_FORMATS = {
    ("torch", ".safetensors"): ModelFormat.SAFETENSORS,
    ("torch", ".pt"): ModelFormat.STATE_DICT,
    ("torch", ".pth"): ModelFormat.STATE_DICT,
    ("keras", ".keras"): ModelFormat.KERAS,
    ("keras", ".h5"): ModelFormat.HDF5,
    ("torchscript", ".pt"): ModelFormat.TORCHSCRIPT,
    ("torchscript", ".pth"): ModelFormat.TORCHSCRIPT,
    ("torchscript", ".torchscript"): ModelFormat.TORCHSCRIPT,
    ("torch_export", ".pt2"): ModelFormat.PT2,
    ("onnx", ".onnx"): ModelFormat.ONNX,
    ("saved_model", ".savedmodel"): ModelFormat.SAVED_MODEL,
}
"""What an artifact must be that the manifest calls so."""
OTHER_FILES = re.compile(
    rf"{re.escape(MANIFEST_FILE)}|{re.escape(SIGNATURE_FILE)}|[A-Za-z0-9_-]+\.(md|txt)|LICEN[CS]E"
    rf"|{EXAMPLES_FOLDER}/({re.escape(EXPECTED_FILE)}|[A-Za-z0-9._-]+\.(png|jpg))|({COMPILED_FOLDER}|{INT8_FOLDER})/[a-z0-9._-]+\.(xml|bin|json)"
)
"""What a model folder may hold beside its artifact."""
ARTIFACT_TABLE = re.compile(r"^[ \t]*\[[ \t]*artifact[ \t]*\][ \t]*(#.*)?$", re.MULTILINE)
FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_IS_FULL = "The disk is full; nothing was added."


def add_model(source: Path, settings: Settings, manifest: Path | None = None) -> ModelFolder:
    """Add a model version to the model repository.

    Args:
        source: an archive that `pack_model` wrote, a folder that holds a `model.toml`, or the artifact alone: a file,
            or the folder of a SavedModel. It is what its content says, whatever its name.
        settings: the model repository, limits, whether programs are run, and how models are compiled.
        manifest: the `model.toml` of an artifact alone; its `sha256` may be left out.

    Returns:
        The folder in the model repository.

    Raises:
        ModelFolderError: it is not taken, for the reason that the message says; nothing of it is left. Of its kinds,
            `ModelExistsError` says that the model itself is not at fault.
        DiskFullError: there is no space left for it.
    """
    with explain_failures(settings), Quarantine(settings.models) as quarantine:
        limits = ArchiveLimits(bytes=UNPACKED_FACTOR * settings.max_model_bytes)
        folder = bring_in(source, manifest, quarantine.path, settings, limits)
        if (settings.models / folder.name / folder.version).exists():
            raise ModelExistsError(f"{folder.name}/{folder.version} exists already")
        admit(folder, settings, limits)
        return quarantine.publish(folder)


@contextmanager
def open_source(source: Path, settings: Settings, manifest: Path | None = None) -> Iterator[Path]:
    """Have what somebody brings as a folder for a while: unpacked, and checked in all that can be known of it.

    Args:
        source: what `add_model` takes, or an archive of TorchServe's, whose program is neither loaded nor vouched for.
        settings: as for `add_model`.
        manifest: as for `add_model`.

    Raises:
        ModelFolderError, DiskFullError: as `add_model`, but that the version may exist.
    """
    with explain_failures(settings), Quarantine(settings.models) as quarantine:
        limits = ArchiveLimits(bytes=UNPACKED_FACTOR * settings.max_model_bytes)
        if manifest is None and identify(source) is ModelFormat.MAR:
            unpacked = unpack(source, quarantine.path / "unpacked", limits)
            bring_signature(source, unpacked)
            model = read_archive(unpacked, "", "").manifest["model"]
            require_trust(unpacked, str(model["modelName"]), str(model["modelVersion"]), settings)
            yield unpacked
        else:
            folder = bring_in(source, manifest, quarantine.path, settings, limits)
            admit(folder, settings, limits)
            yield folder.path


@contextmanager
def explain_failures(settings: Settings) -> Iterator[None]:
    """Turn the system's errors into reasons, and tell a full disk from all others."""
    try:
        yield
    except CompiledModelError as error:
        if settings.models.is_dir() and shutil.disk_usage(settings.models).free < MIB:
            raise DiskFullError(DISK_IS_FULL) from error
        raise
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(DISK_IS_FULL) from error
        raise ModelFileError(f"the model cannot be read or written: {error.strerror}") from error


def bring_in(
    source: Path, manifest: Path | None, quarantine: Path, settings: Settings, limits: ArchiveLimits
) -> ModelFolder:
    """Bring the source into the quarantine as `<name>/<version>`."""
    kind = identify(source)
    if source.is_file() and source.stat().st_size > settings.max_model_bytes:
        raise ModelFormatError(f"{source.name} is larger than the {settings.max_model_bytes} bytes that are allowed")
    unpacked = quarantine / "unpacked"
    if kind in WEIGHTS or (kind in PROGRAMS and settings.programs == "all"):
        root = lay_out(source, manifest, unpacked, limits)
    elif kind not in UNPACKABLE:
        raise refuse(source.name, kind)
    elif manifest is not None and kind in (ModelFormat.FOLDER, ModelFormat.PACKED):
        raise ModelFormatError(f"{source.name} is {kind.title} and has a manifest of its own; name none beside it")
    else:
        root = unpack(source, unpacked, limits)
    fill_in_sha256(root)
    parsed = parse_manifest(read_document(root / MANIFEST_FILE))
    folder = quarantine / "model" / parsed.name / parsed.version
    folder.parent.mkdir(parents=True)
    return ModelFolder(root.rename(folder))


def refuse(name: str, kind: ModelFormat) -> ModelFormatError:
    """Make the error that says why a kind is not taken."""
    reason = f"{name} is {kind.title}, which is not taken"
    if kind.trust is Trust.DATA:
        return ModelFormatError(f"{reason}; convert it to .keras or .safetensors")
    if kind in PROGRAMS:
        return ModelFormatError(f"{reason}: loading it can run code; SCANCER_PROGRAMS=all trusts every program")
    return ModelFormatError(f"{reason}: loading it can run code")


def lay_out(source: Path, manifest: Path | None, target: Path, limits: ArchiveLimits) -> Path:
    """Make a model folder of an artifact and its manifest."""
    if manifest is None:
        raise ModelFormatError(f"{source.name} comes without a manifest; name one")
    document = read_document(manifest)
    artifact, framework = document.get("artifact"), document.get("framework")
    name = artifact.get("file") if isinstance(artifact, dict) else None
    if not isinstance(name, str) or not FILE_PATTERN.fullmatch(name):
        name = "model"  # parse_manifest will say what is wrong
    target.mkdir()
    shutil.copyfile(manifest, target / MANIFEST_FILE)
    if source.is_dir():
        unpack(source, target / name, limits)
        return target
    shutil.copyfile(source, target / name)
    for companion in list_companions(source, framework) if framework in FRAMEWORKS else ():
        if source.name != name:  # inside the one file stands the name of the other
            raise ModelFormatError(f"{source.name} has its weights in {companion.name}: artifact.file must be its name")
        shutil.copyfile(companion, target / companion.name)
    return target


def fill_in_sha256(folder: Path) -> None:
    """Add the artifact's SHA-256 to a manifest that leaves it out; any other fault is left to `parse_manifest`."""
    path = folder / MANIFEST_FILE
    document = read_document(path)
    artifact, framework = document.get("artifact"), document.get("framework")
    if not isinstance(artifact, dict) or "sha256" in artifact or framework not in FRAMEWORKS:
        return
    name = artifact.get("file")
    if isinstance(name, str) and FILE_PATTERN.fullmatch(name) and (folder / name).exists():
        line = f'\nsha256 = "{hash_artifact(folder / name, framework)}"'
        text = path.read_text(encoding="utf-8")
        path.write_text(ARTIFACT_TABLE.sub(lambda found: found[0] + line, text, count=1), encoding="utf-8")


def admit(folder: ModelFolder, settings: Settings, limits: ArchiveLimits) -> None:
    """Check everything about a model folder, and compile it; raises `ModelFolderError` with the first fault."""
    manifest = folder.read_manifest()
    folder.verify_artifact(manifest)
    check_files(folder, manifest)
    check_artifact(folder, manifest, limits)
    signer = verify_trusted(folder, manifest, settings)
    if (folder.path / EXAMPLES_FOLDER).is_dir():
        read_expected(folder)  # now: compiling takes seconds
    if signer is None:
        # Whoever made a compiled model can have made it anything: unsigned, it is made anew from the artifact.
        for made in (COMPILED_FOLDER, INT8_FOLDER):
            shutil.rmtree(folder.path / made, ignore_errors=True)
        if not runs_natively(manifest):
            compile_in_process(folder.path, settings)
    elif not runs_natively(manifest):
        folder.read_report(manifest)
    try_out(folder, manifest, settings)


def check_files(folder: ModelFolder, manifest: ModelManifest) -> None:
    """Refuse a folder that holds more than a model."""
    artifact = list_artifact(folder.path / manifest.artifact.file, manifest.framework)
    for path in sorted(folder.path.rglob("*")):
        name = path.relative_to(folder.path).as_posix()
        if path.is_file() and path not in artifact and not OTHER_FILES.fullmatch(name):
            raise ModelFormatError(f"{name} is no part of a model folder")


def check_artifact(folder: ModelFolder, manifest: ModelManifest, limits: ArchiveLimits) -> None:
    """Refuse an artifact that is not what its name says, which the loaders go by."""
    path = folder.path / manifest.artifact.file
    kind = identify(path)
    wanted = ARTIFACT_FORMATS[manifest.framework, path.suffix]
    if kind is not wanted:
        if kind in (*WEIGHTS, *PROGRAMS):
            rule = f'by its name, and framework = "{manifest.framework}", it should be {wanted.title}'
            raise ModelFormatError(f"{path.name} is {kind.title}; {rule}")
        if kind in UNPACKABLE:
            raise ModelFormatError(f"{path.name} is {kind.title} or damaged; {wanted.title} is wanted")
        raise refuse(path.name, kind)
    if kind is ModelFormat.KERAS:
        verify_zip(path, limits)


def try_out(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> None:
    """Compare the examples with their expected scores, or, where there are none, see that the model answers at all."""
    if (folder.path / EXAMPLES_FOLDER).is_dir():
        check_folder(folder, settings)
        return
    if runs_natively(manifest):
        engine: Engine = ProcessEngine(folder.path, manifest, settings)
    else:
        engine = build_engine("openvino", folder.path, manifest, settings.inference_threads)
    try:
        engine.load()
        grey = np.full((1, manifest.input.height_px, manifest.input.width_px, 3), 128, np.uint8)
        scores = engine.infer(grey)
        check_scores(scores, manifest.output)
        to_probabilities(scores, manifest.output)
    except AnsweredError as error:
        raise IntegrityError(f"the model does not answer: {error.message}") from error
    finally:
        engine.close()
