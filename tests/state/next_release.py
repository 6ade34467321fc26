"""Plays a later release, with a table and columns of its own: `python -m tests.state.next_release PLACE`.

Opens the state, and prints schema and notes. PLACE is a URL of a database, or the path of a file.
"""

import sys
from pathlib import Path

from app.state import migrations, schema

schema.SCHEMA_VERSION = 2
schema.READABLE = (2,)
schema.TABLES[schema.VERSIONS] += (schema.Column("note", "text"),)
schema.TABLES[schema.AUDIT] += (schema.Column("place", "text"),)
schema.TABLES["scancer_reviews"] = (schema.Column("id", "whole", is_key=True), schema.Column("name", "text"))
migrations.STEPS[2] = (
    "ALTER TABLE scancer_versions ADD COLUMN note TEXT NOT NULL DEFAULT 'none yet'",
    "UPDATE scancer_versions SET note = version WHERE version <> '1.0'",
    "ALTER TABLE scancer_audit ADD COLUMN place TEXT NOT NULL DEFAULT 'here'",
    "CREATE TABLE scancer_reviews (id INTEGER PRIMARY KEY, name VARCHAR(255) REFERENCES scancer_defaults (name))",
    "INSERT INTO scancer_reviews SELECT 1, min(name) FROM scancer_defaults",
)
from sqlalchemy import text  # noqa: E402

from app.errors import OlderStateError, StateStoreError  # noqa: E402
from app.state.state_file import StateFile  # noqa: E402
from app.state.state_store import StateStore, read_schema_version  # noqa: E402


def main() -> None:
    place = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    if isinstance(place, Path):
        try:
            StateFile(place).read_generation()
        except OlderStateError as error:
            print(error.message)
    try:
        store = StateStore(place)
    except StateStoreError as error:
        sys.exit(error.message)
    with store._engine.connect() as connection:
        rows = connection.execute(text("SELECT version, note FROM scancer_versions ORDER BY version")).all()
        print(read_schema_version(connection), [tuple(row) for row in rows])
    store.close()
    if isinstance(place, Path):
        print(StateFile(place).read_generation())


if __name__ == "__main__":
    main()
