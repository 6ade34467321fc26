"""Where a model that somebody brings stays until it is found good: a dot-folder of the model repository.

It lies there because a folder can be renamed in one step only within its file system. A process that is killed leaves
its quarantine behind, unlocked; whoever starts, or brings a model, sweeps it away.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

from app.errors import ManifestError, ModelExistsError
from app.processes.locks import try_lock
from app.repository.model_folder import ModelFolder

PREFIX = ".incoming-"
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class Quarantine:
    """A new folder in the model repository that is gone when the context ends.

    Attributes:
        path: of the folder; locked for as long as its process lives.
    """

    path: Path

    def __init__(self, models: Path) -> None:
        self._models = models

    def __enter__(self) -> Self:
        if not self._models.is_dir():
            raise ManifestError(f"{self._models} is not a folder")
        sweep(self._models)
        self._lock: int | None = None
        while self._lock is None:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._models))
            self._lock = try_lock(self.path)  # None where another sweeps just now
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def publish(self, folder: ModelFolder) -> ModelFolder:
        """Move `<quarantine>/<name>/<version>` into the model repository: after a crash all of it is there, or nothing.

        Raises:
            ModelExistsError: the version is there already.
        """
        write_through(folder.path.parent)
        name = self._models / folder.name
        try:
            try:
                folder.path.parent.rename(name)  # a new model: with its own folder, so that none is left empty
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
                folder.path.rename(name / folder.version)
        except OSError as error:
            if error.errno in TAKEN:
                raise ModelExistsError(f"{folder.name}/{folder.version} exists already") from None
            raise
        write_through(name, deep=False)
        write_through(self._models, deep=False)
        return ModelFolder(name / folder.version)


def sweep(models: Path) -> None:
    """Remove the quarantines that nobody holds any more."""
    for left in models.glob(f"{PREFIX}*"):
        lock = try_lock(left) if left.is_dir() and not left.is_symlink() else None
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def write_through(folder: Path, deep: bool = True) -> None:
    """Have the system write a folder, and what it holds, to the disk before going on."""
    for path in (*(folder.rglob("*") if deep else ()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
