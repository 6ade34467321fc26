"""Reads the SQLite file of the state store with Python's own sqlite3.

Every worker reads, and few ever write. SQLAlchemy (`state_store`) takes 0.3 s of CPU and 17 MB: with it, the first
change would make all workers import it at once, while they answer requests.
"""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from app.errors import OlderStateError, StateStoreError
from app.state import schema
from app.state.wanted import WantedState

BUSY_TIMEOUT_S = 10
FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


class StateFile:
    """The file, without SQLAlchemy: for reading, and for rows that nothing follows. `StateStore` makes it.

    Every method raises `StateStoreError` if the file cannot be read, and `OlderStateError` if `StateStore` must bring
    it forward first.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_generation(self) -> int:
        """Return the number of the last change; 0 if there never was one."""
        with self._open() as connection:
            return schema.read_generation(partial(read_rows, connection)) if connection is not None else 0

    def read(self) -> WantedState:
        """Return all that is wanted, as one transaction sees it."""
        with self._open() as connection:
            return schema.read_state(partial(read_rows, connection)) if connection is not None else WantedState()

    def insert(self, table: str, row: Mapping[str, Any]) -> bool:
        """Add a row to a table unless its key is there; return False if the table was not made yet."""
        names, places = ", ".join(row), ", ".join("?" * len(row))
        try:
            with closing(self._connect_as("mode=rw", "BEGIN IMMEDIATE")) as connection:
                schema.check_version(connection.execute("PRAGMA user_version").fetchone()[0])
                if not has_table(connection, table):
                    return False
                statement = f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608  # our own names
                connection.execute(statement, [*row.values()])
                connection.commit()
        except sqlite3.Error as error:
            raise StateStoreError(f"the state store cannot be used: {type(error).__name__}") from error
        return True

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """Begin a transaction that reads; None if the process that makes the file has not finished."""
        try:
            with closing(self._connect()) as connection:
                found = connection.execute("PRAGMA user_version").fetchone()[0]
                schema.check_version(found)
                if found not in schema.READABLE:
                    raise OlderStateError(f"the state store has schema {found}, of an earlier version of Scancer API")
                yield connection if has_table(connection, schema.GENERATION) else None
        except sqlite3.Error as error:
            raise StateStoreError(f"the state store cannot be used: {type(error).__name__}") from error

    def _connect(self) -> sqlite3.Connection:
        """Connect; on a disk too full for the journal's index, read the file alone if it has no journal."""
        connection = self._connect_as("mode=rw")  # SQLite reads a journal only with the right to write
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            journal = self._path.with_name(f"{self._path.name}-wal")
            if error.sqlite_errorcode not in FULL or (journal.exists() and journal.stat().st_size):
                raise
            # Nobody can write the file now; if there is room again, the next generation shows it.
            return self._connect_as("mode=ro&immutable=1")
        return connection

    def _connect_as(self, mode: str, begin: str = "BEGIN") -> sqlite3.Connection:
        address = f"{self._path.resolve().as_uri()}?{mode}"
        connection = sqlite3.connect(address, BUSY_TIMEOUT_S, uri=True, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute(begin)
        return connection


def find_file(url: str) -> Path | None:
    """Return the file of a database's URL as SQLAlchemy opens it; None for no SQLite, and for one in memory."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?(.*))?", url)
    if not found:
        return None
    options = parse_qs(found[2] or "")
    name = unquote(found[1])
    name = unquote(urlsplit(name).path) if "uri" in options else name
    return None if name == ":memory:" or options.get("mode") == ["memory"] else Path(name)


def is_unmade(url: str) -> bool:
    """Whether a database is a SQLite file that nobody has made yet: to connect would make it.

    Raises `StateStoreError` if there is no folder for it, or none that we may enter.
    """
    file = find_file(url)
    if file is None or os.access(file, os.F_OK):
        return False
    if not os.access(file.parent, os.X_OK):
        raise StateStoreError(f"there is no folder {file.parent}, or it may not be entered")
    return True


def has_table(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table was made."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchone() is not None


def read_rows(connection: sqlite3.Connection, table: str) -> schema.Rows:
    """All rows of a table, checked; raises `StateStoreError` if it has other columns than the schema."""
    if table in (schema.LOADS, schema.SHADOWS) and not has_table(connection, table):
        return []
    cursor = connection.execute(f"SELECT * FROM {table}")  # noqa: S608  # our own name
    schema.check_columns(table, [description[0] for description in cursor.description])
    return [schema.check_row(table, dict(row)) for row in cursor]
