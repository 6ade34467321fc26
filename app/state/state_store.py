"""Keeps what is wanted in a database: one SQLite file in the instance folder, or another database by its URL.

Every change is one transaction that also counts the generation up. A process killed at any point leaves the state
before the change or after it, and a worker sees by one number whether there is a change to follow.

Import this module only to change something: SQLAlchemy takes 0.3 s of CPU and 17 MB. `state_file` reads the SQLite file
without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
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
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeEngine

from app.errors import DiskFullError, StateStoreError
from app.processes.disk_errors import DISK_IS_FULL
from app.state import schema
from app.state.state_file import BUSY_TIMEOUT_S, FULL
from app.state.wanted import Key, WantedState, WantedVersion

SCHEMA_LOCK = 7266263  # any number, for PostgreSQL's advisory locks
VERSION_TABLE = "scancer_schema"
"""Holds the schema's version where the database has no place for it; SQLite has `PRAGMA user_version`."""


def make_column(column: schema.Column) -> Column[Any]:
    """Make SQLAlchemy's column of a column of the schema."""
    text: TypeEngine[Any] = String(column.length) if column.length else Text()
    kinds: dict[str, TypeEngine[Any]] = {"whole": Integer(), "large": BigInteger(), "truth": Boolean(), "text": text}
    return Column(
        column.name, kinds[column.kind], primary_key=column.is_key, autoincrement=False, nullable=column.may_be_null
    )


metadata = MetaData()
generations, versions, defaults, strays = (
    Table(name, metadata, *map(make_column, schema.TABLES[name]))
    for name in (schema.GENERATION, schema.VERSIONS, schema.DEFAULTS, schema.STRAYS)
)
schema_versions = Table(VERSION_TABLE, MetaData(), Column("version", Integer, primary_key=True, autoincrement=False))


@dataclass
class Draft:
    """The wanted state while it is being changed; see `WantedState`."""

    versions: dict[Key, WantedVersion]
    defaults: dict[str, str]
    strays: set[str]
    generation: int

    def put(self, wanted: WantedVersion) -> None:
        """Add or replace a version; its numbers are sound now, so the fault of a kept row goes."""
        self.versions[wanted.key] = replace(wanted, fault="")

    def freeze(self) -> WantedState:
        """The state as it stands."""
        return WantedState(self.generation, dict(self.versions), dict(self.defaults), frozenset(self.strays))


class StateStore:
    """The wanted state in a database.

    Args:
        place: the URL of a database, or the path of a SQLite file.

    Raises:
        StateStoreError: the database cannot be opened, read or changed, or has another schema. All methods raise it.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, place: str | Path) -> None:
        url = URL.create("sqlite", database=str(place)) if isinstance(place, Path) else place
        with ExitStack() as undo, translate_errors():
            self._engine = make_engine(url)
            undo.callback(self.close)
            with self._write() as connection:
                prepare_tables(connection)
            undo.pop_all()

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
        """Begin a transaction that excludes other writers."""
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
    """Make an engine; SQLite's gets a journal, and its writers take the lock when they begin."""
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


def prepare_tables(connection: Connection) -> None:
    """Make the tables that are missing; raises `StateStoreError` for those of another schema."""
    found = read_schema_version(connection)
    schema.check_version(found)
    metadata.create_all(connection)
    for table in metadata.tables:
        schema.check_columns(table, [each["name"] for each in inspect(connection).get_columns(table)])
    if found != schema.SCHEMA_VERSION:
        write_schema_version(connection)
    if connection.scalar(select(generations.c.value)) is None:
        connection.execute(insert(generations).values(id=1, value=0))


def read_schema_version(connection: Connection) -> int:
    """The version of the schema that the database says; `UNMARKED_VERSION` if it says none."""
    if connection.dialect.name == "sqlite":
        found: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        return found
    if not inspect(connection).has_table(VERSION_TABLE):
        return schema.UNMARKED_VERSION
    return connection.scalar(select(func.max(schema_versions.c.version))) or schema.UNMARKED_VERSION


def write_schema_version(connection: Connection) -> None:
    """Mark the database with the version of our schema."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        return
    schema_versions.create(connection, checkfirst=True)
    connection.execute(insert(schema_versions).values(version=schema.SCHEMA_VERSION))


def read_generation(connection: Connection) -> int:
    """The generation, in a transaction."""
    return int(read_rows(connection, generations)[0]["value"])


def read_rows(connection: Connection, table: Table) -> list[Mapping[str, Any]]:
    """All rows of a table, checked."""
    return [schema.check_row(table.name, dict(row)) for row in connection.execute(select(table)).mappings()]


def read_state(connection: Connection) -> Draft:
    """Everything, in a transaction.

    The generation is read first. A transaction that sees others' commits meanwhile then has a generation that is too
    small, not too large, and the next look finds the rest.
    """
    generation = read_generation(connection)
    known = map(schema.make_wanted, read_rows(connection, versions))
    chosen = {row["name"]: row["version"] for row in read_rows(connection, defaults)}
    tokens = {row["token"] for row in read_rows(connection, strays)}
    return Draft({each.key: each for each in known}, chosen, tokens, generation)


def write_differences(connection: Connection, before: WantedState, after: WantedState) -> None:
    """Write what differs, and the generation."""
    write_rows(connection, versions, *(list(map(asdict, state.versions.values())) for state in (before, after)))
    chosen = ([{"name": name, "version": each} for name, each in state.defaults.items()] for state in (before, after))
    write_rows(connection, defaults, *chosen)
    write_rows(connection, strays, *([{"token": token} for token in state.strays] for state in (before, after)))
    connection.execute(update(generations).values(value=after.generation))


def write_rows(connection: Connection, table: Table, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """Delete the rows of a table that have changed or gone, and insert those that are new."""
    for row in before:
        if row not in after:
            keys = [column == row[column.name] for column in table.primary_key]
            connection.execute(delete(table).where(*keys))
    for row in after:
        if row not in before:
            connection.execute(insert(table).values({column.name: row[column.name] for column in table.columns}))
