"""What the confined process is made to run by `test_confined_process.py`."""

import atexit
import errno
import json
import os
import resource
import socket
import subprocess
import time
from pathlib import Path

from app.errors import CompiledModelError


def look(target: str) -> None:
    """Write down what confines this process."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), 2).close()
        network = "open"
    except OSError:
        network = "closed"
    seen = {
        "memory": resource.getrlimit(resource.RLIMIT_AS),
        "file": resource.getrlimit(resource.RLIMIT_FSIZE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "network": network,
        "environment": dict(os.environ),
    }
    Path(target).write_text(json.dumps(seen))


def hog(_: str) -> None:
    bytearray(2 * 1024**3)


def leave_a_child(target: str) -> None:
    """Leave a process that holds our stderr open."""
    Path(target).write_text(str(subprocess.Popen(["sleep", "600"]).pid))


def hang(target: str) -> None:
    leave_a_child(target)
    time.sleep(600)


def chatter(_: str) -> None:
    """Write much on stderr, also while the process ends, and fail in between."""
    for number in range(100):
        os.write(2, b"line %d %s\n" % (number, b"x" * 64 * 1024))
    os.write(2, b"".join(b"last line %d\n" % number for number in range(30)))
    atexit.register(os.write, 2, b"a library says goodbye\n")
    raise CompiledModelError("the reason\nin two lines")


def write_too_much(target: str) -> None:
    with Path(target).open("wb", 0) as file:
        for _ in range(17):
            file.write(bytes(1024 * 1024))


def fill_disk(_: str) -> None:
    """Fail as a write to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def be_killed(number: str) -> None:
    os.kill(os.getpid(), int(number))


def end_early(code: str) -> None:
    os._exit(int(code))
