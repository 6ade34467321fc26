"""Files that are replaced as a whole: a reader, and a crash, find the old content or the new one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from app.processes.exposure import give_to_owner

FOR_ALL, FOR_OWNER = 0o666, 0o600
"""Modes of a new file; the umask takes its bits from them."""


@contextmanager
def replace_file(path: Path, mode: int = FOR_ALL) -> Iterator[BinaryIO]:
    """Give a new file; it takes the place of `path` when the block ends without an error. Raises `OSError`.

    What root writes belongs to whoever owns the folder: a server that is not root must be able to read its own users.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "w+b") as file:
            give_to_owner(path.parent, file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def write_file(path: Path, text: str, mode: int = FOR_ALL) -> None:
    """Write a text file in one step, in UTF-8; see `replace_file`."""
    with replace_file(path, mode) as file:
        file.write(text.encode())


def synchronize(path: Path) -> None:
    """Write one file, or the list of names in one folder, to the disk; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def synchronize_tree(folder: Path) -> None:
    """Write a folder and everything below it to the disk; raises `OSError`."""
    for path in (*folder.rglob("*"), folder):
        synchronize(path)
