"""How many requests a worker takes at the default settings: a handler's queue of 100, and batches above 24."""

import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from app.users import USERS_FILE
from tests.conftest import PASSWORD, USER, LiveServer, basic, find_first_versions
from tests.handlers.archives import make_archive

AUTH = (USER, PASSWORD)
WAITING_HANDLER = """
import os, time

def handle(data, context):
    if data is None:
        return None
    while not os.path.exists(data[0]["body"].decode()):
        time.sleep(0.01)
    return ["done"]
"""
HANDLER_QUEUE = 100
MAX_BATCH, QUEUE = 64, 16


@pytest.fixture(scope="module")
def live(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One HTTP worker, a slow handler in one process, and pcam with batches of up to 64."""
    folder = tmp_path_factory.mktemp("admission")
    make_archive(folder / "models", "slow", "w.py", {"w.py": WAITING_HANDLER})
    wide = folder / "models/pcam-classification"
    shutil.copytree(find_first_versions() / "pcam-classification", wide)
    with (wide / "1.0/model.toml").open("a", encoding="utf-8") as manifest:
        manifest.write(f"\n[batch]\nmax_size = {MAX_BATCH}\n")
    shutil.copy(instance / USERS_FILE, folder)
    settings = {"SCANCER_WORKERS": "1", "SCANCER_PROGRAMS": "all", "SCANCER_MODELS": str(folder / "models")}
    server = LiveServer(folder, folder / "log", settings)
    try:
        yield server.start()
    finally:
        server.stop()


def connect(live: LiveServer, path: str, body: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", live.ports[0]), timeout=60)
    head = f"PUT {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic()['Authorization']}\r\n"
    connection.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
    return connection


def finish(connection: socket.socket, body: bytes) -> bytes:
    """Send the last byte and return the first line of the answer."""
    with connection, connection.makefile("rb") as stream:
        connection.sendall(body[-1:])
        return stream.readline().split()[1]


def count_waiting(live: LiveServer) -> int:
    [described] = requests.get(live.management + "/models/slow", auth=AUTH, timeout=10).json()
    waiting: int = described["jobQueueStatus"]["pendingRequests"]
    return waiting


def test_handlers_queue_of_a_hundred_is_reached_while_health_and_other_models_answer(
    live: LiveServer, pcam_example: bytes, tmp_path: Path
) -> None:
    sign = tmp_path / "go"
    body = str(sign).encode()
    requests.get(live.inference + "/models", auth=AUTH, timeout=10)
    spellings = ("/predictions/slow", "//predictions/slow", "/predictions/slow/1.0", "/%70redictions/slow/")
    with ThreadPoolExecutor(HANDLER_QUEUE + 1) as pool:
        waiting = [
            pool.submit(finish, connect(live, spellings[number % len(spellings)], body), body)
            for number in range(HANDLER_QUEUE + 1)
        ]
        deadline = time.monotonic() + 30
        while count_waiting(live) < HANDLER_QUEUE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        refused = requests.put(live.inference + "/predictions/slow", data=body, auth=AUTH, timeout=10)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        for spelling in spellings:
            assert finish(connect(live, spelling, body), body) == b"503"
        started = time.monotonic()
        for base in (live.inference, live.management, live.metrics):
            assert requests.get(base + "/health/live", timeout=5).status_code == 200
        assert requests.get(live.management + "/models", auth=AUTH, timeout=5).status_code == 200
        other = requests.put(
            live.inference + "/predictions/pcam-classification", data=pcam_example, auth=AUTH, timeout=5
        )
        assert other.status_code == 200
        assert time.monotonic() - started < 5
        sign.touch()
        assert {future.result(60) for future in waiting} == {b"200"}


def test_batch_of_sixty_four_and_a_queue_are_let_in_at_once(live: LiveServer, pcam_example: bytes) -> None:
    path = "/predictions/pcam-classification"
    assert requests.put(live.inference + path, data=pcam_example, auth=AUTH, timeout=30).status_code == 200
    connections = [connect(live, path, pcam_example) for _ in range(MAX_BATCH + QUEUE)]
    with ThreadPoolExecutor(len(connections)) as pool:
        answers = list(pool.map(lambda connection: finish(connection, pcam_example), connections))
    assert set(answers) == {b"200"}
