"""A backup is one consistent moment of a server that goes on, and a restore of it elsewhere is the same server."""

import os
import random
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask.cli import FlaskGroup

from app import create_app
from app.config.setting_types import PROJECT_ROOT, Address
from app.config.settings import Settings
from app.errors import BackupError, DiskFullError, SettingsError, StateStoreError
from app.registry.model_changes import Wishes
from app.server.instance_claim import claim_alone, claim_instance
from app.state.people.audit_trail import AuditEntry, AuditTrail
from app.state.people.users_table import UsersTable
from app.state.store_access import STATE_FILE, StoreAccess
from app.upkeep import backup
from app.upkeep.backup import list_settings, write_backup
from app.upkeep.backup_file import BackupManifest, read_backup
from app.upkeep.restore import restore_backup
from app.users import UsersFile
from tests.conftest import PASSWORD, USER
from tests.registry.killed_changes import NAME
from tests.state.old_state import write_old_state
from tests.state.test_state_store import POSTGRES, run_postgres
from tests.upkeep.installation import (
    TINY,
    add_users,
    ask,
    come_and_go,
    look,
    make_installation,
    make_quick_folder,
    open_changes,
    read_generation,
    settle_in,
)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    folder = make_quick_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def made(tmp_path: Path) -> Settings:
    """An installation with a user and the model 1 of those that come and go."""
    settings = make_installation(tmp_path / "made")
    add_users(settings, PASSWORD, USER)
    with open_changes(settings) as changes:
        changes.register("1", Wishes(workers=0))
    return settings


def test_backup_while_models_come_and_go_is_the_same_server_elsewhere(made: Settings, tmp_path: Path) -> None:
    answers = ask(made, USER, PASSWORD)[0]
    stops, chance, files = threading.Event(), random.Random(0), []

    def change() -> None:
        while not stops.is_set():
            come_and_go(made, chance)

    with ThreadPoolExecutor() as pool:
        changing = pool.submit(change)
        end = read_generation(made) + 10
        while read_generation(made) < end:
            files.append(tmp_path / f"{len(files)}.tar")
            write_backup(made, files[-1])
        stops.set()
        changing.result()
    assert len(files) > 3
    for number, file in enumerate(files):
        target = settle_in(tmp_path / f"target{number}")
        restore_backup(target, file)
        seen = look(target)
        versions, defaults, _ = seen["state"]
        registered = {f"{NAME}/{version}" for name, version in versions if name == NAME}
        strays = {token.split()[1] for token in seen["state"][2]}
        there = {"/".join(name.split("/")[:2]) for name in seen["files"] if name.startswith(NAME)}
        assert registered <= there <= registered | strays  # each row has its folder, each folder its row
        assert defaults[TINY] == "1.0"
        told, plan = ask(target, USER, PASSWORD)
        assert told == answers
        assert plan[TINY] == (["1.0", "1.1"], "1.0")


def test_backup_is_for_its_owner_alone_and_replaces_an_earlier_one_as_a_whole(made: Settings, tmp_path: Path) -> None:
    file = tmp_path / "nightly.tar"
    file.write_bytes(b"an earlier one")
    file.chmod(0o644)
    (tmp_path / ".nightly.tar.01234567").write_bytes(b"of a backup that was killed")
    write_backup(made, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "nightly.tar"]
    restore_backup(settle_in(tmp_path / "target"), file)
    assert look(settle_in(tmp_path / "target")) == look(made)
    for name in ("users", STATE_FILE):
        assert stat.S_IMODE((tmp_path / "target/instance" / name).stat().st_mode) == 0o600


def test_two_backups_at_once_to_one_file_are_each_whole(made: Settings, tmp_path: Path) -> None:
    file = tmp_path / "nightly.tar"
    with ThreadPoolExecutor() as pool:
        written = list(pool.map(lambda _: write_backup(made, file), range(4)))
    assert read_backup(file) in [each.manifest for each in written]
    assert [path.name for path in tmp_path.glob("*nightly*")] == ["nightly.tar"]


def test_installation_without_a_state_or_users_is_backed_up(tmp_path: Path) -> None:
    settings = settle_in(tmp_path / "made")
    settings.models.mkdir(parents=True)
    write_backup(settings, tmp_path / "a.tar")
    assert list(read_backup(tmp_path / "a.tar").files) == ["settings.env"]
    target = make_installation(tmp_path / "target")
    restore_backup(target, tmp_path / "a.tar")
    assert (list(target.models.iterdir()), look(target)["state"]) == ([], ({}, {}, frozenset()))


