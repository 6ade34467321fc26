"""Copies all tables of ours from a database of `SCANCER_DATABASE` to SQLite, and back, with SQLAlchemy."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sql

from app.errors import StateStoreError
from app.state import schema
from app.state.copying.state_copy import PREFIX
from app.state.sql_tables import tables
from app.state.state_file import find_file, is_unmade
from app.state.state_store import (
    VERSION_TABLE,
    begin_writing,
    forget_schema_version,
    generations,
    make_engine,
    prepare_tables,
    read_schema_version,
    translate_errors,
)

log = logging.getLogger(__name__)

BATCH_ROWS = 1000
TAKES_BACK = ("sqlite", "postgresql")
"""Databases whose transactions take tables back, too; others, such as MySQL, make and drop them at once."""
WAIT_NOT = {
    "postgresql": "SET LOCAL lock_timeout = '10s'",
    "mysql": "SET SESSION lock_wait_timeout = 10",
    "mariadb": "SET SESSION lock_wait_timeout = 10",
}
"""To drop a table waits for whoever reads it, without a bound of its own."""


@contextmanager
def hold_database(url: str, copy: sqlite3.Connection) -> Iterator[None]:
    """Copy every table of ours to an empty SQLite database, and exclude writers until the block ends.

    Raises `StateStoreError` if the database cannot be read.
    """
    with translate_errors():
        engine = make_engine(url)
        with closing_engine(engine), begin_writing(engine) as connection:
            lock_rows(connection)
            fill_copy(connection, copy)
            yield


def describe_database(url: str) -> str:
    """Say which schema a database has; raises `StateStoreError` if it cannot be used, and changes nothing."""
    if is_unmade(url):
        return f"{find_file(url)} is not there yet: the first start makes it"
    with translate_errors():
        engine = make_engine(url, only_looks=True)
        with closing_engine(engine), engine.connect() as connection:
            found, kind = read_schema_version(connection), connection.dialect.name
            is_empty = not sql.inspect(connection).has_table(schema.GENERATION)
    schema.check_version(found)
    if is_empty:
        return f"{kind} answers, and has no tables yet"
    told = f"{kind} answers, with schema {found}"
    return told if found == schema.SCHEMA_VERSION else f"{told}; the next start brings it forward, so back up first"


@contextmanager
def look_at(url: str) -> Iterator[sql.Connection | None]:
    """Lend a connection that reads, and makes no table; None unless all tables are there, of this release's schema."""
    if is_unmade(url):
        yield None
        return
    with translate_errors():
        engine = make_engine(url, only_looks=True)
        with closing_engine(engine), engine.connect() as connection:
            found = sql.inspect(connection)
            is_whole = all(found.has_table(name) for name in schema.TABLES)
            yield connection if is_whole and read_schema_version(connection) == schema.SCHEMA_VERSION else None


@contextmanager
def closing_engine(engine: sql.Engine) -> Iterator[None]:
    """Close an engine's connections when the block ends."""
    try:
        yield
    finally:
        engine.dispose()


def lock_rows(connection: sql.Connection) -> None:
    """Lock the rows that writers lock, one of the models and one of the users: MySQL has nothing else to wait for."""
    for table in (generations, tables[schema.USERS_MARK]):
        if sql.inspect(connection).has_table(table.name):
            connection.execute(sql.select(sql.literal_column("1")).select_from(table).with_for_update())


def reflect(connection: sql.Connection) -> dict[str, sql.Table]:
    """Describe the tables of ours that a database has, by name, but for the one of the schema's version."""
    found = sql.MetaData()
    found.reflect(connection, only=lambda name, _: name.startswith(PREFIX) and name != VERSION_TABLE)
    return {name: table for name, table in found.tables.items() if name.startswith(PREFIX)}  # no others by foreign keys


def fill_copy(connection: sql.Connection, copy: sqlite3.Connection) -> None:
    """Make the same tables with the same rows in SQLite, and mark the copy with the schema's version."""
    target = sql.create_engine("sqlite://", creator=lambda: copy, poolclass=sql.StaticPool)
    with target.connect() as into:
        for table in reflect(connection).values():
            made = describe_copy(table)
            made.create(into)
            copy_rows(connection, table, into, made)
        into.exec_driver_sql(f"PRAGMA user_version = {read_schema_version(connection)}")
        into.commit()


