"""Locks between processes: each is an open descriptor, and ends with its process, however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.processes.exposure import give_to_owner

TRY = fcntl.LOCK_EX | fcntl.LOCK_NB


@contextmanager
def hold_lock(path: Path, waits: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if need be. Without `waits` it may raise `BlockingIOError`.

    The file stays: removing it would let two processes hold locks on two files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_locked(path, fcntl.LOCK_EX if waits else TRY)
    try:
        yield
    finally:
        os.close(descriptor)


def open_locked(path: Path, operation: int, flags: int = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW) -> int:
    """Open and lock a file; return the lock's descriptor. Raises `BlockingIOError` if it would wait, or `OSError`."""
    descriptor = os.open(path, flags, 0o600)
    try:
        if flags & os.O_CREAT:
            give_to_owner(path.parent, descriptor)
        fcntl.flock(descriptor, operation)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def try_lock(path: Path, makes_file: bool = False) -> int | None:
    """Lock a file or a folder without waiting, but follow no link; return the descriptor that holds the lock.

    None if another process holds it, or if nothing lies at the path: whoever held the lock before may have removed or
    replaced what was there.
    """
    try:
        descriptor = open_locked(path, TRY, os.O_RDONLY | os.O_NOFOLLOW | (os.O_CREAT if makes_file else 0))
    except (BlockingIOError, FileNotFoundError):
        return None
    with suppress(OSError):
        if os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool:
    """Whether a process holds a lock on a file, which need not be there; asks without keeping it."""
    try:
        os.close(open_locked(path, TRY, os.O_RDWR))
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def make_locked(path: Path) -> int:
    """Make a file that nobody finds before it is locked; return the descriptor that holds the lock."""
    hidden = path.with_name(f".{path.stem}")
    descriptor = open_locked(hidden, fcntl.LOCK_EX)
    try:
        hidden.rename(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def share_lock(path: Path, content: bytes) -> tuple[int, bytes]:
    """Share a lock on a file; return its descriptor and the file's content, which the first holder wrote."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    give_to_owner(path.parent, descriptor)
    try:
        fcntl.flock(descriptor, TRY)
    except BlockingIOError:  # there are others, or one that begins at this moment
        pass
    else:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    # Between the two locks another process may have been first, so the content is read back.
    return descriptor, os.pread(descriptor, os.fstat(descriptor).st_size, 0)
