"""A file that comes over a network, in quarantine: hashed while it comes, and gone when nobody needs it more."""

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config.settings import Settings
from app.errors import InvalidModelError
from app.exchange.model_importer import explain_failures
from app.exchange.quarantine import Quarantine

FILE_NAME = "model"
"""Ours, whatever the sender calls it; errors name it."""


class IncomingFile:
    """A new file that grows.

    Attributes:
        path: of it.
        size: bytes so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = path.open("xb")

    @property
    def sha256(self) -> str:
        """Of what came so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add what came next; the caller counts."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Have all of it in the file."""
        self._file.close()

    def check_sha256(self, wanted: str | None) -> None:
        """Raise `InvalidModelError` if the file is not the one that somebody wants."""
        if wanted is not None and not hmac.compare_digest(wanted.lower().encode(), self.sha256.encode()):
            raise InvalidModelError("the model is not the one that sha256 names")


@contextmanager
def open_incoming(settings: Settings) -> Iterator[IncomingFile]:
    """Have an empty file in a quarantine of the model repository for a while.

    Raises:
        ModelFolderError: it cannot be written.
        DiskFullError: the disk is full.
    """
    with explain_failures(settings), Quarantine(settings.models) as quarantine:
        file = IncomingFile(quarantine.path / FILE_NAME)
        try:
            yield file
        finally:
            file.close()
