"""A file that comes over a network, in quarantine: hashed while it comes, and removed when the context ends."""

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from app.config.settings import Settings
from app.errors import InvalidModelError
from app.exchange.quarantine import Quarantine

FILE_NAME = "model"
"""Our own, whatever the sender calls the file: error messages name it."""


class IncomingFile:
    """A new file in quarantine that grows.

    Attributes:
        quarantine: the folder for all that is made of the file.
        path: of the file.
        size: bytes so far.
    """

    def __init__(self, quarantine: Quarantine) -> None:
        self.quarantine = quarantine
        self.path = quarantine.path / FILE_NAME
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
    """Open an empty file in a new quarantine; both are removed when the context ends.

    Raises:
        ModelFolderError: the file cannot be written.
        DiskFullError: the disk is full.
    """
    with Quarantine(settings.models) as quarantine:
        file = IncomingFile(quarantine)
        try:
            yield file
        finally:
            file.close()
