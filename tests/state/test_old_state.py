"""An earlier release's state store is adopted, a later one's refused, and a bad row hurts one version alone."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.errors import StateStoreError
from app.manifest.bounds import show
from app.state.schema import SCHEMA_VERSION
from app.state.state_file import StateFile
from app.state.state_store import StateStore
from app.state.wanted import WantedState, WantedVersion
from tests.state.old_state import NUMBERS, write_old_state

GOOD, BAD = ("good-model", "1.0"), ("bad-model", "1.0")
COLUMNS = [
    ("ALTER TABLE scancer_versions ADD COLUMN colour TEXT", "scancer_versions has the unknown column colour"),
    ("ALTER TABLE scancer_versions DROP COLUMN batch_size", "scancer_versions lacks batch_size"),
    ("ALTER TABLE scancer_strays ADD COLUMN since INTEGER", "scancer_strays has the unknown column since"),
    ("ALTER TABLE scancer_generation ADD COLUMN by TEXT", "scancer_generation has the unknown column by"),
]


def read_user_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return version


def read_both(path: Path) -> list[WantedState]:
    """What both readers say."""
    store = StateStore(path)
    try:
        return [StateFile(path).read(), store.read()]
    finally:
        store.close()


def test_store_of_an_earlier_release_is_read_as_it_is_and_marked_when_it_is_opened_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {GOOD: {"min_workers": 2, "max_workers": 3, "batch_size": 4}})
    expected = WantedVersion(*GOOD, "good-model/1.0", min_workers=2, max_workers=3, batch_size=4)
    assert (StateFile(path).read_generation(), read_user_version(path)) == (7, 0)
    assert StateFile(path).read() == WantedState(7, {GOOD: expected})
    for state in read_both(path):
        assert (state.generation, dict(state.versions)) == (7, {GOOD: expected})
    assert read_user_version(path) == SCHEMA_VERSION == 1
    StateStore(path).close()  # once more, as marked


def test_fresh_store_is_marked(tmp_path: Path) -> None:
    StateStore(tmp_path / "state.db").close()
    assert read_user_version(tmp_path / "state.db") == SCHEMA_VERSION


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, -1, 2**31 - 1])
def test_store_of_a_later_release_says_what_to_do_and_is_left_alone(tmp_path: Path, version: int) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {}, f"PRAGMA user_version = {version}")
    rule = rf"has schema {version}, (and this version knows schema 1. Start the newer version again|which no version)"
    for read in (lambda: StateStore(path), StateFile(path).read, StateFile(path).read_generation):
        with pytest.raises(StateStoreError, match=rule):
            read()
    assert read_user_version(path) == version


@pytest.mark.parametrize("statement, fault", COLUMNS, ids=lambda part: part.split()[-2])
def test_column_more_or_less_is_an_error_of_the_store(tmp_path: Path, statement: str, fault: str) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {GOOD: {}}, statement)
    for read in (lambda: StateStore(path), StateFile(path).read):
        with pytest.raises(StateStoreError, match=rf"table {fault}: restore it from a backup, or move it away"):
            read()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE scancer_versions SET url = x'ff00'",
        "UPDATE scancer_versions SET version = x'ff'",
        "UPDATE scancer_generation SET value = 'many'",
        "INSERT INTO scancer_strays VALUES (x'00')",
        "INSERT INTO scancer_defaults VALUES ('m', x'00')",
    ],
)
def test_text_or_generation_that_is_none_is_an_error_of_the_store(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {GOOD: {}}, statement)
    store = StateStore(path)
    for read in (store.read, StateFile(path).read):
        with pytest.raises(StateStoreError, match="holds a wrong"):
            read()
    store.close()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [2_000_000_000, 2**63 - 1, -1, 1e9, 1.5, "NaN", "many", "9" * 65, b"\x00"], ids=show)
def test_number_out_of_bounds_is_the_fault_of_its_version_alone(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {GOOD: {}, BAD: {name: value}})
    for state in read_both(path):
        good, bad = state.versions[GOOD], state.versions[BAD]
        assert good == WantedVersion(*GOOD, "good-model/1.0")
        assert bad.fault.startswith(f"the state store says {name}=")
        assert " is not allowed: it must be a whole number from " in bad.fault
        assert bad.fault.endswith(". Scale or register the version again.")
        assert getattr(bad, name) == getattr(good, name)  # the default, so that nobody counts to two billion


def test_version_that_is_changed_loses_its_fault_and_no_other_row_is_written(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {GOOD: {"batch_size": 2_000_000_000}, BAD: {"batch_size": 2_000_000_000}})
    store = StateStore(path)
    with store.change() as draft:
        draft.put(draft.versions[GOOD])  # as a scaling to the numbers that it has already
    for state in read_both(path):
        assert (state.versions[GOOD].fault, state.versions[GOOD].batch_size) == ("", None)
        assert state.versions[BAD].fault
    store.close()
