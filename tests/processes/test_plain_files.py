"""Files that others put where we look: what is no file keeps nobody waiting, and nobody else changes what is ours."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import CompiledModelError
from app.processes.exposure import find_exposure, make_private
from app.processes.plain_files import read_plain, read_plain_text
from app.repository.model_folder import ModelFolder


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


MAKE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "socket": bind,
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    MAKE[kind](tmp_path / "x")
    with pytest.raises(OSError, match=r"pipe or a device|No such device|Is a directory"):
        read_plain(tmp_path / "x")


def test_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("grün", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_plain_text(tmp_path / "link") == "grün"


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("file", ["report.json", "model.xml", "model.bin"])
def test_compiled_model_that_holds_no_file_is_refused(pcam: Path, kind: str, file: str) -> None:
    folder = ModelFolder(pcam)
    (pcam / "compiled" / file).unlink()
    MAKE[kind](pcam / "compiled" / file)
    with pytest.raises(CompiledModelError, match="cannot be read"):
        folder.read_report(folder.read_manifest())


@pytest.mark.parametrize(
    ("mode", "is_changeable", "advises"),
    [(0o600, False, False), (0o400, False, False), (0o640, False, True), (0o604, False, True), (0o622, True, True)],
)
def test_modes_by_which_others_may_do_something_are_found(mode: int, is_changeable: bool, advises: bool) -> None:
    found, advice = find_exposure(stat.S_IFREG | mode, Path("users"))
    assert (found, bool(advice)) == (is_changeable, advises)
    assert not advice or advice.endswith("run 'chmod 600 users'")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65533)
    make_private(tmp_path / "new")
    (tmp_path / "old").touch()
    make_private(tmp_path / "old")
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert owners == {"new": (65534, 65533), "old": (0, 0)}


def test_private_file_is_made_and_an_open_one_becomes_private(tmp_path: Path) -> None:
    make_private(tmp_path / "new")
    (tmp_path / "old").touch(0o644)
    (tmp_path / "beside").touch(0o666)
    make_private(tmp_path / "old", tmp_path / "beside", tmp_path / "absent")
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == dict.fromkeys(
        ("new", "old", "beside"), 0o600
    )
