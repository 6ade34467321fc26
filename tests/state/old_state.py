"""Writes state stores as releases before schema versions did: the tables of then, in SQLite's own words."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

TABLES = """
CREATE TABLE scancer_generation (id INTEGER NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (id));
CREATE TABLE scancer_versions (
    name VARCHAR(255) NOT NULL, version VARCHAR(64) NOT NULL, url TEXT NOT NULL, is_registered BOOLEAN NOT NULL,
    token VARCHAR(400), min_workers INTEGER NOT NULL, max_workers INTEGER NOT NULL, batch_size INTEGER,
    max_batch_delay_ms INTEGER, response_timeout_s INTEGER NOT NULL, startup_timeout_s INTEGER NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE TABLE scancer_defaults (name VARCHAR(255) NOT NULL, version VARCHAR(64) NOT NULL, PRIMARY KEY (name));
CREATE TABLE scancer_strays (token VARCHAR(400) NOT NULL, PRIMARY KEY (token));
INSERT INTO scancer_generation VALUES (1, 7);
"""
NUMBERS: dict[str, Any] = {
    "min_workers": 1,
    "max_workers": 1,
    "batch_size": None,
    "max_batch_delay_ms": None,
    "response_timeout_s": 0,
    "startup_timeout_s": 0,
}


def write_old_state(path: Path, versions: dict[tuple[str, str], dict[str, Any]], statements: str = "") -> None:
    """Write a store with versions, each with numbers of its own; `statements` follow."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(TABLES)
        for (name, version), numbers in versions.items():
            row = [name, version, f"{name}/{version}", True, None, *(NUMBERS | numbers).values()]
            connection.execute(f"INSERT INTO scancer_versions VALUES ({', '.join('?' * len(row))})", row)
        connection.executescript(statements)
