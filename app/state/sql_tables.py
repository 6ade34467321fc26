"""The tables of the state store as SQLAlchemy knows them, and what keeps the audit trail from being changed."""

from typing import Any

import sqlalchemy as sql

from app.state import schema


def make_column(column: schema.Column) -> sql.Column[Any]:
    """Make SQLAlchemy's column of a column of the schema."""
    kinds: dict[str, sql.types.TypeEngine[Any]] = {
        "whole": sql.Integer(),
        "large": sql.BigInteger(),
        "truth": sql.Boolean(),
        "real": sql.Double(),
        "text": sql.String(column.length) if column.length else sql.Text(),
    }
    return sql.Column(
        column.name, kinds[column.kind], primary_key=column.is_key, autoincrement=False, nullable=column.may_be_null
    )


metadata = sql.MetaData()
tables = {name: sql.Table(name, metadata, *map(make_column, columns)) for name, columns in schema.TABLES.items()}


TRAIL = schema.AUDIT
REFUSAL = "the audit trail takes no change"
ABORT = f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
TRIGGERS = {
    "sqlite": (
        f"CREATE TRIGGER {TRAIL}_update BEFORE UPDATE ON {TRAIL} {ABORT}",
        f"CREATE TRIGGER {TRAIL}_delete BEFORE DELETE ON {TRAIL} {ABORT}",
        # INSERT OR REPLACE deletes without asking the trigger above.
        f"CREATE TRIGGER {TRAIL}_insert BEFORE INSERT ON {TRAIL} "  # noqa: S608  # our own names
        f"WHEN EXISTS (SELECT 1 FROM {TRAIL} WHERE id = NEW.id) {ABORT}",
    ),
    "postgresql": (
        f"CREATE OR REPLACE FUNCTION {TRAIL}_refuse() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$",
        f"CREATE TRIGGER {TRAIL}_change BEFORE UPDATE OR DELETE ON {TRAIL} "
        f"FOR EACH ROW EXECUTE FUNCTION {TRAIL}_refuse()",
        f"CREATE TRIGGER {TRAIL}_truncate BEFORE TRUNCATE ON {TRAIL} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {TRAIL}_refuse()",
    ),
}
"""What makes the table of the audit trail one that only grows, by database. It is made with the table.

Whoever owns the database can drop a trigger; the log has every entry too. Other databases have none: MySQL lets few
users make triggers while it keeps a binary log, and a server must start there all the same.
"""
for dialect, statements in TRIGGERS.items():
    for statement in statements:
        trigger: sql.ExecutableDDLElement = sql.DDL(statement)  # type: ignore[no-untyped-call]  # it has no annotations
        sql.event.listen(tables[TRAIL], "after_create", trigger.execute_if(dialect=dialect))
