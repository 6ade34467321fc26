"""Reads what is wanted from the SQLite file in the instance folder, with what Python has itself.

Every worker reads, few ever write: SQLAlchemy (`state_store`) takes 0.3 s of CPU and 17 MB, and the first change of a
server would have all its workers import it at once, while they answer requests.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from app.errors import StateStoreError
from app.state.wanted import WantedState, WantedVersion

GENERATION, VERSIONS, DEFAULTS, STRAYS = "scancer_generation", "scancer_versions", "scancer_defaults", "scancer_strays"
BUSY_TIMEOUT_S = 10
FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


class StateFile:
    """The file, for who reads; made by `StateStore`.

    Every method raises `StateStoreError` if it cannot be read.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_generation(self) -> int:
        """Return the number of the last change; 0 if there never was one."""
        with self._open() as connection:
            return read_generation(connection) if connection is not None else 0

    def read(self) -> WantedState:
        """Return all that is wanted, as one transaction sees it."""
        with self._open() as connection:
            if connection is None:
                return WantedState()
            generation = read_generation(connection)
            versions = [read_version(row) for row in connection.execute(f"SELECT * FROM {VERSIONS}")]  # noqa: S608  # ours
            chosen = {row["name"]: row["version"] for row in connection.execute(f"SELECT * FROM {DEFAULTS}")}  # noqa: S608  # as above
            tokens = frozenset(row["token"] for row in connection.execute(f"SELECT token FROM {STRAYS}"))  # noqa: S608  # as above
            return WantedState(generation, {each.key: each for each in versions}, chosen, tokens)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """A transaction that reads; None if whoever makes the file has not finished."""
        try:
            with closing(self._connect()) as connection:
                made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [GENERATION]).fetchone()
                yield connection if made else None
        except sqlite3.Error as error:
            raise StateStoreError(f"the state store cannot be used: {type(error).__name__}") from error

    def _connect(self) -> sqlite3.Connection:
        """Begin to read: the file alone where a full disk has no room for the journal's index, and there is no journal.

        Nobody can write it then. Should there be room again at this moment, the next generation tells.
        """
        connection = self._connect_as("mode=rw")  # a journal is read only by who may write
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            journal = self._path.with_name(f"{self._path.name}-wal")
            if error.sqlite_errorcode not in FULL or (journal.exists() and journal.stat().st_size):
                raise
            return self._connect_as("mode=ro&immutable=1")
        return connection

    def _connect_as(self, mode: str) -> sqlite3.Connection:
        address = f"{self._path.resolve().as_uri()}?{mode}"
        connection = sqlite3.connect(address, BUSY_TIMEOUT_S, uri=True, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        return connection


def read_generation(connection: sqlite3.Connection) -> int:
    """The generation, in a transaction."""
    row = connection.execute(f"SELECT value FROM {GENERATION}").fetchone()  # noqa: S608  # our own name
    return int(row["value"]) if row else 0


def read_version(row: sqlite3.Row) -> WantedVersion:
    """A version; SQLite has no truth values."""
    values = dict(row)
    return WantedVersion(**values | {"is_registered": bool(values["is_registered"])})
