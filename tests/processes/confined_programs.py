"""What the confined process is made to run by `test_confined_process.py`."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path


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
        "settings": [name for name in os.environ if name.startswith("SCANCER_")],
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
    for _ in range(64):
        os.write(2, b"x" * 1024 * 1024)
    os.write(2, b"\nthe reason\n")
    raise SystemExit(3)


def main() -> int:
    programs = {each.__name__: each for each in (look, hog, leave_a_child, hang, chatter)}
    programs[sys.argv[1]](sys.argv[2])
    return 0
