"""Checks everything that can be known of a model in quarantine, compiles it and tries it out."""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from app.compiling.folder_compiler import compile_in_process, hold_in_process
from app.config.settings import Settings
from app.engines.compiled.compile_report import COMPILED_FOLDER
from app.engines.compiled.int8_report import INT8_FOLDER
from app.engines.process_engine import runs_natively
from app.errors import FrameworkMissingError, ModelFormatError
from app.exchange.model_format import ModelFormat, Trust, describe_unknown, identify
from app.exchange.quarantine import Arrival
from app.exchange.unpacking import find_limits, verify_zip
from app.handlers.handler_archive import HandlerArchive
from app.manifest.model_manifest import MANIFEST_FILE, ModelManifest
from app.manifest.model_specs import FRAMEWORKS
from app.repository.model_check import EXPECTED_FILE, check_folder, read_expected
from app.repository.model_content import list_artifact, list_content
from app.repository.model_folder import EXAMPLES_FOLDER, ModelFolder
from app.repository.signing import SIGNATURE_FILE, require_trust, require_trusted_artifact, verify_trusted

ARTIFACTS = {ModelFormat[name] for framework in FRAMEWORKS.values() for name in framework.formats.values()}
"""Formats of files that a manifest makes a model of."""
UNPACKABLE = (ModelFormat.FOLDER, ModelFormat.PACKED, ModelFormat.ARCHIVE, ModelFormat.UNKNOWN)
"""Formats for `unpack`, which unpacks them or refuses them with a better reason than an unknown format."""
OTHER_FILES = re.compile(
    rf"{re.escape(MANIFEST_FILE)}|{re.escape(SIGNATURE_FILE)}|[A-Za-z0-9_-]+\.(md|txt)|LICEN[CS]E"
    rf"|{EXAMPLES_FOLDER}/({re.escape(EXPECTED_FILE)}|[A-Za-z0-9._-]+\.(png|jpg))|({COMPILED_FOLDER}|{INT8_FOLDER})/[a-z0-9._-]+\.(xml|bin|json)"
)
"""Files that a model folder may hold beside its artifact."""


def admit(arrival: Arrival, settings: Settings) -> None:
    """Check a model. Unless it is a folder of `SCANCER_STORE` or has a program of its own, compile it and try it out.

    Raises `ModelFolderError` with the first reason against it, or `OSError`.
    """
    folder, manifest = arrival.folder, arrival.manifest
    if isinstance(manifest, HandlerArchive):
        require_trust(folder.path, folder.name, folder.version, settings)
        return
    folder.verify_artifact(manifest)
    if arrival.is_from_store:
        require_trusted_artifact(folder, manifest, settings)
        return
    check_files(folder, manifest)
    check_artifact(folder, manifest, settings)
    signer = verify_trusted(folder, manifest, settings)
    if folder.has_examples:
        read_expected(folder)  # before compiling, which takes seconds
    if signer is None:
        # An unsigned compiled model may hold anything, so it is made anew from the artifact.
        for made in (COMPILED_FOLDER, INT8_FOLDER):
            shutil.rmtree(folder.path / made, ignore_errors=True)
        if not runs_natively(manifest):
            compile_in_process(folder.path, settings)
    elif not runs_natively(manifest):
        folder.read_report(manifest)
    with suppress(FrameworkMissingError):  # a signed compiled model is served without
        hold_in_process(folder.path, settings)
    check_folder(folder, settings)


def check_files(folder: ModelFolder, manifest: ModelManifest) -> None:
    """Raise `ModelFormatError` if a folder holds more than a model."""
    artifact = list_artifact(folder.path / manifest.artifact.file, manifest.framework)
    for path in list_content(folder.path):
        name = path.relative_to(folder.path).as_posix()
        is_fit = manifest.fit is not None and name == manifest.fit.file
        if path not in artifact and not is_fit and not OTHER_FILES.fullmatch(name):
            raise ModelFormatError(f"{name} is no part of a model folder")


def check_artifact(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> None:
    """Raise `ModelFileError` if an artifact is not of the format of its name, since loaders go by the name."""
    path = folder.path / manifest.artifact.file
    kind = identify(path)
    wanted = ModelFormat[FRAMEWORKS[manifest.framework].formats[path.suffix]]
    if kind is not wanted:
        if kind in ARTIFACTS:
            rule = f'by its name, and framework = "{manifest.framework}", it should be {wanted.title}'
            raise ModelFormatError(
                f"{path.name} is {kind.title}; {rule}; {suggest_lines(path, manifest.framework, kind)}"
            )
        if kind in UNPACKABLE:
            raise ModelFormatError(f"{path.name} is {kind.title} or damaged; {wanted.title} is wanted")
        raise refuse(path, kind)
    if kind is ModelFormat.KERAS:
        verify_zip(path, find_limits(settings))


def find_framework(kind: ModelFormat) -> tuple[str, list[str]]:
    """Find the framework of an artifact, and the suffixes that its name may have."""
    framework = next(name for name, each in FRAMEWORKS.items() if kind.name in each.formats.values())
    return framework, [suffix for suffix, name in FRAMEWORKS[framework].formats.items() if name == kind.name]


def suggest_lines(path: Path, framework: str, kind: ModelFormat) -> str:
    """Say which lines of a manifest fit an artifact that is of another format than they say."""
    right, suffixes = find_framework(kind)
    lines = [] if right == framework else [f'framework = "{right}"']
    lines += [] if path.suffix in suffixes else [f'file = "{path.stem}{suffixes[0]}"']
    architecture = {framework: "; leave architecture out", right: "; name the architecture"}.get("torch", "")
    return f"say {' and '.join(lines)}{architecture if right != framework else ''}"


def refuse(path: Path, kind: ModelFormat) -> ModelFormatError:
    """Make the error that says why a format is not taken, and what to do."""
    if kind is ModelFormat.UNKNOWN:
        return ModelFormatError(describe_unknown(path))
    reason = f"{path.name} is {kind.title}, which is not taken"
    if kind.trust is Trust.DATA:
        return ModelFormatError(f"{reason}; convert it to .keras or .safetensors")
    if kind in ARTIFACTS:
        return ModelFormatError(f"{reason}: loading it can run code; SCANCER_PROGRAMS=all trusts every program")
    return ModelFormatError(f"{reason}: {kind.advice}")
