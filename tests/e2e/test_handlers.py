"""Handlers behind a real gunicorn: one pool for all workers, which outlives a reload and ends with the server."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import PASSWORD, USER, LiveServer
from tests.handlers.archives import make_archive, make_config

HANDLER = """
import os, time

def handle(data, context):
    if data is None:
        return None
    if data[0]["body"] == "endless":
        while True:
            pass
    time.sleep(0.3)
    return [{"pid": os.getpid()}] * len(data)
"""


@pytest.fixture(scope="module")
def live(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("e2e")
    files: dict[str, str | bytes] = {
        "slow.py": HANDLER,
        "config.yaml": make_config(minWorkers=4, maxWorkers=4, responseTimeout=2),
    }
    make_archive(folder / "models", "slow", "slow.py", files, config_file="config.yaml")
    settings = {"SCANCER_WORKERS": "2", "SCANCER_PROGRAMS": "all", "SCANCER_MODELS": str(folder / "models")}
    server = LiveServer(instance, folder / "log", settings)
    yield server.start()
    server.stop()


def ask(live: LiveServer, text: str = "") -> requests.Response:
    headers = {"Content-Type": "text/plain"}
    return requests.post(
        f"{live.inference}/predictions/slow", data=text, auth=(USER, PASSWORD), headers=headers, timeout=30
    )


def ask_eight(live: LiveServer) -> set[int]:
    with ThreadPoolExecutor(8) as threads:
        return {json.loads(answer.content)["pid"] for answer in threads.map(lambda _: ask(live), range(8))}


def test_workers_share_one_pool_and_it_outlives_a_reload(live: LiveServer) -> None:
    before = ask_eight(live)
    assert len(before) == 4
    assert live.process is not None
    live.process.send_signal(signal.SIGHUP)
    time.sleep(3)
    assert ask_eight(live) == before


def test_endless_handler_is_killed_at_its_timeout_and_health_answers_meanwhile(live: LiveServer) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor() as threads:
        hanging = threads.submit(ask, live, "endless")
        while not hanging.done():
            assert requests.get(f"{live.inference}/health/live", timeout=5).status_code == 200
        answer = hanging.result()
    assert (answer.status_code, answer.json()["message"]) == (500, "Worker died.")
    assert 2 <= time.monotonic() - started < 6


def test_log_says_that_programs_are_run_and_what_confines_them(live: LiveServer) -> None:
    lines = [json.loads(line) for line in live.log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("reason") == "SCANCER_PROGRAMS=all" for line in lines)
    assert any(line["message"] == "handler started" and "NOFILE" in line["reason"] for line in lines)


def test_no_process_is_left_when_the_server_has_stopped(live: LiveServer) -> None:
    processes = ask_eight(live)
    live.stop()
    deadline = time.monotonic() + 15
    while any(is_running(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(process) for process in processes)
    assert list(live.instance.glob("handlers-*")) == []


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
