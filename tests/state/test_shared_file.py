"""A SQLite file that is named by URL is as private as the instance's own, and nobody makes it by looking at it."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from app.config.settings import Settings
from app.errors import SettingsError, StateStoreError
from app.state.database_check import check_reachable, look_at_database
from app.state.people.users_table import UsersTable
from app.state.state_file import find_file
from app.state.store_access import StoreAccess
from app.upkeep.backup import write_backup
from app.upkeep.backup_file import STATE, read_backup
from app.upkeep.installation_checks import check_secrets, check_state, look_at_state, look_at_users
from tests.conftest import PASSWORD
from tests.upkeep.installation import settle_in


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The one that most machines have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("is_uri", [False, True])
def test_file_and_its_journal_are_for_their_owner_alone(tmp_path: Path, is_uri: bool) -> None:
    file = tmp_path / "sha?red 100%.db"
    name = quote(str(file))
    url = f"sqlite+pysqlite:///file:{quote(name)}?timeout=9&uri=true" if is_uri else f"sqlite:///{name}"
    settings = Settings(database=url, instance=tmp_path / "instance")
    for _ in range(2):  # one that others could read before becomes private
        with closing(StoreAccess(settings)) as access:
            UsersTable(access).add("ada", "manage", PASSWORD)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.is_file()}
        assert modes == dict.fromkeys((f"{file.name}{end}" for end in ("", "-wal", "-shm")), 0o600)
        file.chmod(0o644)


def test_file_of_a_url_is_found() -> None:
    urls = {
        "sqlite:///a%20b/c.db": "a b/c.db",
        "sqlite:////a/c.db?timeout=3": "/a/c.db",
        "sqlite+pysqlite:///file:/a/b%2520c.db?uri=true&nolock=1": "/a/b c.db",
        "sqlite://": None,
        "sqlite:///:memory:": None,
        "sqlite:///file::memory:?uri=true": None,
        "sqlite:///file:shared?mode=memory&cache=shared&uri=true": None,
        "postgresql+psycopg://ada:secret@host/name": None,
    }
    assert {url: find_file(url) for url in urls} == {url: path and Path(path) for url, path in urls.items()}


def test_looking_makes_no_file_and_changes_none(tmp_path: Path) -> None:
    file = tmp_path / "shared.db"
    shared = replace(settle_in(tmp_path), database=f"sqlite:///{file}")
    for folder in (shared.models, shared.instance):
        folder.mkdir()
    told = f"{file} is not there yet: the first start makes it"
    assert (look_at_database(shared.database), check_state(shared).text) == (told, told)
    assert (look_at_users(shared), look_at_state(shared).versions) == ({}, {})
    check_reachable(shared.database)
    write_backup(shared, tmp_path / "a.tar")
    assert STATE not in read_backup(tmp_path / "a.tar").files
    assert list(tmp_path.glob("shared.db*")) == []
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE other (name TEXT)")
    before = file.read_bytes()
    assert look_at_database(shared.database) == "sqlite answers, and has no tables yet"
    assert (look_at_users(shared), file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == ({}, before, 0o644)


def test_file_without_a_folder_is_told(tmp_path: Path) -> None:
    shared = replace(settle_in(tmp_path), database=f"sqlite:///{tmp_path}/absent/shared.db")
    for folder in (shared.models, shared.instance):
        folder.mkdir()
    with pytest.raises(SettingsError, match=f"SCANCER_DATABASE cannot be used: there is no folder {tmp_path}/absent"):
        look_at_database(shared.database)
    assert check_state(shared).text.endswith("or it may not be entered")
    with pytest.raises(StateStoreError, match=f"there is no folder {tmp_path}/absent"):
        write_backup(shared, tmp_path / "a.tar")


@pytest.mark.parametrize("mode, level", [(0o600, "ok"), (0o640, "warning"), (0o644, "warning"), (0o620, "fault")])
def test_doctor_says_who_else_may_use_the_file(tmp_path: Path, mode: int, level: str) -> None:
    file = tmp_path / "shared.db"
    for name in ("shared.db", "shared.db-wal"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    found = list(check_secrets(replace(settle_in(tmp_path), database=f"sqlite:///{file}")))
    assert [(each.level, each.text.split()[0]) for each in found] == [(level, str(file)), (level, f"{file}-wal")]
