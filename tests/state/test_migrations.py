"""A state goes forward with the releases, in one transaction, and never backward."""

import io
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import SettingsError, StateStoreError
from app.state import migrations, schema, state_file
from app.state.database_check import check_database, check_state_file
from app.state.state_file import StateFile
from app.state.state_store import StateStore
from app.state.store_access import StoreAccess
from app.state.wanted import WantedVersion
from tests.state.old_state import write_old_state
from tests.state.test_state_store import POSTGRES, run_postgres

OLDER = ("f63c4fc", "091f2c3")
"""The last commit before schemas had versions, and one that has schema 1."""
WRITE = """
from pathlib import Path
from app.state.state_store import StateStore
from app.state.wanted import WantedVersion
store = StateStore(Path("state.db"))
for version in ("1.0", "1.1"):
    with store.change() as draft:
        draft.versions["a-b", version] = WantedVersion("a-b", version, f"a-b/{version}", max_workers=3)
        draft.defaults["a-b"] = version
store.close()
"""
NEWER = "this state was written by a newer version of Scancer API: it has schema 2, and this version knows schema 1"


def run_next_release(place: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.state.next_release", str(place)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("commit", OLDER)
def test_state_that_an_earlier_commit_wrote_is_read_and_brought_forward(tmp_path: Path, commit: str) -> None:
    archive = subprocess.run(["git", "archive", commit, "app"], cwd=PROJECT_ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the history of the project is not here, so {commit} cannot be run")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as code:
        code.extractall(tmp_path, filter="data")
    subprocess.run([sys.executable, "-c", WRITE], cwd=tmp_path, check=True)
    path = tmp_path / "state.db"
    expected = {
        ("a-b", version): WantedVersion("a-b", version, f"a-b/{version}", max_workers=3) for version in ("1.0", "1.1")
    }
    state = StateFile(path).read()  # before anybody has brought it forward
    assert (state.generation, dict(state.versions), dict(state.defaults)) == (2, expected, {"a-b": "1.1"})
    check_state_file(path)  # as a start does
    store = StateStore(path)
    assert store.read() == StateFile(path).read() == state
    store.close()
    done = run_next_release(path)
    assert done.stdout.splitlines() == [
        "the state store has schema 1, of an earlier version of Scancer API",
        "2 [('1.0', 'none yet'), ('1.1', '1.1')]",
        "2",
    ], done.stderr
    for read in (lambda: StateStore(path), StateFile(path).read):
        with pytest.raises(StateStoreError, match=NEWER):
            read()
    with pytest.raises(
        SettingsError, match=f"{path} cannot be used: {NEWER}. Start the newer version again, or restore"
    ):
        check_state_file(path)


@pytest.mark.slow
def test_postgresql_goes_forward_and_refuses_an_earlier_release() -> None:
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with run_postgres(found[-1].parent) as url:
        store = StateStore(url)
        with store.change() as draft:
            draft.put(WantedVersion("a-b", "1.0", "a-b/1.0"))
        store.close()
        for _ in range(2):  # a step is made once
            assert run_next_release(url).stdout == "2 [('1.0', 'none yet')]\n"
        with pytest.raises(SettingsError, match=f"SCANCER_DATABASE cannot be used: {NEWER}"):
            check_database(url)


def test_step_that_fails_leaves_the_state_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {("a-b", "1.0"): {}})
    before = StateFile(path).read()
    good = "ALTER TABLE scancer_versions ADD COLUMN note TEXT"
    monkeypatch.setitem(migrations.STEPS, 1, (good, "ALTER TABLE no_such_table ADD COLUMN note TEXT"))
    with pytest.raises(StateStoreError):
        StateStore(path)
    assert StateFile(path).read() == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 0


def test_reader_of_an_older_state_brings_it_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    write_old_state(path, {("a-b", "1.0"): {}})
    monkeypatch.setattr(schema, "READABLE", (schema.SCHEMA_VERSION,))
    with closing(StoreAccess(Settings(instance=tmp_path))) as access:
        assert (access.read_generation(), list(access.read().versions)) == (7, [("a-b", "1.0")])
    assert state_file.StateFile(path).read_generation() == 7


def test_start_brings_an_older_state_forward_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "what? 100%25 #1" / "state.db"
    path.parent.mkdir()
    write_old_state(path, {("a-b", "1.0"): {}})
    monkeypatch.setattr(schema, "READABLE", (schema.SCHEMA_VERSION,))
    check_state_file(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.parent.name]
    assert list(StateFile(path).read().versions) == [("a-b", "1.0")]


def test_each_version_has_its_step() -> None:
    assert sorted(migrations.STEPS) == list(range(1, schema.SCHEMA_VERSION + 1))
