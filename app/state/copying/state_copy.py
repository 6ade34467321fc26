"""Copies the whole state, every table of ours, out of a database and into another one.

The form in between is a SQLite file, whatever the database is, so a state can move from one kind to another.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from app.config.setting_types import OWN_DATABASE
from app.config.settings import Settings
from app.errors import DiskFullError, StateStoreError
from app.processes.disk_errors import DISK_IS_FULL
from app.state import schema
from app.state.state_file import BUSY_TIMEOUT_S, FULL, is_unmade
from app.state.store_access import STATE_FILE

PREFIX = "scancer_"
"""Of the names of all our tables."""
FORMAT_BYTES, LEGACY = slice(18, 20), b"\x01\x01"
"""In a SQLite file's header: whether it has a journal of its own. A file that travels alone has none."""


@contextmanager
def hold_state(settings: Settings) -> Iterator[bytes | None]:
    """Give the state as a SQLite file's bytes, and let nobody change it before the block ends; None if there is none.

    Raises `StateStoreError` if it cannot be read, or is damaged, and `DiskFullError`.
    """
    with ExitStack() as stack, closing(sqlite3.connect(":memory:")) as copy:
        if not has_state(settings):
            yield None
            return
        if settings.database != OWN_DATABASE:
            from app.state.copying.database_copy import hold_database

            stack.enter_context(hold_database(settings.database, copy))
        else:
            with translate_sqlite_errors():
                stack.enter_context(hold_file(settings.instance / STATE_FILE, copy))
        with translate_sqlite_errors():
            content = read_checked(copy)
        yield content


def has_state(settings: Settings) -> bool:
    """Whether there is a state, if perhaps an empty one; raises `StateStoreError` if none can ever be."""
    if settings.database == OWN_DATABASE:
        return (settings.instance / STATE_FILE).exists()
    return not is_unmade(settings.database)


@contextmanager
def hold_file(path: Path, copy: sqlite3.Connection) -> Iterator[None]:
    """Copy a file, and keep others from writing it until the block ends."""
    address = f"{path.resolve().as_uri()}?mode=rw"
    with (
        closing(sqlite3.connect(address, BUSY_TIMEOUT_S, uri=True, isolation_level=None)) as writer,
        closing(sqlite3.connect(address, BUSY_TIMEOUT_S, uri=True)) as reader,
    ):
        writer.execute("BEGIN IMMEDIATE")
        reader.backup(copy)
        yield


def read_checked(copy: sqlite3.Connection) -> bytes:
    """Return the bytes of a copy; raises `StateStoreError` if it is damaged or of a newer schema."""
    schema.check_version(copy.execute("PRAGMA user_version").fetchone()[0])
    if copy.execute("PRAGMA quick_check").fetchone()[0] != "ok":
        raise StateStoreError(f"the state store is damaged: {schema.REMEDY}")
    content = bytearray(copy.serialize())
    content[FORMAT_BYTES] = LEGACY
    return bytes(content)


@contextmanager
def translate_sqlite_errors() -> Iterator[None]:
    """Turn the errors of `sqlite3` into ours."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in FULL:
            raise DiskFullError(DISK_IS_FULL) from error
        raise StateStoreError(f"the state store cannot be used: {type(error).__name__}: {error}") from error
