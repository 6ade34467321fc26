"""The worker with another WSGI application: it needs nothing of ours, and a fault costs no thread."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import find_free_ports, within

pytestmark = pytest.mark.slow

APPLICATION = """
import os, time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise ZeroDivisionError("Jane Doe's secret")
    if path.startswith("/wait"):
        open(path.replace("/", ""), "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answered"]
"""
CONFIGURATION = """
from app.logs import make_log_config

worker_class = "app.server.gunicorn_worker.SharedPollWorker"
threads = 3
logconfig_dict = make_log_config("INFO")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    (folder / "application.py").write_text(APPLICATION)
    (folder / "configuration.py").write_text(CONFIGURATION)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """One worker of three threads at most."""
    (port,) = find_free_ports(1)
    command = [sys.executable, "-m", "gunicorn", "-c", "configuration.py", "-b", f"127.0.0.1:{port}"]
    environment = {"PYTHONPATH": str(PROJECT_ROOT), "PATH": ""}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "application:application"], cwd=folder, env=environment, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                requests.get(address, timeout=5)
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_fault_is_one_json_line_without_a_callers_words_and_the_thread_goes_on(address: str, folder: Path) -> None:
    for _ in range(5):  # more than there are threads
        with pytest.raises(requests.ConnectionError):
            requests.get(address + "/fail", timeout=5)
    assert requests.get(address, timeout=5).text == "answered"

    def read_faults() -> list[dict[str, str]]:
        lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
        return [line for line in lines if line["message"] == "a thread of the server failed"]

    assert within(5, lambda: len(read_faults()) == 5)  # the connection is closed before the line is written
    faults = read_faults()
    assert faults[0]["reason"].startswith("ZeroDivisionError at address_threads.py:")
    assert "application.py:7" in faults[0]["reason"]
    assert "Jane" not in (folder / "log").read_text()


def test_threads_are_started_as_they_are_needed_up_to_the_limit(address: str, folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:

        def wait(number: int) -> Future[requests.Response]:
            future = pool.submit(requests.get, f"{address}/wait{number}", timeout=30)
            deadline = time.monotonic() + 10
            while not (folder / f"wait{number}").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return future

        waiting = [wait(1), wait(2)]
        assert requests.get(address, timeout=5).text == "answered"  # by the third thread
        waiting.append(wait(3))
        with pytest.raises(requests.ReadTimeout):
            requests.get(address, timeout=1)  # all three are busy
        (folder / "go").touch()
        assert {future.result(30).text for future in waiting} == {"answered"}
