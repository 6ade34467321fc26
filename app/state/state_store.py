"""Keeps what is wanted in a database: one SQLite file in the instance folder, or another database by its URL.

A change is one transaction, which also counts the generation up. A process killed at any point leaves
the state before the change or after it, and a worker sees by one number whether there is a change to follow.

Import this module only to change something, or to read another database: SQLAlchemy takes 0.3 s of CPU and 17 MB.
`state_file` reads the SQLite file without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from app.errors import DiskFullError, StateStoreError
from app.processes.disk_errors import DISK_IS_FULL, translate_disk_errors
from app.processes.exposure import make_private
from app.state import schema
from app.state.migrations import migrate
from app.state.outcome import Outcome
from app.state.sql_tables import metadata, tables
from app.state.state_file import BUSY_TIMEOUT_S, FULL, find_file
from app.state.wanted import Key, Shadow, WantedState, WantedVersion

WRITERS_LOCK = 7266263  # any number, for PostgreSQL's advisory locks
JOURNALS = "-wal", "-shm"
"""What SQLite adds to the name of a file for those beside it."""
VERSION_TABLE = "scancer_schema"
"""Holds the schema's version where the database has no place for it; SQLite has `PRAGMA user_version`."""
generations = tables[schema.GENERATION]
schema_versions = sql.Table(
    VERSION_TABLE, sql.MetaData(), sql.Column("version", sql.Integer, primary_key=True, autoincrement=False)
)


@dataclass
class Draft:
    """A `WantedState` while it is being changed."""

    versions: dict[Key, WantedVersion]
    defaults: dict[str, str]
    strays: set[str]
    loads: dict[str, int]
    shadows: dict[str, Shadow]
    generation: int

    def put(self, wanted: WantedVersion) -> None:
        """Add or replace a version; its numbers are sound now, so the fault of a kept row goes."""
        self.versions[wanted.key] = replace(wanted, fault="")

    def freeze(self) -> WantedState:
        """The state as it stands."""
        versions, defaults, loads = dict(self.versions), dict(self.defaults), dict(self.loads)
        return WantedState(self.generation, versions, defaults, frozenset(self.strays), loads, dict(self.shadows))


