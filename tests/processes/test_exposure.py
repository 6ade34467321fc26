"""A private file is made without a moment in which another thread of the process could lose its lock on it."""

import fcntl
import os
import threading
from functools import partial
from pathlib import Path

import pytest

from app.processes.exposure import become_owner, make_private
from tests.conftest import within

ROUNDS = 500
OWNER = 54_321


def lock_once_there(path: Path, held: list[int]) -> None:
    """Lock a file as soon as it has a name, as SQLite does."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        held.append(descriptor)
        return


def is_locked(inode: int) -> bool:
    """Whether this process has a lock on a file; a line may be missed while locks of others go."""
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(str(os.getpid()) in line and line[5].endswith(f":{inode}") for line in locks)


def test_thread_that_locks_a_file_at_once_keeps_its_lock(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        path, held = tmp_path / f"{number}.db", list[int]()
        thread = threading.Thread(target=lock_once_there, args=(path, held))
        thread.start()
        make_private(path)
        thread.join()
        assert within(1, partial(is_locked, path.stat().st_ino)), number
        os.close(held[0])
        assert path.stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == ROUNDS


def test_file_that_is_there_keeps_its_content_and_loses_the_rights_of_others(tmp_path: Path) -> None:
    path, beside = tmp_path / "state.db", tmp_path / "state.db-wal"
    for each in (path, beside):
        each.write_text("kept")
        each.chmod(0o644)
    make_private(path, beside, tmp_path / "state.db-shm")
    assert [(each.read_text(), each.stat().st_mode & 0o777) for each in (path, beside)] == [("kept", 0o600)] * 2
    assert sorted(tmp_path.iterdir()) == [path, beside]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to take from other users' files")
def test_root_takes_rights_from_the_owners_files_alone_and_stays_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = tmp_path / "instance", tmp_path / "of_root"
    folder.mkdir()
    os.chown(folder, OWNER, OWNER)
    names = "state.db", "of_root", "of_another", "linked", "hard"
    theirs, roots, others, linked, hard = (folder / name for name in names)
    for file, owner in ((theirs, OWNER), (roots, 0), (others, OWNER + 1), (outside, 0)):
        file.touch()
        file.chmod(0o644)
        os.chown(file, owner, owner)
    linked.symlink_to(outside)
    hard.hardlink_to(outside)
    monkeypatch.delattr(os, "seteuid")  # it changes all threads
    make_private(theirs, roots, others, linked, hard, folder / "absent")
    assert [file.stat().st_mode & 0o777 for file in (theirs, roots, others, outside)] == [0o600, 0o644, 0o644, 0o644]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_links_of_other_users_lead_root_nowhere(tmp_path: Path) -> None:
    outside, shared, other, linked = (tmp_path / name for name in ("of_root", "shared", "other", "linked"))
    outside.touch()
    outside.chmod(0o644)
    shared.mkdir()
    shared.chmod(0o1777)
    planted = shared / "state.db"
    planted.symlink_to(outside)
    os.chown(planted, OWNER, OWNER, follow_symlinks=False)
    make_private(planted)
    assert outside.stat().st_mode & 0o777 == 0o644
    other.mkdir()
    os.chown(other, OWNER + 1, OWNER + 1)  # of a user with a higher number
    linked.symlink_to(other)
    os.chown(linked, OWNER, OWNER, follow_symlinks=False)
    with become_owner(linked):
        assert os.geteuid() == OWNER
