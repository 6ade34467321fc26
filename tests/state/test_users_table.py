"""Users in a database: who is added or removed counts on every server soon, and known users outlast an outage."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DatabaseError

from app import create_app
from app.api.request.services import EXTENSION, make_services
from app.cli.user_commands import users_commands
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import ServiceUnavailableError, StateStoreError, UsersError
from app.state.people import users_table
from app.state.people.audit_trail import AuditTrail
from app.state.people.users_table import FollowedUsers, UsersTable, import_users
from app.state.store_access import StoreAccess
from app.users import User, UsersFile
from tests.conftest import PASSWORD, USER, LiveServer, basic, within
from tests.state.test_state_store import POSTGRES, run_postgres

OTHER = "another passphrase"


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shared.db"


@pytest.fixture
def table(database: str, tmp_path: Path) -> Iterator[UsersTable]:
    access = StoreAccess(Settings(database=database, instance=tmp_path))
    yield UsersTable(access)
    access.close()


def test_users_models_and_tokens_are_read_as_they_were_written(table: UsersTable) -> None:
    assert table.add("ada", "predict", PASSWORD, ["pcam-*", "isic-*"])
    assert table.add("bob", "manage", PASSWORD)
    _, lasting = table.add_token("ada", None)
    _, passing = table.add_token("ada", 60)
    users = table.read()
    assert (users["ada"].models, set(users["ada"].tokens)) == (("isic-*", "pcam-*"), {lasting, passing})
    assert (users["bob"].role, users["bob"].models, users["bob"].tokens) == ("manage", (), ())
    table.revoke_token("ada", passing.id)
    assert not table.add("ada", "predict", OTHER)
    assert (table.read()["ada"].models, table.read()["ada"].tokens) == (("isic-*", "pcam-*"), (lasting,))
    table.remove("ada")
    assert list(table.read()) == ["bob"]
    table.add("ada", "predict", PASSWORD)
    assert table.read()["ada"].tokens == ()
    with pytest.raises(UsersError, match="there is no user eve"):
        table.remove("eve")


def test_changes_of_many_at_a_time_are_all_kept(table: UsersTable) -> None:
    names = [f"user-{number}" for number in range(8)]
    threads = [threading.Thread(target=table.add, args=(name, "predict", PASSWORD)) for name in names]
    threads += [threading.Thread(target=table.add, args=("same", "predict", PASSWORD)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(table.read()) == sorted([*names, "same"])


def test_file_of_many_workers_that_start_is_taken_over_by_one(table: UsersTable, tmp_path: Path) -> None:
    UsersFile(tmp_path).add("ada", "predict", PASSWORD)
    users = UsersFile(tmp_path).read()
    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(lambda _: table.take_over(users), range(6))) == 1


def test_change_of_the_file_that_was_killed_leaves_no_hashes(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from app.users import UsersFile\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "UsersFile(Path(sys.argv[1])).add('ada', 'predict', sys.argv[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), PASSWORD], cwd=PROJECT_ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name[:7] for path in tmp_path.glob(".users.*")] == [".users."]
    UsersFile(tmp_path).add("bob", "predict", PASSWORD)
    assert (list(UsersFile(tmp_path).read()), list(tmp_path.glob(".users.*"))) == (["bob"], [])


def test_mark_of_a_change_never_comes_again(table: UsersTable) -> None:
    marks = [table.read_mark()]
    for _ in range(3):
        table.add("ada", "predict", PASSWORD)
        marks.append(table.read_mark())
    assert marks[0] == users_table.NEVER_CHANGED
    assert len(set(marks)) == 4
    assert sorted(marks) != list(range(marks[0], marks[0] + 4))  # a copy put back must not count up to the same


def test_user_whom_the_database_holds_against_the_rules_lets_nobody_in(table: UsersTable, database: str) -> None:
    table.add("ada", "predict", PASSWORD, ["pcam-*"])
    with create_engine(database).begin() as connection:
        connection.execute(text("UPDATE scancer_users SET role = 'root'"))
    with pytest.raises(UsersError, match="scancer_users holds a user who cannot be"):
        table.read()


def test_file_is_taken_over_once_and_its_users_do_not_come_back(
    table: UsersTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = UsersFile(tmp_path)
    file.add("ada", "predict", PASSWORD, ["pcam-*"])
    file.add("bob", "manage", PASSWORD)
    file.add_token("ada", 60)
    monkeypatch.setattr(users_table, "POLL_S", 0.02)
    noted: list[User] = []
    followed = FollowedUsers(table, file, noted.append)
    try:
        assert followed.find_stamp() == table.read_mark()
        assert followed.read() == table.read() == file.read() == {user.name: user for user in noted}
        for name in ("ada", "bob"):
            table.remove(name)
        assert within(5, lambda: followed.read() == {})
    finally:
        followed.close()
    again = FollowedUsers(table, file)
    again.start()
    again.close()
    assert table.read() == {}
    assert not table.take_over(file.read())
    assert table.read() == {}
    assert import_users(table, file.read()) == ["ada", "bob"]
    assert import_users(table, file.read()) == []


def test_known_users_outlast_an_outage_for_an_hour_and_no_longer(
    table: UsersTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add("ada", "predict", PASSWORD)
    monkeypatch.setattr(users_table, "POLL_S", 0.02)
    followed = FollowedUsers(table, UsersFile(tmp_path))
    try:
        stamp, is_away = followed.find_stamp(), threading.Event()
        read_mark = table.read_mark

        def fail() -> int:
            is_away.set()
            raise StateStoreError("the state store cannot be used: OperationalError")

        monkeypatch.setattr(table, "read_mark", fail)
        assert is_away.wait(5)
        assert followed.find_stamp() == stamp
        assert list(followed.read()) == ["ada"]
        assert users_table.MAX_AWAY_S == 3600
        monkeypatch.setattr(users_table, "MAX_AWAY_S", 0.1)

        def is_refused() -> bool:
            try:
                followed.find_stamp()
            except ServiceUnavailableError:
                return True
            return False

        assert within(5, is_refused)
        monkeypatch.setattr(table, "read_mark", read_mark)
        monkeypatch.setattr(users_table, "MAX_AWAY_S", 3600)
        assert within(5, lambda: not is_refused())
    finally:
        followed.close()


def test_nobody_comes_in_by_a_file_while_the_database_was_never_read(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(settings, database=f"sqlite:///{tmp_path}/none/at/all.db", instance=tmp_path)
    UsersFile(tmp_path).add(USER, "predict", PASSWORD)
    app = create_app(own)
    services = app.extensions["scancer"]
    try:
        answer = app.test_client().get("/models", headers=basic())
        assert (answer.status_code, answer.json["type"]) == (503, "ServiceUnavailableException")
        assert answer.headers["Retry-After"] == "1"
    finally:
        services.followed.close()
        services.follower.close()


def assert_takes_no_change(url: str) -> None:
    """The audit trail of a database of PostgreSQL, which has entries."""
    engine = create_engine(url)
    for change in ("UPDATE scancer_audit SET actor = ''", "DELETE FROM scancer_audit", "TRUNCATE scancer_audit"):
        with pytest.raises(DatabaseError, match="the audit trail takes no change"), engine.begin() as connection:
            connection.execute(text(change))
    engine.dispose()


@pytest.mark.slow
def test_two_servers_share_their_users_and_outlast_their_database(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -r tests/requirements.txt")
    if not (found := sorted(POSTGRES.glob("*/bin/initdb"))):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    programs, servers = found[-1].parent, list[LiveServer]()
    postgres = run_postgres(programs)
    with postgres as url, closing(StoreAccess(Settings(database=url, instance=tmp_path))) as access:
        table = UsersTable(access)
        try:
            for name, workers in (("one", "2"), ("two", "1")):
                (tmp_path / name).mkdir()
                environment = {"SCANCER_DATABASE": url, "SCANCER_WORKERS": workers, "SCANCER_MODELS": str(models)}
                servers.append(LiveServer(tmp_path / name, tmp_path / f"{name}.log", environment))
            UsersFile(tmp_path / "one").add(USER, "predict", PASSWORD)
            for live in servers:
                live.launch()
            for live in servers:
                live.wait_until_answered("/health/ready")

            def ask(name: str, password: str) -> set[int]:
                addresses = [live.inference + "/guides" for live in servers]
                with ThreadPoolExecutor(2) as pool:
                    answers = pool.map(lambda each: requests.get(each, auth=(name, password), timeout=10), addresses)
                    return {answer.status_code for answer in answers}

            assert within(2, lambda: ask(USER, PASSWORD) == {200})  # the first server's file was taken over
            assert servers[0].log.read_text().count("took over the users of a file") == 1
            assert "the users file does not count" in servers[0].log.read_text()
            assert "users file" not in servers[1].log.read_text()
            for name in ("ada", "bob"):
                table.add(name, "predict", OTHER)
            assert within(2, lambda: ask("ada", OTHER) == {200})
            table.remove(USER)
            assert within(2, lambda: ask(USER, PASSWORD) == {401})
            assert_takes_no_change(url)
            access.close()
            control = [str(programs / "pg_ctl"), "-D", str(postgres.folder / "data"), "-w"]
            postgres.run(*control, "-m", "immediate", "stop")
            assert within(5, lambda: all("users are not followed" in live.log.read_text() for live in servers))
            assert ask("ada", OTHER) == ask("bob", OTHER) == {200}  # bob comes for the first time
            assert ask("eve", OTHER) == {401}
            options = f"-c listen_addresses='' -c unix_socket_directories={postgres.folder} -c fsync=off"
            postgres.run(*control, "-l", str(postgres.folder / "log"), "-o", options, "start")
            assert table.add("eve", "predict", OTHER)
            assert within(5, lambda: ask("eve", OTHER) == {200})
            trail = AuditTrail(access)  # what was entered meanwhile has waited
            assert within(5, lambda: [each.action for each in trail.read(actor="bob")] == ["signed in"] * 2)
        finally:
            for live in servers:
                live.stop()


def test_command_adds_the_users_of_a_file_to_the_database(table: UsersTable, database: str, tmp_path: Path) -> None:
    UsersFile(tmp_path).add("ada", "predict", PASSWORD)
    UsersFile(tmp_path).add("bob", "manage", PASSWORD)
    table.add("bob", "predict", OTHER)
    services = make_services(Settings(database=database, instance=tmp_path))
    app = Flask("commands")
    app.extensions[EXTENSION] = services
    runner = app.test_cli_runner()
    told = runner.invoke(users_commands, ["import"])
    assert (told.exit_code, told.output) == (0, "added ada\nkept bob as in the database\n")
    assert runner.invoke(users_commands, ["list"]).output == "ada\tpredict\nbob\tpredict\n"
    assert runner.invoke(users_commands, ["remove", "ada"]).output == "removed ada\n"
    assert list(table.read()) == ["bob"]
    services.store.close()
