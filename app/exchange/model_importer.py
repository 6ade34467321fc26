"""Brings a model into quarantine, and adds an admitted one to the model repository.

The steps: receive, unpack, manifest, files, signature, compile, examples, then one rename. A failure leaves nothing.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.compiling.proposal import propose_manifest
from app.config.settings import Settings
from app.errors import ManifestError, ModelExistsError, ModelFormatError
from app.exchange.admission import ARTIFACTS, UNPACKABLE, admit, find_framework, refuse
from app.exchange.archive_signing import bring_signature
from app.exchange.model_format import ModelFormat, Trust, identify
from app.exchange.quarantine import Arrival, Quarantine, use_quarantine
from app.exchange.unpacking import ArchiveLimits, find_limits, unpack, verify_zip
from app.handlers.handler_archive import ARCHIVE_NAME_PATTERN, change_handler, is_archive, read_archive
from app.manifest.model_manifest import (
    FILE_PATTERN,
    MANIFEST_FILE,
    MAX_NAME_LENGTH,
    MODEL_NAME_PATTERN,
    VERSION_PATTERN,
    parse_manifest,
    read_document,
)
from app.manifest.model_specs import FRAMEWORKS
from app.processes.atomic import synchronize_tree
from app.repository.model_content import copy_content, hash_artifact, list_companions
from app.repository.model_folder import ModelFolder
from app.repository.signing import SIGNATURE_FILE, require_trusted_artifact

ARTIFACT_TABLE = re.compile(r"^[ \t]*\[[ \t]*artifact[ \t]*\][ \t]*(#.*)?$", re.MULTILINE)
NAME_LINE = re.compile(r"^name[ \t]*=.*$", re.MULTILINE)
UNPACKED = "unpacked"


def add_model(
    source: Path, settings: Settings, manifest: Path | None = None, own: Quarantine | None = None
) -> ModelFolder:
    """Add a model version to the model repository; return its folder there.

    Args:
        source: an archive that `pack_model` wrote, a folder that holds a `model.toml`, or the artifact alone: a file,
            or the folder of a SavedModel. The content decides, not the name.
        settings: the model repository, limits, and which programs are run.
        manifest: the `model.toml` of an artifact alone; its `sha256` may be left out.
        own: the quarantine that the source lies in; None: a new one is used.

    Raises `ModelFolderError` with the reason, `ModelExistsError` or `DiskFullError`; nothing of the model is left then.
    """
    with use_quarantine(settings.models, own) as quarantine:
        arrival = bring_in(source, manifest, quarantine, settings)
        if settings.models.joinpath(*arrival.key).exists():
            place = settings.models.joinpath(*arrival.key)
            raise ModelExistsError(
                f"{'/'.join(arrival.key)} exists already: give the new model another version; "
                f"'flask models add {place}' serves a removed one again"
            )
        admit(arrival, settings)
        synchronize_tree(arrival.folder.path.parent)
        return quarantine.publish(arrival.folder)


def bring(
    source: Path,
    manifest: Path | None,
    quarantine: Quarantine,
    settings: Settings,
    name: str | None,
    handler: str | None = None,
) -> Arrival:
    """Bring a model that is to be registered into quarantine; raises `ModelFolderError` or `OSError`.

    The source is what `add_model` takes, an archive with a program of its own, or a folder of `SCANCER_STORE`. An
    archive gets `name` and `handler` here. Any other model has no handler. It gets its name by `rename`, since its
    signature is of its own name.
    """
    root = quarantine.path / UNPACKED
    if source.is_dir() and is_archive(source):
        copy_content(source, root)
        return bring_archive(root, quarantine, name, handler)
    if source.is_file() and manifest is None and identify(source) is ModelFormat.MAR:
        unpacked = unpack(source, root, find_limits(settings))
        bring_signature(source, unpacked)
        return bring_archive(unpacked, quarantine, name, handler)
    if handler is not None:
        raise ManifestError("handler is a parameter for TorchServe's archives alone, and this model is none")
    check_name(name)
    return bring_folder(source, quarantine) if source.is_dir() else bring_in(source, manifest, quarantine, settings)


def bring_folder(source: Path, quarantine: Quarantine) -> Arrival:
    """Copy a model folder of `SCANCER_STORE`; raises as `bring`."""
    root = quarantine.path / UNPACKED
    if not (source / MANIFEST_FILE).is_file():
        raise ModelFormatError(f"{source.name} is not a model folder: it has no {MANIFEST_FILE}")
    copy_content(source, root)
    parsed = parse_manifest(read_document(root / MANIFEST_FILE))
    return Arrival(quarantine.place(root, parsed.name, parsed.version), parsed, is_from_store=True)


def bring_archive(root: Path, quarantine: Quarantine, name: str | None, handler: str | None) -> Arrival:
    """Take an unpacked archive that has a program of its own; raises as `bring`."""
    if handler is not None:
        if (root / SIGNATURE_FILE).exists():
            raise ManifestError("the archive is signed together with its handler; leave the parameter handler out")
        change_handler(root, handler)
    archive = read_archive(root, "", "")
    name, version = name or archive.manifest["model"]["modelName"], str(archive.manifest["model"]["modelVersion"])
    if not ARCHIVE_NAME_PATTERN.fullmatch(name) or not VERSION_PATTERN.fullmatch(version):
        raise ManifestError("a model's name and version are letters, digits, dots, dashes and underscores")
    folder = quarantine.place(root, name, version)
    return Arrival(folder, replace(archive, path=folder.path.resolve(), name=name, version=version))


def bring_in(source: Path, manifest: Path | None, quarantine: Quarantine, settings: Settings) -> Arrival:
    """Bring what `add_model` takes into quarantine; raises as `bring`."""
    kind, limits = identify(source), find_limits(settings)
    check_source(source, kind, settings)
    unpacked = quarantine.path / UNPACKED
    if is_taken(kind, settings):
        root = lay_out(source, manifest, unpacked, limits)
    elif manifest is not None and kind in (ModelFormat.FOLDER, ModelFormat.PACKED):
        raise ModelFormatError(f"{source.name} is {kind.title} and has a manifest of its own; name none beside it")
    elif kind not in UNPACKABLE or (manifest is not None and (kind is ModelFormat.ARCHIVE or source.is_dir())):
        raise refuse(source, kind)
    else:
        root = unpack(source, unpacked, limits)
    parsed = parse_manifest(read_with_sha256(root))
    return Arrival(quarantine.place(root, parsed.name, parsed.version), parsed)


def check_source(source: Path, kind: ModelFormat, settings: Settings) -> None:
    """Raise `ModelFormatError` for a file that is larger than is allowed, or a part of what is a folder."""
    if kind is ModelFormat.SAVED_MODEL and source.is_file():
        raise ModelFormatError(f"{source.name} is a part of a SavedModel: add the folder that it lies in")
    if source.is_file() and source.stat().st_size > settings.max_model_bytes:
        raise ModelFormatError(f"{source.name} is larger than the {settings.max_model_bytes} bytes that are allowed")


def is_taken(kind: ModelFormat, settings: Settings) -> bool:
    """Whether a file of this format may become a model: data always, a program if all programs are trusted."""
    return kind in ARTIFACTS and (kind.trust is Trust.DATA or settings.programs == "all")


def propose(source: Path, settings: Settings) -> str:
    """Return the text of a manifest for an artifact alone; nothing is added. Raises `ModelFolderError` or `OSError`."""
    kind = identify(source)
    check_source(source, kind, settings)
    if kind in (ModelFormat.FOLDER, ModelFormat.PACKED, ModelFormat.MAR):
        raise ModelFormatError(f"{source.name} is {kind.title} and has a manifest of its own; add it without --propose")
    if not is_taken(kind, settings):
        raise refuse(source, kind)
    if kind is ModelFormat.KERAS:
        verify_zip(source, find_limits(settings))
    framework, suffixes = find_framework(kind)
    with tempfile.TemporaryDirectory() as folder:
        path = source
        if source.suffix not in suffixes:  # loaders go by the name
            path = Path(folder) / f"model{suffixes[0]}"
            path.symlink_to(source.resolve())
        file = path.name if FILE_PATTERN.fullmatch(path.name) else f"model{path.suffix}"
        return propose_manifest(path, framework, file, hash_artifact(source, framework), settings)


def lay_out(source: Path, manifest: Path | None, target: Path, limits: ArchiveLimits) -> Path:
    """Make a model folder of an artifact and its manifest; an artifact that lies in the same quarantine is moved."""
    if manifest is None:
        raise ModelFormatError(f"{source.name} comes without a manifest; name one")
    document = read_document(manifest)
    name = find_file_name(document) or "model"
    framework = document.get("framework")
    target.mkdir()
    shutil.copyfile(manifest, target / MANIFEST_FILE)
    if source.is_dir():
        unpack(source, target / name, limits)
        return target
    for companion in list_companions(source, framework) if framework in FRAMEWORKS else ():
        if source.name != name:  # inside the one file stands the name of the other
            raise ModelFormatError(f"{source.name} has its weights in {companion.name}: artifact.file must be its name")
        shutil.copyfile(companion, target / companion.name)
    if source.parent == target.parent:
        source.rename(target / name)
    else:
        shutil.copyfile(source, target / name)
    return target


def read_with_sha256(folder: Path) -> dict[str, Any]:
    """Read a manifest, and add the artifact's SHA-256 if it is left out; other faults are left to `parse_manifest`."""
    path = folder / MANIFEST_FILE
    document = read_document(path)
    name, framework = find_file_name(document), document.get("framework")
    if name is None or framework not in FRAMEWORKS or "sha256" in document["artifact"] or not (folder / name).exists():
        return document
    line = f'\nsha256 = "{hash_artifact(folder / name, framework)}"'
    return rewrite(path, ARTIFACT_TABLE, lambda found: found[0] + line)


