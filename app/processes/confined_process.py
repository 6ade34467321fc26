"""Runs a module of ours in a process of its own, confined before anything of a model is read.

`python -m app.processes.confined_process MEMORY_BYTES FILE_BYTES MODULE ARGUMENT…` confines itself, imports the module
and calls its `main`. Callers use `run_confined`.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import PREFIX, Settings
from app.errors import CompiledModelError
from app.processes.confinement import confine

LOOK_S = 0.1
KEPT_BYTES, MAX_REASON_LENGTH = 8192, 500


def run_confined(
    module: str, arguments: list[str], settings: Settings, timeout_s: float | None = None, shows_output: bool = False
) -> None:
    """Run a module's `main` in a confined process, and end the process with all it started.

    It has no setting of ours in its environment: one may be a password.

    Args:
        module: of this project.
        arguments: what it finds in `sys.argv`.
        settings: how much memory it may have, and how large its files may be.
        timeout_s: how long it may take; None: as long as it takes.
        shows_output: what it prints goes to our standard output, not nowhere.

    Raises:
        CompiledModelError: it failed, or took too long; the message is the last line that it wrote on stderr.
    """
    limits = [str(settings.model_memory_bytes), str(2 * settings.max_model_bytes)]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.processes.confined_process", *limits, module, *arguments],
        cwd=PROJECT_ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        stdin=subprocess.DEVNULL,
        stdout=None if shows_output else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        words = read_last_words(process, timeout_s)
    finally:
        with suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        assert process.stderr is not None, "it is a pipe"
        process.stderr.close()
    if words is None:
        raise CompiledModelError(f"it took longer than {timeout_s} s")
    if code:
        lines = words.decode(errors="replace").strip().splitlines()
        raise CompiledModelError(lines[-1][:MAX_REASON_LENGTH] if lines else f"it ended with code {code}")


def read_last_words(process: "subprocess.Popen[bytes]", timeout_s: float | None) -> bytes | None:
    """Read what a process writes on stderr until it ends; return the end of it, or None if that takes too long.

    What it started may hold the pipe open, so the end of the process counts, not that of the pipe.
    """
    assert process.stderr is not None, "it is a pipe"
    until = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
    words = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while (left_s := until - time.monotonic()) > 0:
            if selector.select(min(left_s, LOOK_S)):
                chunk = os.read(process.stderr.fileno(), KEPT_BYTES)
                if not chunk:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(None if timeout_s is None else left_s)
                        return words
                words = (words + chunk)[-KEPT_BYTES:]
            elif process.poll() is not None:
                return words
    return None


def main() -> int:
    """Confine this process, then run the module that the command line names."""
    memory_bytes, file_bytes, module, *arguments = sys.argv[1:]
    confine(int(memory_bytes), int(file_bytes))
    sys.argv = [module, *arguments]
    code: int = import_module(module).main()
    return code


if __name__ == "__main__":
    sys.exit(main())
