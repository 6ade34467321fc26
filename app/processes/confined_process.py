"""Runs a function of ours in a process of its own, which is confined before anything of a model is read.

The process tells why it failed over a pipe, so that nothing that a library prints is taken for the reason.
"""

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import CompiledModelError, NotCompiledNowError, ScancerError
from app.processes.confinement import confine, describe_exit, make_environment, name_limit

log = logging.getLogger(__name__)

MAX_REASON_LENGTH, MAX_REASON_BYTES = 500, 4096
LOGGED_LINES, LOGGED_BYTES = 20, 8192
DISK_WORDS = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)


def run_confined(
    task: Callable[..., object],
    arguments: Sequence[str | Path],
    settings: Settings,
    timeout_s: float | None = None,
    shows_output: bool = False,
) -> None:
    """Call a function of a module of ours in a confined process, and end that process with all it started.

    Its environment holds nothing that may be a password, see `make_environment`. `settings` limit its memory and files.
    If it fails, the last lines that it wrote on standard error are logged. With `shows_output`, what it prints goes to
    our standard output, else nowhere.

    Raises `CompiledModelError` with the task's reason, or `NotCompiledNowError`: it took longer than `timeout_s`, was
    killed, met a full disk, or could not be started.
    """
    limits = settings.model_memory_bytes, 2 * settings.max_model_bytes
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        with os.fdopen(reader, "rb", 0) as pipe, os.fdopen(writer, "wb", 0), tempfile.TemporaryFile() as errors:
            code = run_to_end(
                [*limits, writer, task.__module__, task.__name__, *arguments],
                timeout_s,
                stdout=None if shows_output else subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(writer,),
            )
            told = (pipe.read(MAX_REASON_BYTES) or b"").decode(errors="replace")
            lines = read_last_lines(errors)
    except OSError as error:
        raise NotCompiledNowError(f"no process can be started: {error.strerror}") from error
    if code == 0:
        return
    if lines:
        log.warning("the last lines of a confined process that failed:\n%s", "\n".join(lines))
    if code is None:
        raise NotCompiledNowError(f"it took longer than {timeout_s} s (SCANCER_COMPILE_TIMEOUT_S)")
    raise make_error(code, told, settings.model_memory_bytes)


def make_error(code: int, told: str, memory_bytes: int) -> CompiledModelError:
    """Make the error of a process that failed; another time may help one that was killed, or that met a full disk."""
    is_passing = code == -signal.SIGKILL or any(words in told for words in DISK_WORDS)
    return (NotCompiledNowError if is_passing else CompiledModelError)(told or describe_exit(code, memory_bytes))


def run_to_end(arguments: list[str | Path | int], timeout_s: float | None, **options: Any) -> int | None:
    """Run this module as a program, end all it started, and return its code; None if it took too long.

    Python writes no byte code (`-B`): an archive's folder stays as it came.
    """
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "app.processes.confined_process", *map(str, arguments)],
        cwd=PROJECT_ROOT,
        env=make_environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_last_lines(file: BinaryIO) -> list[str]:
    """Read the last lines of a file, without those that are empty."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - LOGGED_BYTES))
    lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-LOGGED_LINES:]


def explain(error: BaseException, memory_bytes: int, file_bytes: int) -> str:
    """Say in one line why a task failed, and name the limit that it seems to have met."""
    reason = error.message if isinstance(error, ScancerError) else f"{type(error).__name__}: {error}"
    line = " ".join(reason.split())[:MAX_REASON_LENGTH].rstrip(": ")
    return line + name_limit(line, memory_bytes, file_bytes)


def main() -> int:
    """Confine this process, then call the function that the command line names."""
    memory_bytes, file_bytes, pipe = map(int, sys.argv[1:4])
    module, task, *arguments = sys.argv[4:]
    os.set_inheritable(pipe, False)
    confine(memory_bytes, file_bytes)
    try:
        getattr(import_module(module), task)(*arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a model's program raises is the reason
        if not isinstance(error, ScancerError):
            traceback.print_exc()
        os.write(pipe, explain(error, memory_bytes, file_bytes).encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
