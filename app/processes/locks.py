"""Locks between processes."""

import fcntl
import os
from pathlib import Path


class hold_lock:  # noqa: N801  # used as a context manager, so named as a verb
    """Hold an exclusive lock on a file; waits for whoever has it, or raises `BlockingIOError` with `waits=False`.

    The file stays: removing it would let two processes hold locks on two files of one name.
    """

    def __init__(self, path: Path, waits: bool = True) -> None:
        self._path = path
        self._flags = fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, self._flags)
        except BlockingIOError:
            os.close(self._descriptor)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock on a file, which need not be there; asks without keeping it."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock_folder(folder: Path) -> int | None:
    """Lock a folder, and return the descriptor that holds the lock; None if another has it, or has swept it away."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(folder.stat(), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
