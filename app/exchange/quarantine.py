"""Keeps a model that somebody brings until it is found good, in a dot-folder of the model repository.

All that takes long happens here without any lock. The model is written once, and then renamed to its place, which only
works within one file system. A killed process leaves its quarantine behind, unlocked, for the next to sweep away.
"""

import errno
import hashlib
import hmac
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.config.settings import MIB, Settings
from app.errors import (
    CompiledModelError,
    DiskFullError,
    InvalidModelError,
    ManifestError,
    ModelExistsError,
    ModelFileError,
)
from app.handlers.handler_archive import HandlerArchive
from app.manifest.model_manifest import ModelManifest
from app.processes.atomic import synchronize
from app.processes.disk_errors import DISK_IS_FULL, translate_disk_errors
from app.processes.locks import try_lock
from app.repository.model_folder import ModelFolder

PREFIX = ".incoming-"
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
CANNOT_BE_USED = "the model cannot be read or written"


@dataclass(frozen=True)
class Arrival:
    """A model in quarantine, in `ready/<name>/<version>` under the name and version that it is to have.

    `is_from_store` says that it is a folder of `SCANCER_STORE`: what is compiled in it is the operator's own.
    """

    folder: ModelFolder
    manifest: ModelManifest | HandlerArchive
    is_from_store: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.folder.name, self.folder.version


class Quarantine:
    """A new, locked folder in the model repository, at `path`; it is gone when the context ends.

    Raises `ManifestError` if there is no model repository. Every error of the file system in the context becomes
    `ModelFileError` or `DiskFullError`.
    """

    path: Path

    def __init__(self, models: Path) -> None:
        self._models = models

    def __enter__(self) -> Self:
        if not self._models.is_dir():
            raise ManifestError(f"{self._models} is not a folder")
        self._lock: int | None = None
        with translate_disk_errors(ModelFileError, CANNOT_BE_USED):
            sweep(self._models)
            while self._lock is None:
                self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._models))
                self._lock = try_lock(self.path)  # None where another sweeps just now
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # A compiler in a process of its own cannot say that the disk is full; here its files still take the space.
        is_full = isinstance(error, CompiledModelError) and shutil.disk_usage(self.path).free < MIB
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        if is_full:
            raise DiskFullError(DISK_IS_FULL) from error
        with translate_disk_errors(ModelFileError, CANNOT_BE_USED):
            if isinstance(error, OSError):
                raise error

    def place(self, root: Path, name: str, version: str) -> ModelFolder:
        """Move the model in the folder `root` of this quarantine to `ready/<name>/<version>`."""
        folder = self.path / "ready" / name / version
        folder.parent.mkdir(parents=True)
        return ModelFolder(root.rename(folder))

    def publish(self, folder: ModelFolder) -> ModelFolder:
        """Move `<name>/<version>`, whose files are synchronized, to its place, or raise `ModelExistsError`."""
        name = self._models / folder.name
        try:
            rename_either(folder.path, name)
        except OSError as error:
            if error.errno in TAKEN:
                raise ModelExistsError(f"{folder.name}/{folder.version} exists already") from None
            raise
        synchronize(name)
        synchronize(self._models)
        return ModelFolder(name / folder.version)


def rename_either(folder: Path, name: Path) -> None:
    """Move a version's folder to `name/`: a new model's with the folder above it, so that none is ever left empty."""
    while True:
        try:
            folder.parent.rename(name)
            return
        except OSError as error:
            if error.errno not in TAKEN:
                raise
        try:
            folder.rename(name / folder.name)
            return
        except FileNotFoundError:  # the last other version has been removed at this moment
            continue


def use_quarantine(models: Path, own: Quarantine | None = None) -> AbstractContextManager[Quarantine]:
    """Use a quarantine that the caller keeps, or else a new one; raises as `Quarantine`."""
    return Quarantine(models) if own is None else nullcontext(own)


def sweep(models: Path) -> None:
    """Remove the quarantines that nobody holds any more."""
    for left in models.glob(f"{PREFIX}*"):
        lock = try_lock(left) if left.is_dir() and not left.is_symlink() else None
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


class IncomingFile:
    """A file in quarantine that grows as it comes over a network; `path` is its own, whatever the sender calls it."""

    def __init__(self, quarantine: Quarantine) -> None:
        self.quarantine = quarantine
        self.path = quarantine.path / "model"
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = self.path.open("xb")

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add the next bytes; the caller sees to the limit."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Have every byte in the file."""
        self._file.close()

    def check_sha256(self, wanted: str | None) -> None:
        """Raise `InvalidModelError` if the file is not the one that the caller names."""
        if wanted is not None and not hmac.compare_digest(wanted.lower().encode(), self.sha256.encode()):
            raise InvalidModelError("the model is not the one that sha256 names")


@contextmanager
def open_incoming(settings: Settings) -> Iterator[IncomingFile]:
    """Open an empty file in a new quarantine; both are gone when the context ends. Raises as `Quarantine`."""
    with Quarantine(settings.models) as quarantine:
        file = IncomingFile(quarantine)
        try:
            yield file
        finally:
            file.close()