def test_settings_are_listed_and_no_secret(made: Settings, tmp_path: Path) -> None:
    secret = "postgresql+psycopg://scancer:hunter2hunter2@localhost/none"
    text = list_settings(replace(made, database=secret, limits_store="redis://:hunter2hunter2@h/0", max_images=7))
    more = replace(made, inference_address=Address("0.0.0.0", 80), private_hosts=("a", "b"))
    assert "SCANCER_INFERENCE_ADDRESS=0.0.0.0:80\n" in list_settings(more)
    assert "SCANCER_PRIVATE_HOSTS=a,b\n" in list_settings(more)
    assert "SCANCER_MAX_IMAGES=7\n" in text
    assert f"SCANCER_MODELS={made.models}\n" in text
    assert "# SCANCER_DATABASE is set;" in text
    assert "hunter2" not in text


def test_database_that_is_away_stops_backup_and_restore_and_is_not_quoted(made: Settings, tmp_path: Path) -> None:
    write_backup(made, tmp_path / "a.tar")
    away = replace(made, database="postgresql+psycopg://scancer:hunter2hunter2@127.0.0.1:1/none")
    before = look(made)
    with pytest.raises(StateStoreError) as caught:
        write_backup(away, tmp_path / "b.tar")
    with pytest.raises(SettingsError, match="SCANCER_DATABASE cannot be used") as restore:
        restore_backup(away, tmp_path / "a.tar")
    assert "hunter2" not in caught.value.message + restore.value.message
    assert not (tmp_path / "b.tar").exists()
    assert look(made) == before


