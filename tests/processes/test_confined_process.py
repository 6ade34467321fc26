"""The process that compiles is confined: memory, files, network, time, and what it starts."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.compiling.folder_compiler import compile_in_process
from app.config.settings import MIB, Settings
from app.errors import CompiledModelError, NotCompiledNowError
from app.processes.confined_process import run_confined
from tests.handlers.fixtures import has_ended
from tests.processes import confined_programs as programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")

SECRET = "correct-horse"
NOT_PASSED_ON = (
    *("SCANCER_DATABASE", "OTEL_EXPORTER_OTLP_HEADERS", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"),
    *("NVIDIA_API_KEY", "LD_SDK_KEY", "TF_VAR_PASSWORD", "TF_TOKEN", "PYTHONANYWHERE_API_TOKEN", "MY_TZ", "TZ_KEY"),
    *("PROMETHEUS_MULTIPROC_DIR", "http_proxy", "CLASSIFY_PASSWORD"),
)
PASSED_ON = (
    *(
        "LC_MESSAGES",
        "TZDIR",
        "XDG_CACHE_HOME",
        "PYTHONUTF8",
        "OMP_NUM_THREADS",
        "KMP_BLOCKTIME",
        "OPENBLAS_NUM_THREADS",
    ),
    *("MALLOC_ARENA_MAX", "CUDA_VISIBLE_DEVICES", "TORCH_HOME", "PYTORCH_JIT", "TF_CPP_MIN_LOG_LEVEL"),
)
SETTINGS = Settings(model_memory_bytes=1024 * MIB, max_model_bytes=8 * MIB)


def host_lets_networks_be_left() -> bool:
    """Whether this host lets a process leave its network, asked of the system's own program."""
    ways = (["unshare", "-n", "true"], ["unshare", "-Un", "true"])
    return any(subprocess.run(way, capture_output=True, check=False).returncode == 0 for way in ways)


def test_memory_files_cores_and_network_are_bounded_and_settings_stay_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NOT_PASSED_ON:
        monkeypatch.setenv(name, SECRET)
    for name in PASSED_ON:
        monkeypatch.setenv(name, "1")
    run_confined(programs.look, [tmp_path / "seen"], SETTINGS, 60)
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen.pop("network") == ("closed" if host_lets_networks_be_left() else "open")
    environment = seen.pop("environment")
    assert [name for name, value in environment.items() if name in NOT_PASSED_ON or SECRET in value] == []
    assert {name: environment.get(name) for name in PASSED_ON} == dict.fromkeys(PASSED_ON, "1")
    assert environment["PATH"] == os.environ["PATH"]
    assert seen == {"memory": [1024**3] * 2, "file": [16 * 1024**2] * 2, "core": [0, 0]}


def test_process_that_wants_too_much_memory_is_told_the_limit_and_its_setting() -> None:
    limit = r"it may use 1073741824 bytes of memory: SCANCER_MODEL_MEMORY_BYTES"
    with pytest.raises(CompiledModelError, match=rf"^MemoryError \({limit}\)$"):
        run_confined(programs.hog, [""], SETTINGS, 60)


def test_process_that_writes_too_large_a_file_is_told_the_limit_and_its_setting(tmp_path: Path) -> None:
    with pytest.raises(CompiledModelError, match=r"File too large \(a file may have 16777216 bytes: twice SCANCER_MAX"):
        run_confined(programs.write_too_much, [tmp_path / "large"], SETTINGS, 60)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, r"^it was killed \(SIGKILL\): most likely out of memory \(limit 1073741824 bytes"),
        (signal.SIGSEGV, r"^it crashed \(SIGSEGV\): perhaps a library got no more memory \(limit 1073741824 bytes"),
        (signal.SIGTERM, r"^it was ended \(SIGTERM\)$"),
        (signal.SIGRTMIN + 1, rf"^it was ended \(signal {signal.SIGRTMIN + 1}\)"),
    ],
)
def test_process_that_a_signal_ended_names_it_and_the_likely_cause(number: int, words: str) -> None:
    with pytest.raises(CompiledModelError, match=words):
        run_confined(programs.be_killed, [str(int(number))], SETTINGS, 60)


@pytest.mark.parametrize(
    ("task", "argument", "is_passing"),
    [
        (programs.fill_disk, "", True),
        (programs.be_killed, str(int(signal.SIGKILL)), True),
        (programs.be_killed, str(int(signal.SIGSEGV)), False),
        (programs.end_early, "3", False),
    ],
)
def test_failure_that_another_time_may_help_is_told_apart(
    task: Callable[[str], None], argument: str, is_passing: bool
) -> None:
    with pytest.raises(CompiledModelError) as raised:
        run_confined(task, [argument], SETTINGS, 60)
    assert isinstance(raised.value, NotCompiledNowError) is is_passing


def test_process_that_ends_without_a_word_tells_its_code() -> None:
    with pytest.raises(CompiledModelError, match=r"^it ended with code 3 and told no reason$"):
        run_confined(programs.end_early, ["3"], SETTINGS, 60)


@pytest.mark.parametrize("hangs", [False, True])
def test_what_the_process_started_ends_with_it(tmp_path: Path, hangs: bool) -> None:
    started = time.monotonic()
    if hangs:
        with pytest.raises(CompiledModelError, match="took longer than 1 s"):
            run_confined(programs.hang, [tmp_path / "pid"], SETTINGS, 1)
    else:
        run_confined(programs.leave_a_child, [tmp_path / "pid"], SETTINGS, 60)
    assert time.monotonic() - started < 10
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_reason_is_what_the_task_raised_and_the_last_20_lines_on_stderr_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.WARNING, "app.processes"),
        pytest.raises(CompiledModelError, match=r"^the reason in two lines$"),
    ):
        run_confined(programs.chatter, [""], SETTINGS, 60)
    [record] = caplog.records
    _, *lines = record.getMessage().splitlines()
    assert lines == [*(f"last line {number}" for number in range(11, 30)), "a library says goodbye"]


@pytest.mark.slow
def test_compilation_runs_within_the_memory_that_the_setting_gives(pcam: Path) -> None:
    report = (pcam / "compiled/report.json").read_text()
    with pytest.raises(CompiledModelError):
        compile_in_process(pcam, Settings(instance=pcam.parent, model_memory_bytes=512 * MIB))
    assert (pcam / "compiled/report.json").read_text() == report