def find_file_name(document: dict[str, Any]) -> str | None:
    """The artifact's name in a manifest; None if it is missing or not allowed, which `parse_manifest` will refuse."""
    artifact = document.get("artifact")
    name = artifact.get("file") if isinstance(artifact, dict) else None
    return name if isinstance(name, str) and FILE_PATTERN.fullmatch(name) else None


def rename(arrival: Arrival, name: str | None, settings: Settings) -> Arrival:
    """Give an admitted model another name; None leaves it as it is. Raises `ModelFolderError` or `OSError`."""
    folder = arrival.folder
    if name is None or name == folder.name:
        return arrival
    rewrite(folder.path / MANIFEST_FILE, NAME_LINE, lambda _: f'name = "{name}"')
    renamed = ModelFolder(folder.path.parent.rename(folder.path.parent.with_name(name)) / folder.version)
    manifest = renamed.read_manifest()
    require_trusted_artifact(renamed, manifest, settings)
    return replace(arrival, folder=renamed, manifest=manifest)


def rewrite(path: Path, pattern: re.Pattern[str], line: Callable[[re.Match[str]], str]) -> dict[str, Any]:
    """Replace the first line of a manifest that a pattern finds; return the new manifest's TOML."""
    path.write_text(pattern.sub(line, path.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    return read_document(path)


def check_name(name: str | None) -> None:
    """Raise `ManifestError` for a name that a model without a program of its own may not have."""
    if name is not None and not (MODEL_NAME_PATTERN.fullmatch(name) and len(name) <= MAX_NAME_LENGTH):
        raise ManifestError(
            "a model's name is words of small letters and digits, joined by dashes, "
            f"of at most {MAX_NAME_LENGTH} characters"
        )
