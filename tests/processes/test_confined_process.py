"""The process that compiles is confined: memory, files, network, time, and what it starts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.compiling.folder_compiler import compile_in_process
from app.config.settings import MIB, Settings
from app.errors import CompiledModelError
from app.processes.confined_process import run_confined
from tests.handlers.fixtures import has_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")

PROGRAMS = "tests.processes.confined_programs"
SETTINGS = Settings(model_memory_bytes=1024 * MIB, max_model_bytes=8 * MIB)


def host_lets_networks_be_left() -> bool:
    """Whether this host lets a process leave its network, asked of the system's own program."""
    ways = (["unshare", "-n", "true"], ["unshare", "-Un", "true"])
    return any(subprocess.run(way, capture_output=True, check=False).returncode == 0 for way in ways)


def test_memory_files_cores_and_network_are_bounded_and_settings_stay_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANCER_DATABASE", "postgresql://user:secret@host/name")
    run_confined(PROGRAMS, ["look", str(tmp_path / "seen")], SETTINGS, 60)
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen.pop("network") == ("closed" if host_lets_networks_be_left() else "open")
    assert seen == {"memory": [1024**3] * 2, "file": [16 * 1024**2] * 2, "core": [0, 0], "settings": []}


def test_process_that_wants_too_much_memory_ends_with_the_reason() -> None:
    with pytest.raises(CompiledModelError, match="MemoryError"):
        run_confined(PROGRAMS, ["hog", ""], SETTINGS, 60)


@pytest.mark.parametrize(("program", "timeout_s"), [("leave_a_child", 60), ("hang", 1)])
def test_what_the_process_started_ends_with_it(tmp_path: Path, program: str, timeout_s: int) -> None:
    started = time.monotonic()
    if program == "hang":
        with pytest.raises(CompiledModelError, match="took longer than 1 s"):
            run_confined(PROGRAMS, [program, str(tmp_path / "pid")], SETTINGS, timeout_s)
    else:
        run_confined(PROGRAMS, [program, str(tmp_path / "pid")], SETTINGS, timeout_s)
    assert time.monotonic() - started < 10
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_of_what_it_writes_only_the_last_line_is_kept() -> None:
    with pytest.raises(CompiledModelError, match=r"^the reason$"):
        run_confined(PROGRAMS, ["chatter", ""], SETTINGS, 60)


def test_compilation_runs_within_the_memory_that_the_setting_gives(pcam: Path) -> None:
    report = (pcam / "compiled/report.json").read_text()
    with pytest.raises(CompiledModelError):
        compile_in_process(pcam, Settings(instance=pcam.parent, model_memory_bytes=512 * MIB))
    assert (pcam / "compiled/report.json").read_text() == report
