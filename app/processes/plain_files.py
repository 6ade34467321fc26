"""Reads files that others have put where we look: a pipe or a device there must not keep us waiting, or never end."""

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading, also through a link. Raises `OSError`, if it is a pipe, a socket or a device too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a pipe waits for a writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_plain(path: Path) -> bytes:
    """Return the bytes of a file. Raises as `open_plain`."""
    with open_plain(path) as file:
        return file.read()


def read_plain_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file. Raises as `open_plain`, and `UnicodeDecodeError`."""
    return read_plain(path).decode(encoding)


def hash_files(*paths: Path) -> str:
    """Return the SHA-256 of the files' bytes, one after the other, in hex."""
    digest = hashlib.sha256()
    for path in paths:
        with open_plain(path) as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
