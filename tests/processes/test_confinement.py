"""What confines a handler's process: its own limits, no network, nothing that outlives it."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.handlers.client.pool_client import PoolClient
from app.handlers.handler_archive import HandlerArchive
from tests.handlers.fixtures import Ask, has_ended

Start = Callable[..., HandlerArchive]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")

LOOKING = """
import os, resource, socket, subprocess, sys

def look():
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), 2).close()
        network = "open"
    except OSError as error:
        network = type(error).__name__
    return {
        "cwd": os.getcwd(),
        "path": sys.path[:2],
        "session": os.getsid(0) == os.getpid(),
        "memory": resource.getrlimit(resource.RLIMIT_AS),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "network": network,
        "environment": dict(os.environ),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }

def handle(data, context):
    if data is None:
        return None
    if data[0]["body"] == "leave a child":
        return [subprocess.Popen(["sleep", "600"]).pid]
    return [look()]
"""


def test_handlers_process_is_confined(
    start: Start, ask: Ask, pools: PoolClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SCANCER_LOG_LEVEL", "OTEL_EXPORTER_OTLP_HEADERS", "PGPASSWORD"):
        monkeypatch.setenv(name, "correct-horse")
    archive = start(LOOKING)
    answer = ask(archive, "look")
    assert answer is not None
    seen = json.loads(answer[1])
    assert seen["cwd"] == str(archive.path) == seen["path"][0]
    assert seen["session"] is True
    assert seen["memory"] == [1024**3, 1024**3]
    assert seen["core"] == [0, 0]
    assert "correct-horse" not in seen["environment"].values()
    assert seen["environment"]["PATH"] == os.environ["PATH"]
    assert [seen["environment"][name] for name in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")] == ["1", "1"]
    assert seen["descriptors"] <= 6  # three standard ones, its socket, twice, and the one that lists them
    in_force = pools.describe(archive)["confined_by"]
    assert (seen["network"] != "open") == ("no network" in in_force)


def test_child_of_a_handler_ends_with_it(start: Start, ask: Ask, pools: PoolClient) -> None:
    archive = start(LOOKING)
    answer = ask(archive, "leave a child")
    assert answer is not None
    child = int(answer[1])
    assert Path(f"/proc/{child}").exists()
    pools.scale(archive, min_workers=0, max_workers=0)
    assert has_ended(child)


def test_handlers_process_ends_with_its_manager(start: Start, pools: PoolClient) -> None:
    [worker] = pools.describe(start(LOOKING))["workers"]
    manager = pools.link.manager
    assert manager is not None
    manager.kill()
    assert has_ended(worker["pid"])
