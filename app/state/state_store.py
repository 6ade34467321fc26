"""Keeps what is wanted in a database: one SQLite file in the instance folder, or another database by its URL.

Every change is one transaction that also counts the generation up, so that a process killed at any point leaves the
state before the change or after it, and a worker sees by one number whether it has something to follow.

Import this module only where something is changed: SQLAlchemy takes 0.3 s of CPU and 17 MB. Who reads the SQLite file
does so by `state_file`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from app.errors import DiskFullError, StateStoreError
from app.processes.disk_errors import DISK_IS_FULL
from app.state.state_file import BUSY_TIMEOUT_S, DEFAULTS, FULL, GENERATION, STRAYS, VERSIONS
from app.state.wanted import Key, WantedState, WantedVersion

SCHEMA_LOCK = 7266263  # any number, of PostgreSQL's advisory locks
metadata = MetaData()
generations = Table(
    GENERATION,
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
versions = Table(
    VERSIONS,
    metadata,
    Column("name", String(255), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("url", Text, nullable=False),
    Column("is_registered", Boolean, nullable=False),
    Column("token", String(400)),
    Column("min_workers", Integer, nullable=False),
    Column("max_workers", Integer, nullable=False),
    Column("batch_size", Integer),
    Column("max_batch_delay_ms", Integer),
    Column("response_timeout_s", Integer, nullable=False),
    Column("startup_timeout_s", Integer, nullable=False),
)
defaults = Table(
    DEFAULTS,
    metadata,
    Column("name", String(255), primary_key=True),
    Column("version", String(64), nullable=False),
)
strays = Table(STRAYS, metadata, Column("token", String(400), primary_key=True))


@dataclass
class Draft:
    """What is wanted, while it is changed; see `WantedState`."""

    versions: dict[Key, WantedVersion]
    defaults: dict[str, str]
    strays: set[str]
    generation: int

    def put(self, wanted: WantedVersion) -> None:
        """Add a version, or say something else of it."""
        self.versions[wanted.key] = wanted

    def freeze(self) -> WantedState:
        """The state as it stands."""
        return WantedState(self.generation, dict(self.versions), dict(self.defaults), frozenset(self.strays))


class StateStore:
    """What is wanted, in a database.

    Args:
        place: the URL of a database, or the path of a SQLite file.

    Raises:
        StateStoreError: the database cannot be opened, read or changed; so do all methods.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, place: str | Path) -> None:
        url = URL.create("sqlite", database=str(place)) if isinstance(place, Path) else place
        with translate_errors():
            self._engine = make_engine(url)
            with self._write() as connection:
                metadata.create_all(connection)
                if connection.scalar(select(generations.c.value)) is None:
                    connection.execute(insert(generations).values(id=1, value=0))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def read_generation(self) -> int:
        """Return the number of the last change."""
        with translate_errors(), self._engine.connect() as connection:
            return read_generation(connection)

    def read(self) -> WantedState:
        """Return all that is wanted, as one transaction sees it."""
        with translate_errors(), self._engine.connect() as connection:
            return read_state(connection).freeze()

    @contextmanager
    def change(self) -> Iterator[Draft]:
        """Change what is wanted: `with store.change() as draft: …`; nothing is changed if the block raises.

        One change is made at a time, in all processes. The draft's generation is that of the change.
        """
        with translate_errors(), self._write() as connection:
            draft = read_state(connection)
            before = draft.freeze()
            draft.generation += 1
            yield draft
            write_differences(connection, before, draft.freeze())

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction that no other writer shares time with."""
        with self._engine.connect().execution_options(scancer_writes=True) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": SCHEMA_LOCK})
            yield connection


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours; the text names no address and no password."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        cause = getattr(error, "orig", None) or error
        if getattr(cause, "sqlite_errorcode", None) in FULL or "disk is full" in str(cause):
            raise DiskFullError(DISK_IS_FULL) from error
        raise StateStoreError(f"the state store cannot be used: {type(cause).__name__}") from error


def make_engine(url: str | URL) -> Engine:
    """Make an engine whose transactions begin as they must: SQLite's writers at once, with a journal."""
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=2, isolation_level="READ COMMITTED")
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late for a writer
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("scancer_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def read_generation(connection: Connection) -> int:
    """The generation, in a transaction."""
    value: int = connection.execute(select(generations.c.value)).scalar_one()
    return value


def read_state(connection: Connection) -> Draft:
    """Everything, in a transaction.

    The generation is read first: where a transaction sees what others commit meanwhile, it is then too small rather
    than too large, and the next look finds the rest.
    """
    generation = read_generation(connection)
    known = [WantedVersion(**row) for row in connection.execute(select(versions)).mappings()]
    chosen = {row.name: row.version for row in connection.execute(select(defaults))}
    tokens = set(connection.execute(select(strays.c.token)).scalars())
    return Draft({each.key: each for each in known}, chosen, tokens, generation)


def write_differences(connection: Connection, before: WantedState, after: WantedState) -> None:
    """Write what differs, and the generation."""
    write_rows(connection, versions, *(list(map(asdict, state.versions.values())) for state in (before, after)))
    chosen = ([{"name": name, "version": each} for name, each in state.defaults.items()] for state in (before, after))
    write_rows(connection, defaults, *chosen)
    write_rows(connection, strays, *([{"token": token} for token in state.strays] for state in (before, after)))
    connection.execute(update(generations).values(value=after.generation))


def write_rows(connection: Connection, table: Table, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """Delete the rows of a table that are no longer as they were, and insert those that are new."""
    for row in before:
        if row not in after:
            keys = [column == row[column.name] for column in table.primary_key]
            connection.execute(delete(table).where(*keys))
    for row in after:
        if row not in before:
            connection.execute(insert(table).values(row))