def describe_copy(table: sql.Table) -> sql.Table:
    """Describe the copy of a table: as this release makes it, triggers and all, if it has the same columns."""
    ours = tables.get(table.name)
    if ours is not None and set(ours.columns.keys()) == set(table.columns.keys()):
        return ours
    columns = [
        sql.Column(each.name, each.type.as_generic(), primary_key=each.primary_key, nullable=each.nullable)
        for each in table.columns
    ]
    return sql.Table(table.name, sql.MetaData(), *columns)


def copy_rows(source: sql.Connection, table: sql.Table, into: sql.Connection, target: sql.Table) -> None:
    """Copy all rows of a table to another one of the same columns, but for those whose keys are there."""
    keys = [column.name for column in target.primary_key]
    known = {tuple(row) for row in into.execute(sql.select(*(target.c[key] for key in keys)))}
    for rows in source.execute(sql.select(table)).mappings().partitions(BATCH_ROWS):
        new = [dict(row) for row in rows if tuple(row[key] for key in keys) not in known]
        if new:
            into.execute(sql.insert(target), new)


def keep_trail(present: sql.Connection, into: sql.Connection) -> None:
    """Add the rows of the tables that only grow: a restore must not be a way to lose them."""
    for name, table in reflect(present).items():
        if name in schema.APPENDED:
            if lacking := set(tables[name].columns.keys()) - set(table.columns.keys()):
                log.warning(
                    "the audit trail that is replaced is lost", extra={"reason": f"it has no {sorted(lacking)}"}
                )
            else:
                copy_rows(present, tables[name], into, tables[name])


def is_ours(connection: sql.Connection, found: dict[str, sql.Table]) -> bool:
    """Whether the tables that a database has are as this release makes them."""
    return read_schema_version(connection) == schema.SCHEMA_VERSION and all(
        set(found[name].columns.keys()) == set(tables[name].columns.keys()) for name in found.keys() & tables.keys()
    )


def find_generation(connection: sql.Connection, found: dict[str, sql.Table]) -> int:
    """Return the number of the last change, whichever release made the tables; 0 if they have none."""
    table = found.get(schema.GENERATION)
    if table is None or "value" not in table.columns:
        return 0
    return connection.scalar(sql.select(sql.func.max(table.c.value))) or 0


def drop_tables(connection: sql.Connection, found: dict[str, sql.Table]) -> None:
    """Drop the tables of another release, also those that this one does not know; the mark of its schema goes last."""
    if wait_not := WAIT_NOT.get(connection.dialect.name):
        connection.exec_driver_sql(wait_not)
    if found:
        next(iter(found.values())).metadata.drop_all(connection, [*found.values()])
    forget_schema_version(connection)


def replace_database(source: Path, url: str, is_trial: bool = False) -> None:
    """Put all rows of a SQLite file into a database, in the place of those that are there, in one transaction.

    Tables of `schema.APPENDED` keep theirs, and get what they lack. Tables of another release, older or newer, are
    dropped, and this release's are made. The generation becomes larger than both, so that every server that follows the
    database sees the change. A trial takes everything back in the end.
    Raises `StateStoreError`.
    """
    with translate_errors():
        engine, file = make_engine(url), make_engine(source)
        with closing_engine(engine), closing_engine(file), begin_writing(engine) as into, file.connect() as rows:
            lock_rows(into)
            found = reflect(into)
            before = find_generation(into, found)
            if not is_ours(into, found):
                if is_trial and into.dialect.name not in TAKES_BACK:
                    return
                keep_trail(into, rows)
                rows.commit()  # where tables go at once, the trail must be in the file before
                drop_tables(into, found)
            prepare_tables(into)
            fill_database(rows, into, before)
            if is_trial:
                into.rollback()


def fill_database(rows: sql.Connection, into: sql.Connection, before: int) -> None:
    """Replace the rows of this release's tables; see `replace_database`."""
    theirs, ours = reflect(rows), reflect(into)
    if unknown := theirs.keys() - ours.keys():
        raise StateStoreError(f"the backup holds tables that this server does not know: {sorted(unknown)}")
    for name, table in ours.items():
        if name not in schema.APPENDED:
            into.execute(sql.delete(table))
        if name in theirs:
            copy_rows(rows, theirs[name], into, table)
    after = max(before, into.scalar(sql.select(generations.c.value)) or 0) + 1
    into.execute(sql.delete(generations))
    into.execute(sql.insert(generations).values(id=1, value=after))
