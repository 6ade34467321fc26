"""Keeps a model that somebody brings until it is found good, in a dot-folder of the model repository.

Everything that takes long happens here without any lock: receiving, unpacking, compiling, trying out. The model is
written once, and then renamed to its place, which only works within one file system. A process that is killed leaves
its quarantine behind, unlocked; whoever starts, or brings a model, sweeps it away.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.config.settings import MIB
from app.errors import CompiledModelError, DiskFullError, ManifestError, ModelExistsError, ModelFileError
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
    """A model in quarantine.

    Attributes:
        folder: `<quarantine>/ready/<name>/<version>`, under the name and version that the model is to have.
        manifest: of the model, or of the archive that has a program of its own.
        is_from_store: whether it is a folder of `SCANCER_STORE`: what is compiled in it is the operator's own.
    """

    folder: ModelFolder
    manifest: ModelManifest | HandlerArchive
    is_from_store: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.folder.name, self.folder.version


class Quarantine:
    """A new folder in the model repository that is gone when the context ends.

    Attributes:
        path: of the folder; locked for as long as its process lives.

    Raises:
        ManifestError: there is no model repository.
        ModelFileError, DiskFullError: in place of every error of the file system within the context.
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
        """Move `<name>/<version>` into the model repository in one step; its files must be synchronized before.

        Raises:
            ModelExistsError: something lies in its place already.
        """
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


@contextmanager
def use_quarantine(models: Path, own: Quarantine | None = None) -> Iterator[Quarantine]:
    """Use a quarantine that the caller keeps, or else a new one; raises as `Quarantine`."""
    if own is not None:
        yield own
        return
    with Quarantine(models) as new:
        yield new


def sweep(models: Path) -> None:
    """Remove the quarantines that nobody holds any more."""
    for left in models.glob(f"{PREFIX}*"):
        lock = try_lock(left) if left.is_dir() and not left.is_symlink() else None
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
