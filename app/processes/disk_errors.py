"""Tells a full disk from every other error of the file system."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import DiskFullError, ScancerError

FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_IS_FULL = "The disk is full; nothing was changed. Free some space and try again."


@contextmanager
def translate_disk_errors(make_error: Callable[[str], ScancerError], what: str) -> Iterator[None]:
    """Turn the file system's errors into ours.

    A full disk, or quota, becomes `DiskFullError`. Any other error becomes what `make_error` makes of a message: `what`
    and the system's reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(DISK_IS_FULL) from error
        raise make_error(f"{what}: {error.strerror}") from error
