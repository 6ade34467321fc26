"""The tables of the state store: the one description that both of its readers go by.

`state_file` reads them with Python's sqlite3, `state_store` reads and writes them with SQLAlchemy.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, NamedTuple

from app.errors import OutOfBoundsError, StateStoreError
from app.manifest.bounds import POOL_BOUNDS, read_whole
from app.state.wanted import Shadow, WantedState, WantedVersion

SCHEMA_VERSION = 1
UNMARKED_VERSION = 0
"""Of databases that were made before schemas had versions."""
READABLE = (UNMARKED_VERSION, SCHEMA_VERSION)
"""Versions whose tables may be read as they are; a store of an older one is brought forward first."""
GENERATION, VERSIONS, DEFAULTS, STRAYS = "scancer_generation", "scancer_versions", "scancer_defaults", "scancer_strays"
LOADS, SHADOWS, OUTCOMES = "scancer_loads", "scancer_shadows", "scancer_outcomes"
USERS, TOKENS, USERS_MARK = "scancer_users", "scancer_tokens", "scancer_users_mark"
AUDIT = "scancer_audit"
"""Newer than the other tables: a store without them is sound, and gets them with the next change."""
APPENDED = frozenset((AUDIT,))
"""Tables whose rows are never changed or removed, so a restore adds to them."""
REMEDY = "restore it from a backup, or move it away and register the models anew"
UNSAID = {field.name: field.default for field in fields(WantedVersion) if field.name in POOL_BOUNDS}
"""By bounded number of a version: the value that stands where nothing was asked for."""
Rows = list[Mapping[str, Any]]


class Column(NamedTuple):
    """A column of a table; `large` is a whole number of 64 bits, and a text without a length may have any."""

    name: str
    kind: Literal["text", "whole", "large", "truth", "real"]
    length: int | None = None
    is_key: bool = False
    may_be_null: bool = False


TABLES = {
    GENERATION: (Column("id", "whole", is_key=True), Column("value", "large")),
    VERSIONS: (
        Column("name", "text", 255, is_key=True),
        Column("version", "text", 64, is_key=True),
        Column("url", "text"),
        Column("is_registered", "truth"),
        Column("token", "text", 400, may_be_null=True),
        Column("min_workers", "whole"),
        Column("max_workers", "whole"),
        Column("batch_size", "whole", may_be_null=True),
        Column("max_batch_delay_ms", "whole", may_be_null=True),
        Column("response_timeout_s", "whole"),
        Column("startup_timeout_s", "whole"),
    ),
    DEFAULTS: (Column("name", "text", 255, is_key=True), Column("version", "text", 64)),
    STRAYS: (Column("token", "text", 400, is_key=True),),
    LOADS: (Column("name", "text", 255, is_key=True), Column("generation", "large")),
    SHADOWS: (Column("name", "text", 255, is_key=True), Column("version", "text", 64), Column("share", "real")),
    OUTCOMES: (
        Column("request_id", "text", 64, is_key=True),
        Column("position", "whole", is_key=True),
        Column("name", "text", 255),
        Column("version", "text", 64),
        Column("network", "text", 16),
        Column("class_name", "text"),
        Column("score", "real", may_be_null=True),
        Column("truth", "text"),
    ),
    USERS: (
        Column("name", "text", 64, is_key=True),
        Column("role", "text", 16),
        Column("password_hash", "text", 255),
        Column("models", "text"),
    ),
    TOKENS: (
        Column("id", "text", 8, is_key=True),
        Column("name", "text", 64),
        Column("digest", "text", 64),
        Column("made", "large"),
        Column("expires", "large", may_be_null=True),
    ),
    USERS_MARK: (Column("id", "whole", is_key=True), Column("value", "large")),
    AUDIT: (
        Column("id", "text", 32, is_key=True),
        Column("at_ms", "large"),
        Column("actor", "text", 64),
        Column("action", "text", 32),
        Column("subject", "text", 400),
        Column("client", "text", 64),
    ),
}


def check_version(found: int) -> None:
    """Raise `StateStoreError` for a state that this release can neither read nor bring forward."""
    if found > SCHEMA_VERSION:
        raise StateStoreError(
            f"this state was written by a newer version of Scancer API: it has schema {found}, and this version knows "
            f"schema {SCHEMA_VERSION}. Start the newer version again, or restore the backup that was made before the "
            "upgrade"
        )
    if found < 0:
        raise StateStoreError(f"the state store has schema {found}, which no version ever had: {REMEDY}")


def check_columns(table: str, found: Iterable[str]) -> None:
    """Raise `StateStoreError` unless a table has the columns of the schema, in any order."""
    known, names = {column.name for column in TABLES[table]}, set(found)
    if names != known:
        faults = [f"lacks {name}" for name in sorted(known - names)]
        faults += [f"has the unknown column {name}" for name in sorted(names - known)]
        raise StateStoreError(f"the state store's table {table} {' and '.join(faults)}: {REMEDY}")


def check_row(table: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row; raises `StateStoreError` if a text column holds no text, or a large one no whole number.

    SQLite keeps any value in any column. Other numbers are bounded by `make_wanted`, for each version alone.
    """
    for column in TABLES[table]:
        value, kind = row[column.name], {"text": str, "large": int, "real": float}.get(column.kind, object)
        if not isinstance(value, kind) and not (value is None and column.may_be_null):
            raise StateStoreError(f"the state store's table {table} holds a wrong {column.name}: {REMEDY}")
    return row


def read_state(read_rows: Callable[[str], Rows]) -> WantedState:
    """Read all that is wanted, in the transaction of `read_rows`, which reads a table.

    The generation is read first. A transaction that sees others' commits meanwhile then has a generation that is too
    small, not too large, and the next look finds the rest.
    """
    generation = read_generation(read_rows)
    versions = {each.key: each for each in map(make_wanted, read_rows(VERSIONS))}
    chosen = {row["name"]: row["version"] for row in read_rows(DEFAULTS)}
    strays = frozenset(row["token"] for row in read_rows(STRAYS))
    loads = {row["name"]: row["generation"] for row in read_rows(LOADS)}
    shadows = {row["name"]: Shadow(row["version"], row["share"]) for row in read_rows(SHADOWS)}
    return WantedState(generation, versions, chosen, strays, loads, shadows)


def read_generation(read_rows: Callable[[str], Rows]) -> int:
    """Read the number of the last change; 0 if there never was one."""
    rows = read_rows(GENERATION)
    return rows[0]["value"] if rows else 0


def make_wanted(row: Mapping[str, Any]) -> WantedVersion:
    """Make a version of its row. A number out of bounds becomes the version's fault; its default takes its place."""
    values, faults = {**row, "is_registered": bool(row["is_registered"])}, []
    for name, default in UNSAID.items():
        try:
            values[name] = default if row[name] == default else read_whole(name, row[name], POOL_BOUNDS[name])
        except OutOfBoundsError as error:
            values[name] = default
            faults.append(error.message)
    fault = f"the state store says {'; '.join(faults)}. Scale or register the version again." if faults else ""
    return WantedVersion(**values, fault=fault)
