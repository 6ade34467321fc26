"""A restore verifies everything before it changes anything, and never leaves a half one, whatever ends it."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import BackupError, SettingsError, StateStoreError, UsersError
from app.server.instance_claim import claim_alone, claim_instance
from app.state import schema
from app.state.copying import database_copy
from app.state.outcome import Outcome
from app.state.state_store import StateStore
from app.state.store_access import StoreAccess
from app.upkeep import restore
from app.upkeep.backup import hold_place, write_backup
from app.upkeep.backup_file import MANIFEST, FileFacts, read_manifest
from app.upkeep.restore import restore_backup
from app.upkeep.swap import STAGING, claim_restored, finish_restore, is_unfinished, mark_database
from app.users import UsersFile
from tests.conftest import PASSWORD, USER
from tests.upkeep.installation import TINY, add_users, look, make_installation, make_quick_folder

ROUNDS = 20
Members = dict[str, tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of an installation with one user, whose default is 1.0."""
    folder = tmp_path_factory.mktemp("b")
    settings = make_installation(folder / "made")
    add_users(settings, PASSWORD, USER)
    write_backup(settings, folder / "a.tar")
    return folder / "a.tar"


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    """Another installation, with another user."""
    settings = make_installation(tmp_path / "place")
    add_users(settings, PASSWORD, "another")
    return settings


def read_members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        return {info.name: (info, archive.extractfile(info).read()) for info in archive}  # type: ignore[union-attr]


def write_members(file: Path, members: Members) -> None:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members.values():
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def put(
    members: Members, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, at_end: bool = False
) -> None:
    """Add a member whose hash the manifest names."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    lie(members, lambda files: files.update({name: {"size": len(content), "sha256": restore_hash(content)}}))
    last = members.pop(MANIFEST)
    members[f"{name} {len(members)}"] = (info, content)
    members[MANIFEST] = last
    if at_end:
        members[f"{name} {len(members)}"] = members.pop(f"{name} {len(members) - 2}")


def restore_hash(content: bytes) -> str:
    return restore.hash_file(io.BytesIO(content)).sha256


def lie(members: Members, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the list of files in the manifest."""
    info, content = members[MANIFEST]
    values = json.loads(content)
    change(values["files"])
    members[MANIFEST] = info, json.dumps(values).encode()


def set_format(members: Members) -> None:
    info, content = members[MANIFEST]
    members[MANIFEST] = info, content.replace(b"scancer-backup-1", b"scancer-backup-9")


def damage(members: Members, name: str = "instance/users") -> None:
    info, content = members[name]
    members[name] = info, bytes([content[0] ^ 1]) + content[1:]


