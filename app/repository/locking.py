"""A lock between processes."""

import fcntl
import os
from pathlib import Path


class hold_lock:  # noqa: N801  # used as a context manager, so named as a verb
    """Hold an exclusive lock on a file; waits for whoever has it.

    The file stays: removing it would let two processes hold locks on two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
