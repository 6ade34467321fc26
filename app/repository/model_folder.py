"""Finds and verifies the model folders on disk: `<models>/<name>/<version>/model.toml`."""

import logging
import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from app.engines.compiled.compile_report import CompileReport, read_report
from app.engines.compiled.int8_report import Int8Report, read_int8_report
from app.errors import IntegrityError, ManifestError
from app.handlers.handler_archive import (
    ARCHIVE_NAME_PATTERN,
    TORCHSERVE_LIMITS,
    HandlerArchive,
    PoolLimits,
    is_archive,
    read_archive,
)
from app.manifest.model_manifest import MANIFEST_FILE, MODEL_NAME_PATTERN, VERSION_PATTERN, ModelManifest, read_manifest
from app.processes.plain_files import read_plain, read_plain_text
from app.repository.model_content import hash_artifact, list_content

log = logging.getLogger(__name__)

EXAMPLES_FOLDER = "examples"
CARD_FILE = "MODEL_CARD.md"
FIGURES_FILE = "report.json"
"""Of `flask models report`: how good the version is."""
ARCHIVE_FOLDER = ".compiled"
"""Where what was compiled of an archive lies, beside its files."""
TOKEN_FILE = ".registered"  # noqa: S105  # the name of a file
"""In a folder that the server made when a model was registered: the token that the state store knows it by."""
NAMING_RULE = (
    "a model's folder is NAME/VERSION in the model repository; NAME is two or more words of small letters and digits, "
    "joined by dashes (pcam-classification), VERSION is letters, digits, dots, dashes and underscores (1.0)"
)


@dataclass(frozen=True)
class ModelFolder:
    """The folder of one model version; name and version are those of the path."""

    path: Path

    @property
    def name(self) -> str:
        """Model name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Version."""
        return self.path.name

    @property
    def label(self) -> str:
        """What people call it: NAME/VERSION."""
        return f"{self.name}/{self.version}"

    def read_token(self) -> str | None:
        """The token of a folder that a server made; None for one that somebody put there."""
        try:
            return read_plain_text(self.path / TOKEN_FILE, "ascii")
        except (OSError, UnicodeDecodeError):
            return None

    @property
    def is_archive(self) -> bool:
        """Whether it is an unpacked model archive, which has a program of its own and no `model.toml`."""
        return is_archive(self.path)

    def read_archive(self, default: PoolLimits = TORCHSERVE_LIMITS) -> HandlerArchive:
        """Read the archive's manifest; `default` has the limits that it does not set. Raises `ManifestError`."""
        return read_archive(self.path, self.name, self.version, default)

    def read_manifest(self) -> ModelManifest:
        """Read `model.toml`; raises `ManifestError`."""
        if self.is_archive:
            raise ManifestError("it is a model archive with a program of its own, which has no model.toml")
        return read_manifest(self.path)

    def verify_artifact(self, manifest: ModelManifest) -> None:
        """Raise `IntegrityError` unless the artifact is a plain file that has the manifest's SHA-256."""
        path = self.path / manifest.artifact.file
        try:
            actual = hash_artifact(path, manifest.framework)
        except OSError as error:
            raise IntegrityError(f"{path.name} cannot be read: {error.strerror}") from error
        if actual != manifest.artifact.sha256:
            raise IntegrityError(f"{path.name} is not the file that the manifest's sha256 names")

    def read_report(self, manifest: ModelManifest) -> CompileReport:
        """Read the compiled model's report; raises `CompiledModelError` unless it is valid."""
        return read_report(self.path, manifest)

    def read_int8_report(self, manifest: ModelManifest, report: CompileReport) -> Int8Report:
        """Read the INT8 model's report; raises `CompiledModelError` unless it fits the compiled model of `report`."""
        return read_int8_report(self.path, manifest, report)

    def find_examples(self) -> tuple[str, ...]:
        """File names of the example pictures, sorted."""
        folder = self.path / EXAMPLES_FOLDER
        pictures = (path for path in folder.glob("[!.]*") if path.suffix in (".png", ".jpg") and path.is_file())
        return tuple(sorted(path.name for path in pictures))

    @property
    def has_examples(self) -> bool:
        """Whether there are example pictures, or what is expected of them."""
        return (self.path / EXAMPLES_FOLDER).is_dir() and any((self.path / EXAMPLES_FOLDER).glob("[!.]*"))

    def read_examples(self) -> dict[str, bytes]:
        """Contents of the example pictures, by file name; raises `OSError`."""
        return {name: read_plain(self.path / EXAMPLES_FOLDER / name) for name in self.find_examples()}


def find_model_folders(root: Path) -> list[ModelFolder]:
    """Find every model version below `root`, by name and then version; other files and folders are passed over.

    A model in a folder of a wrong name is logged once. Raises `ManifestError` if `root` is not a folder.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder")
    found = []
    for name in sorted(list_folders(root)):
        if holds_model(name):
            warn_of(name)
        for folder in map(ModelFolder, list_folders(name)):
            if is_well_named(folder):
                found.append(folder)
            elif holds_model(folder.path):
                warn_of(folder.path)
    return found


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model or an archive, whatever the folder's name."""
    return is_archive(folder) or os.path.lexists(folder / MANIFEST_FILE)


def is_well_named(folder: ModelFolder) -> bool:
    """Whether the path of a folder can be that of a model version; a name without a dash is only for archives."""
    if not VERSION_PATTERN.fullmatch(folder.version) or not ARCHIVE_NAME_PATTERN.fullmatch(folder.name):
        return False
    return bool(MODEL_NAME_PATTERN.fullmatch(folder.name)) or folder.is_archive


@lru_cache(maxsize=1024)
def warn_of(folder: Path) -> None:
    """Log that a model is passed over because of its folder's name; once for each folder, for many look for models."""
    log.warning("%s is passed over: %s", folder, NAMING_RULE)


def list_folders(parent: Path) -> list[Path]:
    """The folders in a folder, those of versions from old to new; none where it is gone or cannot be read."""
    try:
        found = [path for path in parent.iterdir() if not path.name.startswith(".") and os.path.isdir(path)]  # noqa: PTH112  # it does not raise where a folder cannot be looked at
    except OSError:
        return []
    return sorted(found, key=lambda path: order_version(path.name))


@lru_cache(maxsize=1024)
def order_version(version: str) -> tuple[tuple[int, int, str], ...]:
    """Key that sorts versions as people count: 1.9 before 1.10, 1.0-rc1 before 1.0, 1.0 before 1.0.1."""
    parts = re.findall(r"[0-9]+|[^0-9._-]+", version)
    return (*((2, int(part), "") if part.isdigit() else (0, 0, part) for part in parts), (1, 0, ""))


FileFacts = tuple[str, int, int, int, int]
"""Path, size in bytes, inode and two times of a file; one is the kernel's own, which no copy and no user sets."""


def describe_files(folder: ModelFolder) -> list[FileFacts]:
    """Describe every file that `list_content` finds; raises `OSError`."""
    described = map(describe_file, map(str, list_content(folder.path)))
    return sorted(facts for facts in described if facts is not None)


def describe_file(path: str) -> FileFacts | None:
    """Describe a file, also through a link; None for what is no file. Raises `OSError` if it is gone."""
    status = os.stat(path)  # noqa: PTH116  # a path takes three times as long, and every file is asked every second
    if not stat.S_ISREG(status.st_mode):
        return None
    return path, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
