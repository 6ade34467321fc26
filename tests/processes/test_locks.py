"""Locks between processes, and files that are replaced as a whole."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.processes.atomic import FOR_OWNER, replace_file, write_file
from app.processes.locks import hold_lock, is_held, make_locked, share_lock, try_lock

HOLDING = """
import sys
from pathlib import Path
from app.processes.locks import hold_lock

with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A lock that another process holds, and the process."""
    path, pipe = tmp_path / "folder/lock", subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)], cwd=PROJECT_ROOT, stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.communicate()


def test_lock_of_another_process_is_seen_and_ends_with_it(held: tuple[Path, "subprocess.Popen[str]"]) -> None:
    path, process = held
    assert is_held(path)
    assert try_lock(path) is None
    with pytest.raises(BlockingIOError), hold_lock(path, waits=False):
        pass
    process.kill()
    process.wait()
    assert not is_held(path)
    with hold_lock(path, waits=False):
        assert is_held(path)
    descriptor = try_lock(path)
    assert descriptor is not None
    os.close(descriptor)


def test_nothing_is_locked_where_nothing_lies_unless_the_file_is_to_be_made(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    assert try_lock(tmp_path / "lock") is None
    assert try_lock(tmp_path / "absent/lock", makes_file=True) is None
    assert not (tmp_path / "lock").exists()
    descriptor = try_lock(tmp_path / "lock", makes_file=True)
    assert descriptor is not None
    assert is_held(tmp_path / "lock")
    os.close(descriptor)


def test_lock_on_what_was_replaced_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    open_file = os.open

    def open_and_lose(path: Path, *flags: int) -> int:
        descriptor = open_file(path, *flags)
        path.rmdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "other").rename(path)
        return descriptor

    monkeypatch.setattr("app.processes.locks.os.open", open_and_lose)
    assert try_lock(tmp_path / "folder") is None


def test_made_lock_is_found_locked_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    descriptor = make_locked(tmp_path / "worker.lock")
    assert is_held(tmp_path / "worker.lock")
    assert [path.name for path in tmp_path.iterdir()] == ["worker.lock"]
    os.close(descriptor)


def test_shared_lock_tells_all_what_its_first_holder_wrote_and_the_next_first_one_writes_anew(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    holders = [share_lock(path, content) for content in (b"the first one's", b"second")]
    assert [content for _, content in holders] == [b"the first one's"] * 2
    for descriptor, _ in holders:
        os.close(descriptor)
    descriptor, content = share_lock(path, b"third")
    assert content == b"third"
    os.close(descriptor)


def test_file_is_replaced_as_a_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old")

    def fail_within() -> None:
        with replace_file(path) as file:
            file.write(b"half of the n")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within()
    assert path.read_text() == "old"
    write_file(path, "Größe")
    assert path.read_text(encoding="utf-8") == "Größe"
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_has_the_mode_that_is_asked_for(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        write_file(tmp_path / "open", "x")
        write_file(tmp_path / "secret", "x", FOR_OWNER)
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "secret")]
    assert modes == [0o644, 0o600]