class StateStore:
    """The wanted state in a database: one of a URL, or the SQLite file of a path.

    All methods raise `DiskFullError`, and `StateStoreError` if the database cannot be opened, read or changed, or has
    another schema.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, place: str | Path) -> None:
        with ExitStack() as undo, translate_errors():
            self._engine = make_engine(place)
            undo.callback(self.close)
            with self.write() as connection:
                prepare_tables(connection)
            undo.pop_all()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def read_generation(self) -> int:
        """Return the number of the last change."""
        with translate_errors(), self._engine.connect() as connection:
            return schema.read_generation(partial(read_rows, connection))

    def read(self) -> WantedState:
        """Return all that is wanted, as one transaction sees it."""
        with translate_errors(), self._engine.connect() as connection:
            return schema.read_state(partial(read_rows, connection))

    @contextmanager
    def change(self) -> Iterator[Draft]:
        """Change what is wanted: `with store.change() as draft: …`, one at a time in all processes.

        Nothing is changed if the block raises. The draft's generation is that of the change.
        """
        with self.write() as connection:
            connection.execute(sql.select(generations).with_for_update())  # excludes other writers on other databases
            before = schema.read_state(partial(read_rows, connection))
            kept = dict(before.versions), dict(before.defaults), set(before.strays), dict(before.loads)
            draft = Draft(*kept, dict(before.shadows), before.generation + 1)
            yield draft
            write_differences(connection, before, draft.freeze())

    def put_outcome(self, outcome: Outcome) -> None:
        """Keep the truth of an answer, in the place of an earlier one."""
        table = tables[schema.OUTCOMES]
        with self.write() as connection:
            keys = table.c.request_id == outcome.request_id, table.c.position == outcome.position
            connection.execute(sql.delete(table).where(*keys))
            connection.execute(sql.insert(table).values(asdict(outcome)))

    def read_outcomes(self, name: str, version: str, network: str) -> list[Outcome]:
        """Return the truths of the answers that a version's network gave."""
        table = tables[schema.OUTCOMES]
        query = sql.select(table).where(table.c.name == name, table.c.version == version, table.c.network == network)
        with translate_errors(), self._engine.connect() as connection:
            return [Outcome(**row) for row in connection.execute(query).mappings()]

    def insert(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row to a table, unless its key is there: the answer to an earlier try may have been lost."""
        with self.write() as connection:
            made = tables[table]
            keys = [column == row[column.name] for column in made.primary_key]
            if connection.execute(sql.select(*made.primary_key).where(*keys)).first() is None:
                connection.execute(sql.insert(made).values(**row))

    @contextmanager
    def look(self) -> Iterator[sql.Connection]:
        """Lend a connection that reads."""
        with translate_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sql.Connection]:
        """Begin a transaction that writes; see `begin_writing`."""
        with translate_errors(), begin_writing(self._engine) as connection:
            yield connection


@contextmanager
def begin_writing(engine: sql.Engine) -> Iterator[sql.Connection]:
    """Begin a transaction that writes; on SQLite and PostgreSQL it excludes other writers, also of new tables."""
    with engine.connect().execution_options(scancer_writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sql.text("SELECT pg_advisory_xact_lock(:number)"), {"number": WRITERS_LOCK})
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


def make_engine(place: str | Path, only_looks: bool = False) -> sql.Engine:
    """Make an engine for a URL, or for the SQLite file of a path; SQLite's writers take the lock when they begin.

    A SQLite file is made if need be, is for its owner alone, and gets a journal, unless the engine `only_looks`.
    """
    url = sql.URL.create("sqlite", database=str(place)) if isinstance(place, Path) else sql.make_url(place)
    if url.get_backend_name() != "sqlite":
        return sql.create_engine(url, pool_pre_ping=True, pool_size=2, isolation_level="READ COMMITTED")
    file = place if isinstance(place, Path) else find_file(place)
    if file is not None and not only_looks:  # SQLite gives the journal the mode of the file
        with translate_disk_errors(StateStoreError, "the state store cannot be used"):
            make_private(file, *(file.with_name(file.name + end) for end in JOURNALS))
    engine = sql.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sql.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late for a writer
        if not only_looks:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

    @sql.event.listens_for(engine, "begin")
    def begin(connection: sql.Connection) -> None:
        writes = connection.get_execution_options().get("scancer_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def prepare_tables(connection: sql.Connection) -> None:
    """Bring the tables to this release's schema, and make those that are missing.

    Raises `StateStoreError` for tables of a later release, or of none.
    """
    found = read_schema_version(connection)
    schema.check_version(found)
    if sql.inspect(connection).has_table(schema.GENERATION):
        migrate(lambda statement: connection.execute(sql.text(statement)), found)
    metadata.create_all(connection)
    for table in metadata.tables:
        schema.check_columns(table, [each["name"] for each in sql.inspect(connection).get_columns(table)])
    if found != schema.SCHEMA_VERSION:
        write_schema_version(connection)
    for counted in (generations, tables[schema.USERS_MARK]):
        if connection.scalar(sql.select(counted.c.value)) is None:
            connection.execute(sql.insert(counted).values(id=1, value=0))


def read_schema_version(connection: sql.Connection) -> int:
    """The version of the schema that the database says; `UNMARKED_VERSION` if it says none."""
    if connection.dialect.name == "sqlite":
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if not sql.inspect(connection).has_table(VERSION_TABLE):
        return schema.UNMARKED_VERSION
    return connection.scalar(sql.select(sql.func.max(schema_versions.c.version))) or schema.UNMARKED_VERSION


def write_schema_version(connection: sql.Connection) -> None:
    """Mark the database with the version of our schema."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
    else:
        schema_versions.create(connection, checkfirst=True)
        connection.execute(sql.insert(schema_versions).values(version=schema.SCHEMA_VERSION))


def forget_schema_version(connection: sql.Connection) -> None:
    """Take the mark from a database whose tables are gone."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {schema.UNMARKED_VERSION}")
    else:
        schema_versions.drop(connection, checkfirst=True)


def read_rows(connection: sql.Connection, table: str) -> schema.Rows:
    """All rows of a table, checked."""
    return [schema.check_row(table, dict(row)) for row in connection.execute(sql.select(tables[table])).mappings()]


def list_rows(state: WantedState) -> dict[str, list[dict[str, Any]]]:
    """The rows that a state has in each table."""
    return {
        schema.VERSIONS: [asdict(wanted) for wanted in state.versions.values()],
        schema.DEFAULTS: [{"name": name, "version": version} for name, version in state.defaults.items()],
        schema.STRAYS: [{"token": token} for token in state.strays],
        schema.LOADS: [{"name": name, "generation": generation} for name, generation in state.loads.items()],
        schema.SHADOWS: [{"name": name, **asdict(shadow)} for name, shadow in state.shadows.items()],
    }


def write_differences(connection: sql.Connection, before: WantedState, after: WantedState) -> None:
    """Delete the rows that have changed or gone, insert those that are new, and write the generation."""
    old, new = list_rows(before), list_rows(after)
    for name in old:
        table = tables[name]
        for row in old[name]:
            if row not in new[name]:
                keys = [column == row[column.name] for column in table.primary_key]
                connection.execute(sql.delete(table).where(*keys))
        for row in new[name]:
            if row not in old[name]:
                values = {column.name: row[column.name] for column in table.columns}
                connection.execute(sql.insert(table).values(values))
    connection.execute(sql.update(generations).values(value=after.generation))
