"""A backup replaces the state that a newer release left in a database, whole or not at all."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy.exc import DatabaseError

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import SettingsError, StateStoreError
from app.state import schema
from app.state.database_check import check_database
from app.state.people.audit_trail import AuditEntry, AuditTrail
from app.state.people.users_table import UsersTable
from app.state.state_store import StateStore, make_engine, read_schema_version
from app.state.store_access import StoreAccess
from app.upkeep.backup import write_backup
from app.upkeep.restore import restore_backup
from tests.conftest import PASSWORD
from tests.state.test_migrations import NEWER, run_next_release
from tests.state.test_state_store import POSTGRES, run_postgres
from tests.upkeep.installation import look, make_installation, make_quick_folder, read_generation, settle_in


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database; one with a password that is written with escapes."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shared.db"
        return
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with run_postgres(found[-1].parent) as url:
        yield url.replace("tester@", "tester:p%40ss%2Fw%25rd@")


def enter(settings: Settings, action: str) -> None:
    with closing(StoreAccess(settings)) as access:
        AuditTrail(access).write(AuditEntry("system:ada", action))


def list_tables(url: str) -> tuple[int, set[str]]:
    engine = make_engine(url)
    with engine.connect() as connection:
        found = read_schema_version(connection), set(sql.inspect(connection).get_table_names())
    engine.dispose()
    return found


def test_restore_replaces_the_database_of_a_newer_release_and_keeps_its_trail(url: str, tmp_path: Path) -> None:
    write_backup(make_installation(tmp_path / "made"), tmp_path / "made.tar")
    shared = replace(settle_in(tmp_path / "shared"), database=url)
    restore_backup(shared, tmp_path / "made.tar")
    with closing(StoreAccess(shared)) as access:
        UsersTable(access).add("ada", "predict", PASSWORD)
        users = UsersTable(access).read()
    enter(shared, "before")
    write_backup(shared, tmp_path / "before.tar")
    expected, tables = look(shared), list_tables(url)
    assert tables[1] - {"scancer_schema"} == set(schema.TABLES)
    enter(shared, "after")
    with closing(StateStore(url)) as store, store.change() as draft:
        draft.defaults["later"] = "1"
    generation = read_generation(shared)
    done = run_next_release(url)
    assert done.stdout.startswith("2 ["), done.stderr
    for use in (StateStore, check_database):
        with pytest.raises((StateStoreError, SettingsError), match=NEWER):
            use(url)
    restore_backup(shared, tmp_path / "before.tar")
    assert (look(shared), list_tables(url)) == (expected, tables)
    assert read_generation(shared) > generation
    with closing(StoreAccess(shared)) as access:
        assert UsersTable(access).read() == users
        assert [each.action for each in AuditTrail(access).read()] == ["before", "after"]
    engine = make_engine(url)
    with pytest.raises(DatabaseError, match="takes no change"), engine.connect() as connection:
        connection.execute(sql.text("DELETE FROM scancer_audit"))
    engine.dispose()


def test_tables_that_no_release_made_are_replaced(url: str, tmp_path: Path) -> None:
    """The message of such tables says to restore a backup, too."""
    write_backup(make_installation(tmp_path / "made"), tmp_path / "made.tar")
    shared = replace(settle_in(tmp_path / "shared"), database=url)
    restore_backup(shared, tmp_path / "made.tar")
    expected, engine = look(shared), make_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE scancer_versions ADD COLUMN colour TEXT")
    with pytest.raises(StateStoreError, match="has the unknown column colour: restore it from a backup"):
        StateStore(url)
    engine.dispose()
    restore_backup(shared, tmp_path / "made.tar")
    assert look(shared) == expected


@pytest.mark.slow
def test_session_that_reads_for_long_stops_a_restore_and_keeps_it_from_nothing_else(tmp_path: Path) -> None:
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    write_backup(make_installation(tmp_path / "made"), tmp_path / "made.tar")
    with run_postgres(found[-1].parent) as url:
        shared = replace(settle_in(tmp_path / "shared"), database=url)
        restore_backup(shared, tmp_path / "made.tar")
        assert run_next_release(url).stdout.startswith("2 [")
        before, engine = list_tables(url), make_engine(url)
        with engine.connect() as reader:
            reader.execute(sql.text("SELECT * FROM scancer_versions"))
            with pytest.raises(StateStoreError, match="the state store cannot be used: LockNotAvailable"):
                restore_backup(shared, tmp_path / "made.tar")
        engine.dispose()
        assert (list_tables(url), list(shared.models.glob(".*"))) == (before, [])
        restore_backup(shared, tmp_path / "made.tar")
        assert list_tables(url)[0] == schema.SCHEMA_VERSION


@pytest.mark.slow
def test_restore_over_a_newer_release_that_is_killed_leaves_the_old_or_the_newer(url: str) -> None:
    folder = make_quick_folder()
    url = url if "postgresql" in url else f"sqlite:///{folder}/shared.db"
    command = [sys.executable, "-m", "tests.upkeep.killed_return", str(folder), url]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=240, check=False)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    newer, restored = map(int, done.stdout.split())
    assert min(newer, restored) >= 5