LINK = f"models/{TINY}/1.0/link"
ATTACKS: dict[str, tuple[Callable[[Members], object], str]] = {
    "link": (lambda m: put(m, LINK, b"", tarfile.SYMTYPE), "holds a link"),
    "hard link": (lambda m: put(m, LINK, b"", tarfile.LNKTYPE), "holds a hard link"),
    "device": (lambda m: put(m, LINK, b"", tarfile.CHRTYPE), "holds a device"),
    "pipe": (lambda m: put(m, LINK, b"", tarfile.FIFOTYPE), "holds a pipe"),
    "absolute": (lambda m: put(m, "/etc/cron.d/x"), "a name that is not allowed: '/etc/cron.d/x'"),
    "upwards": (lambda m: put(m, f"models/{TINY}/1.0/../../../x"), "a name that is not allowed"),
    "upwards in instance": (lambda m: put(m, "instance/users/../../x"), "a name that is not allowed"),
    "elsewhere in instance": (lambda m: put(m, "instance/server.lock"), "a name that is not allowed"),
    "hidden model": (lambda m: put(m, "models/.restore/1.0/x"), "a name that is not allowed"),
    "beside the models": (lambda m: put(m, "models/x"), "a name that is not allowed"),
    "twice": (lambda m: put(m, "instance/users", b"evil:manage:scrypt:x"), "holds 'instance/users' twice"),
    "folder over a file": (lambda m: put(m, "instance/users/x"), "cannot be restored: "),
    "after the manifest": (lambda m: put(m, "instance/reports/x", at_end=True), "a file follows the manifest"),
    "manifest lies of a hash": (
        lambda m: lie(m, lambda files: files["instance/users"].update(sha256="0" * 64)),
        "holds another 'instance/users'",
    ),
    "manifest lies of a size": (
        lambda m: lie(m, lambda files: files["instance/users"].update(size=1)),
        "holds another 'instance/users'",
    ),
    "manifest names one more": (
        lambda m: lie(m, lambda files: files.update({"instance/trusted_keys": {"size": 0, "sha256": ""}})),
        "it lacks 'instance/trusted_keys'",
    ),
    "manifest names one less": (lambda m: lie(m, lambda files: files.pop("state.db")), "does not name 'state.db'"),
    "manifest is no list": (lambda m: lie(m, lambda files: files.update(x=3)), "its manifest is damaged"),
    "byte of the users": (damage, "holds another 'instance/users'"),
    "byte of the state": (lambda m: damage(m, "state.db"), "holds another 'state.db'"),
    "no manifest": (lambda m: m.pop(MANIFEST), "it has no manifest"),
    "another format": (set_format, "'scancer-backup-9', and this release knows scancer-backup-1"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_or_damaged_file_changes_nothing(backup: Path, place: Settings, tmp_path: Path, name: str) -> None:
    members = read_members(backup)
    change, reason = ATTACKS[name]
    change(members)
    write_members(tmp_path / "evil.tar", members)
    check_refused(place, tmp_path / "evil.tar", reason)


def check_refused(place: Settings, file: Path, reason: str, kind: type[Exception] = BackupError) -> None:
    before, outside = look(place), sorted(place.instance.parent.parent.iterdir())
    with pytest.raises(kind) as caught:
        restore_backup(place, file)
    assert reason in str(caught.value)
    assert look(place) == before
    assert not (place.models / STAGING).exists()
    assert not (place.instance / STAGING).exists()
    assert sorted(place.instance.parent.parent.iterdir()) == outside


def test_file_that_was_cut_anywhere_or_is_another_changes_nothing(
    backup: Path, place: Settings, tmp_path: Path
) -> None:
    content, file = backup.read_bytes(), tmp_path / "cut.tar"
    end = len(content.rstrip(b"\0"))  # tar's own end is zeros
    for cut in [0, 1, 511, 512, *range(513, end, end // 40), end - 1, end]:
        file.write_bytes(content[:cut])
        check_refused(place, file, "is no whole backup")
    for other in (b"\x1f\x8b\x08" + content, os.urandom(5000), content + b"more", bytes(10240)):
        file.write_bytes(other)
        check_refused(place, file, "is no whole backup")


def write_another(backup: Path, file: Path, name: str, content: bytes) -> None:
    """Write a backup with one other member, and an honest manifest."""
    members = read_members(backup)
    members[name] = members[name][0], content
    lie(members, lambda files: files.update({name: {"size": len(content), "sha256": restore_hash(content)}}))
    write_members(file, members)


def test_state_of_a_newer_release_and_a_state_or_users_that_are_none_change_nothing(
    backup: Path, place: Settings, tmp_path: Path
) -> None:
    state, file = bytearray(read_members(backup)["state.db"][1]), tmp_path / "other.tar"
    state[60:64] = (99).to_bytes(4, "big")  # where SQLite keeps `PRAGMA user_version`
    write_another(backup, file, "state.db", bytes(state))
    check_refused(place, file, "written by a newer version of Scancer API: it has schema 99", StateStoreError)
    write_another(backup, file, "state.db", b"no database at all" * 100)
    check_refused(place, file, "the state store cannot be used", StateStoreError)
    write_another(backup, file, "instance/users", b"anybody\n")
    check_refused(place, file, "is not name:role", UsersError)


def test_running_server_and_another_restore_are_refused(backup: Path, place: Settings) -> None:
    claim = claim_instance(place)
    check_refused(place, backup, "a server runs in")
    os.close(claim)
    claim = claim_alone(place)
    assert claim is not None
    check_refused(place, backup, "or another restore: stop it first")
    os.close(claim)
    app = create_app(place)  # as `flask run` does, which claims nothing
    check_refused(place, backup, f"process {os.getpid()} serves from")
    app.extensions["scancer"].follower.close()
    restore_backup(place, backup)
    assert list(look(place)["users"]) == [USER]


def decide(place: Settings, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a restore as one that was killed before its first rename."""
    with monkeypatch.context() as patched:
        patched.setattr(restore, "finish_alone", lambda settings: None)
        restore_backup(place, backup)
    assert is_unfinished(place)
    assert list(look(place)["users"]) == ["another"]


def test_whoever_comes_next_finishes_a_restore_that_was_decided(
    backup: Path, place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(place, backup, monkeypatch)
    os.close(claim_restored(place))  # as gunicorn does when it starts
    assert list(look(place)["users"]) == [USER]
    assert not (place.models / STAGING).exists()


def test_restore_into_one_database_is_not_finished_into_another(
    backup: Path, place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, production = (replace(place, database=f"sqlite:///{tmp_path}/{name}.db") for name in ("staging", "live"))
    decide(staging, backup, monkeypatch)
    with pytest.raises(SettingsError, match="was decided with another SCANCER_DATABASE, and is not finished"):
        finish_restore(production)
    assert not (tmp_path / "live.db").exists()
    finish_restore(staging)


def test_another_password_is_the_same_database_and_another_host_is_not() -> None:
    urls = [f"postgresql+psycopg://ada:{word}@host/name" for word in ("first", "p%40s?/word")]
    assert mark_database(urls[0]) == mark_database(urls[1])
    others = ("postgresql+psycopg://ada:first@other/name", "postgresql+psycopg://bob:first@host/name", "sqlite")
    assert len({mark_database(url) for url in (urls[0], *others)}) == 4
    hosts = [f"postgresql+psycopg://ada:first@{host}/name?application_name=a@b" for host in ("one", "other")]
    assert mark_database(hosts[0]) != mark_database(hosts[1])


def test_restore_that_cannot_be_finished_stops_the_start(
    backup: Path, place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(place, backup, monkeypatch)
    with pytest.raises(SettingsError, match=f"was decided with SCANCER_MODELS={place.models}, and is not fin"):
        finish_restore(Settings(models=tmp_path, instance=place.instance))
    with pytest.raises(SettingsError, match="was decided with another SCANCER_DATABASE, and is not finished"):
        finish_restore(replace(place, database="sqlite:////nowhere/else.db"))
    (tmp_path / "link").symlink_to(place.models)
    staged, away = place.models / STAGING / "new", tmp_path / "away"
    staged.rename(away)
    with pytest.raises(SettingsError, match=r"cannot be finished: .*what was staged is gone"):
        finish_restore(place)
    away.rename(staged)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "users":
            raise PermissionError(1, "Operation not permitted", str(path))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        with pytest.raises(SettingsError, match=r"was decided, and cannot be finished: .*not permitted"):
            create_app(place)
    finish_restore(Settings(models=tmp_path / "link", instance=place.instance))
    assert list(look(place)["users"]) == [USER]


def test_database_that_goes_away_after_the_decision_stops_the_start_until_it_is_back(
    backup: Path, place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = replace(place, database=f"sqlite:///{tmp_path}/shared.db")

    def go_away(source: Path, url: str, is_trial: bool = False) -> None:
        if not is_trial:
            raise StateStoreError("the state store cannot be used: OperationalError")

    with monkeypatch.context() as patched:
        patched.setattr(database_copy, "replace_database", go_away)
        with pytest.raises(SettingsError, match="was decided, and cannot be finished: the state store cannot be used"):
            restore_backup(shared, backup)
        with pytest.raises(SettingsError, match="cannot be finished"):
            create_app(shared)
    finish_restore(shared)
    with closing(StoreAccess(shared)) as access:
        assert access.read().defaults == {TINY: "1.0"}
    assert list(UsersFile(shared.instance).read()) == [USER]


def test_tables_that_only_grow_keep_their_rows_and_get_those_that_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_outcome(request_id: str, truth: str) -> Outcome:
        return Outcome(request_id, 0, "a-b", "1", "n", "x", 0.5, truth)

    source, url = tmp_path / "source.db", f"sqlite:///{tmp_path}/target.db"
    for place, outcomes in ((source, ("both", "theirs")), (url, ("both", "ours"))):
        with closing(StateStore(place)) as store:
            for name in outcomes:
                store.put_outcome(make_outcome(name, str(place)))
    monkeypatch.setattr(schema, "APPENDED", frozenset((schema.OUTCOMES,)))
    database_copy.replace_database(source, url)
    with closing(StateStore(url)) as store:
        found = {each.request_id: each.truth for each in store.read_outcomes("a-b", "1", "n")}
    assert found == {"both": url, "ours": url, "theirs": str(source)}
    monkeypatch.setattr(schema, "APPENDED", frozenset())
    database_copy.replace_database(source, url)
    with closing(StateStore(url)) as store:
        assert {each.request_id for each in store.read_outcomes("a-b", "1", "n")} == {"both", "theirs"}


def test_restore_waits_for_no_backup_and_a_backup_for_a_restore(backup: Path, place: Settings, tmp_path: Path) -> None:
    with hold_place(place):
        check_refused(place, backup, "or a backup or another restore: stop it first")
    claim = claim_alone(place)
    assert claim is not None
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(write_backup, place, tmp_path / "later.tar")
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        os.close(claim)
        assert waiting.result(30).manifest.files["instance/users"]


def test_what_is_mounted_in_the_place_is_refused_before_anything_is_changed(backup: Path, place: Settings) -> None:
    users = place.instance / "users"
    if subprocess.run(["mount", "--bind", users, users], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here (it needs root)")
    try:
        check_refused(place, backup, "users is mounted there, so nothing can take its place")
    finally:
        subprocess.run(["umount", str(users)], check=True)


def test_manifest_survives_its_own_writing(backup: Path) -> None:
    manifest = read_manifest(read_members(backup)[MANIFEST][1])
    assert read_manifest(manifest.write()) == manifest
    assert manifest.list_versions() == [f"{TINY}/1.0", f"{TINY}/1.1"]
    assert manifest.files["instance/users"] == FileFacts(
        len(read_members(backup)["instance/users"][1]), restore_hash(read_members(backup)["instance/users"][1])
    )


@pytest.mark.slow
def test_backup_or_restore_that_is_killed_leaves_the_old_or_the_new() -> None:
    folder = make_quick_folder()
    command = [sys.executable, "-m", "tests.upkeep.killed_upkeep", str(folder), str(ROUNDS)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert int(words[1].split("/")[0]) >= ROUNDS // 5
    assert int(words[3].split("/")[0]) >= ROUNDS // 5
    assert int(words[5]) >= 8  # renames that were each the last