def flask(settings: Settings, *arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(FlaskGroup(create_app=lambda: create_app(settings)), arguments, catch_exceptions=False)


def test_commands_say_what_they_did(made: Settings, tmp_path: Path) -> None:
    done = flask(made, "backup", str(tmp_path / "a.tar"))
    assert re.fullmatch(r"backed up 3 model versions, users, state to \S+: \d+ bytes, .*\n", done.stdout), done.stderr
    target = settle_in(tmp_path / "target")
    done = flask(target, "restore", str(tmp_path / "a.tar"))
    assert re.fullmatch(r"restored 3 model versions, users, state of 20\S+\n", done.stdout), done.stderr
    assert f"set otherwise, here or there: SCANCER_MODELS={target.models}\n" in done.stderr
    assert look(target) == look(made)


def test_file_that_is_written_to_all_the_time_is_named(
    made: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, write = made.models / TINY / "1.0/model.toml", backup.write_members

    def write_meanwhile(*arguments: Any) -> BackupManifest:
        with card.open("a") as file:
            file.write("# more\n")
        return write(*arguments)

    monkeypatch.setattr(backup, "PAUSE_S", 0.01)
    monkeypatch.setattr(backup, "write_members", write_meanwhile)
    with pytest.raises(BackupError, match=r"model\.toml was written to while it was read, 5 times: back up when"):
        write_backup(made, tmp_path / "a.tar")
    assert list(tmp_path.glob("*a.tar*")) == []


def test_links_are_followed_and_what_is_no_file_is_left_out_and_named(made: Settings, tmp_path: Path) -> None:
    folder = made.models / TINY / "1.0"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (folder / "readme ü.txt").write_text("a name with a blank and an umlaut")
    (folder / ("long" * 60)).write_text("a long name")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder)
    (folder / "two\nlines").touch()
    (folder / ".DS_Store").touch()
    (made.instance.parent / "link").symlink_to(made.instance)
    written = write_backup(replace(made, instance=made.instance.parent / "link"), tmp_path / "a.tar")
    assert sorted(path.name for path in written.left_out) == ["loop", "pipe", "two\nlines"]
    (tmp_path / "real").mkdir()
    target = settle_in(tmp_path / "target")
    target.instance.parent.mkdir()
    target.instance.symlink_to(tmp_path / "real")
    restore_backup(target, tmp_path / "a.tar")
    there = target.models / TINY / "1.0"
    assert not there.is_symlink()
    assert (there / "readme ü.txt").read_text() == "a name with a blank and an umlaut"
    assert {path.name for path in there.iterdir()} == {
        *("readme ü.txt", "long" * 60, "model.toml", "model.safetensors", "compiled"),
    }
    assert (target.instance.is_symlink(), (tmp_path / "real/users").is_file()) == (True, True)
    assert ask(target, USER, PASSWORD)[1][TINY] == (["1.0", "1.1"], "1.0")


def test_damaged_state_is_not_backed_up(made: Settings, tmp_path: Path) -> None:
    content = bytearray((made.instance / STATE_FILE).read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    (made.instance / STATE_FILE).write_bytes(content)
    with pytest.raises(StateStoreError):
        write_backup(made, tmp_path / "a.tar")
    assert list(tmp_path.glob("*a.tar*")) == []


def test_more_files_than_may_be_open_are_told(made: Settings, tmp_path: Path) -> None:
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30)); from pathlib import Path; "
    code += "from app.config.settings import Settings; from app.upkeep.backup import write_backup; "
    code += "write_backup(Settings(models=Path(sys.argv[1]), instance=Path(sys.argv[2])), Path(sys.argv[3]))"
    for number in range(40):
        (made.models / TINY / f"1.0/{number}.txt").touch()
    command = [sys.executable, "-c", code, str(made.models), str(made.instance), str(tmp_path / "a.tar")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert "BackupError: there are more files than the 30 that this process may open" in done.stderr
    assert list(tmp_path.glob("*a.tar*")) == []


def mount(folder: Path, options: str) -> None:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own needs the right to mount one")


def test_full_disk_and_read_only_folder_leave_the_earlier_backup(made: Settings, tmp_path: Path) -> None:
    (made.models / TINY / "1.0/notes.txt").write_bytes(os.urandom(200_000))
    mount(tmp_path / "disk", "size=300k")
    try:
        small = settle_in(tmp_path / "small")
        small.models.mkdir(parents=True)
        write_backup(small, tmp_path / "disk/a.tar")
        before = (tmp_path / "disk/a.tar").read_bytes()
        (tmp_path / "disk/filler").write_bytes(bytes(100_000))
        with pytest.raises(DiskFullError):
            write_backup(made, tmp_path / "disk/a.tar")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        with pytest.raises(BackupError, match=r"a\.tar cannot be written: Read-only file system"):
            write_backup(small, tmp_path / "disk/a.tar")
        assert [path.name for path in (tmp_path / "disk").glob("*a.tar*")] == ["a.tar"]
        assert (tmp_path / "disk/a.tar").read_bytes() == before
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


def test_full_disk_leaves_the_place_of_a_restore_as_it_was(made: Settings, tmp_path: Path) -> None:
    (made.models / TINY / "1.0/notes.txt").write_bytes(os.urandom(2_000_000))
    write_backup(made, tmp_path / "a.tar")
    mount(tmp_path / "disk", "size=1m")
    try:
        target = make_installation(tmp_path / "disk/place")
        before = look(target)
        with pytest.raises(DiskFullError):
            restore_backup(target, tmp_path / "a.tar")
        assert look(target) == before
        assert not list(target.models.glob(".*"))
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


def test_models_that_nobody_may_write_need_not_be_written_if_they_are_the_same(made: Settings, tmp_path: Path) -> None:
    write_backup(made, tmp_path / "a.tar")
    add_users(made, PASSWORD, "later")
    prefix = ["unshare", "-m", "sh", "-c", f'mount --bind -o ro {made.models} {made.models} && exec "$@"', "sh"]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no folder can be mounted here (it needs root)")
    environment = {
        **os.environ,
        **{f"SCANCER_{name.upper()}": str(getattr(made, name)) for name in ("models", "instance")},
    }
    command = [*prefix, sys.executable, "-m", "flask", "restore", str(tmp_path / "a.tar")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(look(made)["users"]) == [USER]


@pytest.mark.slow
def test_state_moves_from_a_file_to_postgresql_and_back_with_every_table(made: Settings, tmp_path: Path) -> None:
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    write_backup(made, tmp_path / "file.tar")
    with run_postgres(found[-1].parent) as url:
        shared = replace(settle_in(tmp_path / "shared"), database=url)
        restore_backup(shared, tmp_path / "file.tar")
        assert not (shared.instance / STATE_FILE).exists()
        assert look(shared) == look(made)
        first = read_generation(shared)
        restore_backup(shared, tmp_path / "file.tar")
        assert read_generation(shared) > first  # whoever follows the database sees it
        with open_changes(shared) as changes:
            changes.set_default(TINY, "1.1")
        with closing(StoreAccess(shared)) as access:
            users = UsersTable(access)
            assert set(users.read()) == {USER}  # those of the file, before any server starts
            users.add("later", "predict", PASSWORD)
            users.remove(USER)
            write_backup(shared, tmp_path / "database.tar")
            users.remove("later")
            write_backup(shared, tmp_path / "nobody.tar")
            users.add("later", "predict", PASSWORD)
        expected = look(shared)
        assert read_backup(tmp_path / "database.tar").database == "postgresql"
    back = settle_in(tmp_path / "back")
    restore_backup(back, tmp_path / "database.tar")
    assert look(back) | {"users": None} == expected | {"users": None}
    assert set(UsersFile(back.instance).read()) == {"later"}  # the database's, not those of the file that it took over
    assert ask(back, "later", PASSWORD)[1][TINY] == (["1.0", "1.1"], "1.1")
    UsersFile(back.instance).add("carol", "predict", PASSWORD)
    UsersFile(back.instance).remove("later")
    write_backup(back, tmp_path / "back.tar")
    for file, names in (("nobody.tar", set()), ("back.tar", {"carol"})):  # none of the users of before comes back
        restore_backup(back, tmp_path / file)
        assert set(UsersFile(back.instance).read()) == names


def test_restore_loses_no_entry_of_the_audit_trail_and_enters_itself(made: Settings, tmp_path: Path) -> None:
    def enter(action: str) -> None:
        with closing(StoreAccess(made)) as access:
            AuditTrail(access).write(AuditEntry("system:ada", action))

    enter("before")
    write_backup(made, tmp_path / "a.tar")
    enter("after")
    done = flask(made, "restore", str(tmp_path / "a.tar"))
    assert done.exit_code == 0, done.output
    with closing(StoreAccess(made)) as access:
        assert [each.action for each in AuditTrail(access).read()] == ["before", "after", "restored"]


def test_users_of_a_shared_sqlite_come_back_and_those_who_were_removed_do_not(made: Settings, tmp_path: Path) -> None:
    shared = replace(made, database=f"sqlite:///{tmp_path}/shared.db")
    with closing(StoreAccess(shared)) as access:
        users = UsersTable(access)
        users.add("ada", "predict", PASSWORD)
        write_backup(shared, tmp_path / "ada.tar")
        users.remove("ada")
        write_backup(shared, tmp_path / "nobody.tar")
    for file, names in (("ada.tar", {"ada"}), ("nobody.tar", set())):
        restore_backup(shared, tmp_path / file)
        with closing(StoreAccess(shared)) as access:
            users = UsersTable(access)
            assert set(users.read()) == names
            assert not users.take_over(UsersFile(shared.instance).read())


def test_backup_without_a_state_leaves_the_audit_trail(tmp_path: Path) -> None:
    settings = settle_in(tmp_path / "young")
    settings.models.mkdir(parents=True)
    write_backup(settings, tmp_path / "a.tar")
    with closing(StoreAccess(settings)) as access:
        AuditTrail(access).write(AuditEntry("system:ada", "after"))
    restore_backup(settings, tmp_path / "a.tar")
    with closing(StoreAccess(settings)) as access:
        assert [each.action for each in AuditTrail(access).read()] == ["after"]


def test_restore_that_fails_has_not_changed_the_state(
    made: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backup(made, tmp_path / "a.tar")
    for file in made.instance.glob(f"{STATE_FILE}*"):
        file.unlink()
    write_old_state(made.instance / STATE_FILE, {("m", "1"): {}})
    before = (made.instance / STATE_FILE).read_bytes()

    def refuse(*_: object) -> None:
        raise BackupError("something is mounted there")

    monkeypatch.setattr("app.upkeep.restore.check_movable", refuse)
    with pytest.raises(BackupError, match="mounted"):
        restore_backup(made, tmp_path / "a.tar")
    assert (made.instance / STATE_FILE).read_bytes() == before


def test_claim_follows_no_link(tmp_path: Path) -> None:
    settings = settle_in(tmp_path / "linked")
    settings.instance.mkdir(parents=True)
    (tmp_path / "secret").write_text("another's")
    (settings.instance / "server.lock").symlink_to(tmp_path / "secret")
    with pytest.raises(SettingsError, match="cannot be written"):
        claim_instance(settings)
    with pytest.raises(OSError, match="symbolic"):
        claim_alone(settings)
    assert (tmp_path / "secret").read_text() == "another's"


def test_damaged_state_is_restored_over(made: Settings, tmp_path: Path) -> None:
    write_backup(made, tmp_path / "a.tar")
    expected = look(made)
    (made.instance / STATE_FILE).write_bytes(b"no database" * 1000)
    restore_backup(made, tmp_path / "a.tar")
    assert look(made) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
def test_claim_that_root_makes_is_the_owners_of_the_folder(tmp_path: Path) -> None:
    settings = settle_in(tmp_path / "owned")
    settings.instance.mkdir(parents=True)
    os.chown(settings.instance, 12345, 12345)
    for claim in (claim_alone, claim_instance):
        (settings.instance / "server.lock").unlink(missing_ok=True)
        descriptor = claim(settings)
        assert descriptor is not None
        os.close(descriptor)
        assert (settings.instance / "server.lock").stat().st_uid == 12345
