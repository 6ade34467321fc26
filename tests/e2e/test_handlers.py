"""Handlers behind a real gunicorn: one pool for all workers, which outlives a reload and ends with the server."""

import json
import os
import signal
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from app.state.worker_reports import read_reports
from app.users import UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer, within
from tests.handlers.archives import make_archive, make_config

WORKERS = 4
AGREE_S = 1.0
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
QUICK = "def handle(data, context):\n    return ['VERSION'] * len(data or [])\n"


def make_quick(store: Path, version: str) -> None:
    """Write an archive whose handler answers with its own version."""
    model = {"modelName": "quick", "modelVersion": version, "handler": "quick.py"}
    with zipfile.ZipFile(store / f"quick{version}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("quick.py", QUICK.replace("VERSION", version))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("e2e")
    instance = folder / "instance"
    instance.mkdir()
    UsersFile(instance).add(USER, "predict", PASSWORD)
    UsersFile(instance).add(MANAGER, "manage", MANAGER_PASSWORD)
    files: dict[str, str | bytes] = {
        "slow.py": HANDLER,
        "config.yaml": make_config(minWorkers=4, maxWorkers=4, responseTimeout=2),
    }
    make_archive(folder / "models", "slow", "slow.py", files, config_file="config.yaml")
    (folder / "store").mkdir()
    for version in ("1.0", "2.0"):
        make_quick(folder / "store", version)
    settings = {
        "SCANCER_WORKERS": str(WORKERS),
        "SCANCER_PROGRAMS": "all",
        "SCANCER_MODELS": str(folder / "models"),
        "SCANCER_STORE": str(folder / "store"),
    }
    server = LiveServer(instance, folder / "log", settings)
    yield server.start()
    server.stop()


def ask(live: LiveServer, text: str = "", name: str = "slow") -> requests.Response:
    headers = {"Content-Type": "text/plain"}
    url = f"{live.inference}/predictions/{name}"
    return requests.post(url, data=text, auth=(USER, PASSWORD), headers=headers, timeout=30)


def ask_eight(live: LiveServer) -> set[int]:
    with ThreadPoolExecutor(8) as threads:
        return {json.loads(answer.content)["pid"] for answer in threads.map(lambda _: ask(live), range(8))}


def manage(live: LiveServer, method: str, path: str) -> Any:
    answer = requests.request(method, live.management + path, auth=(MANAGER, MANAGER_PASSWORD), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def list_pids(live: LiveServer, name: str = "slow") -> list[int]:
    """The processes of a handler that are ready."""
    workers = manage(live, "GET", f"/models/{name}")[0]["workers"]
    return [each["pid"] for each in workers if each["status"] == "READY"]


@pytest.mark.alone
def test_four_workers_serve_four_at_a_time(live: LiveServer) -> None:
    started = time.monotonic()
    pids = ask_eight(live)
    assert len(pids) == 4
    assert 0.6 <= time.monotonic() - started < 2.4  # one worker would take 2.4 s
    assert sorted(list_pids(live)) == sorted(pids)


def test_workers_share_one_pool_and_it_outlives_a_reload_without_a_failure(live: LiveServer) -> None:
    before = ask_eight(live)
    assert live.process is not None
    pids = {report.pid for report in read_reports(live.instance)}
    with ThreadPoolExecutor(8) as threads:
        live.process.send_signal(signal.SIGHUP)
        asked = [threads.submit(ask, live) for _ in range(40)]
        assert {each.result().status_code for each in asked} == {200}
    assert within(20, lambda: not pids & {report.pid for report in read_reports(live.instance)})
    assert ask_eight(live) == before


def test_killed_worker_is_back_within_five_seconds(live: LiveServer) -> None:
    before = list_pids(live)
    os.kill(before[0], signal.SIGKILL)
    assert within(5, lambda: len(set(list_pids(live)) - {before[0]}) == 4)


@pytest.mark.alone
def test_endless_handler_is_killed_at_its_timeout_and_health_answers_meanwhile(live: LiveServer) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor() as threads:
        hanging = threads.submit(ask, live, "endless")
        while not hanging.done():
            assert requests.get(f"{live.inference}/health/live", timeout=5).status_code == 200
        answer = hanging.result()
    assert (answer.status_code, answer.json()["message"]) == (500, "Worker died.")
    assert 2 <= time.monotonic() - started < 4
    assert within(5, lambda: len(list_pids(live)) == 4)


@pytest.mark.alone
def test_no_request_fails_while_versions_of_a_handler_come_change_and_go(live: LiveServer) -> None:
    manage(live, "POST", "/models?url=quick1.0.mar&initial_workers=1")
    answers: list[tuple[float, int, str, str]] = []
    is_over = False

    def keep_asking() -> None:
        while not is_over:
            started = time.monotonic()
            answer = ask(live, "x", "quick")
            answers.append((started, answer.status_code, answer.text, answer.headers["X-Model-Version"]))

    def since(moment: float) -> set[str]:
        count = len(answers)
        assert within(20, lambda: len(answers) > count + 20)
        return {text for started, _, text, _ in answers if started > moment}

    def change(method: str, path: str) -> float:
        started = time.monotonic()
        manage(live, method, path)
        took[f"{method} {path}"] = time.monotonic() - started
        return time.monotonic()

    took: dict[str, float] = {}
    with ThreadPoolExecutor(6) as threads:
        asking = [threads.submit(keep_asking) for _ in range(6)]
        try:
            assert since(change("POST", "/models?url=quick2.0.mar&initial_workers=1")) == {"1.0"}
            for default, other in (("2.0", "1.0"), ("1.0", "2.0"), ("2.0", "1.0")):
                assert since(change("PUT", f"/models/quick/{default}/set-default")) == {default}
                assert since(change("PUT", f"/models/quick/{other}?min_worker=0&synchronous=true")) == {default}
                assert since(change("PUT", f"/models/quick/{other}?min_worker=2&synchronous=true")) == {default}
                assert len(list_pids(live, f"quick/{other}")) == 2
            assert since(change("DELETE", "/models/quick/1.0")) == {"2.0"}
        finally:
            is_over = True
        for each in asking:
            each.result()
    assert {status for _, status, _, _ in answers} == {200}
    assert {(text, version) for _, _, text, version in answers} == {("1.0", "1.0"), ("2.0", "2.0")}
    print(f"{len(answers)} answers, none failed; seconds:", {call: round(s, 2) for call, s in took.items()})
    assert max(seconds for call, seconds in took.items() if "set-default" in call) < AGREE_S


def test_killed_manager_is_replaced_with_the_scale_that_was_wanted(live: LiveServer) -> None:
    manage(live, "PUT", "/models/slow?min_worker=3&max_worker=3&synchronous=true")
    before = list_pids(live)
    assert len(before) == 3
    [folder] = live.instance.glob("handlers-*")
    managers = [
        process
        for process in list_processes()
        if f"app.handlers.manager.pool_manager {folder}" in read_command(process)
    ]
    os.kill(managers[0], signal.SIGKILL)
    assert within(10, lambda: len(set(list_pids(live)) - set(before)) == 3)
    assert ask(live).status_code == 200
    assert list(live.instance.glob("handlers-*")) == [folder]


def test_log_says_that_programs_are_run_and_what_confines_them(live: LiveServer) -> None:
    lines = [json.loads(line) for line in live.log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("reason") == "SCANCER_PROGRAMS=all" for line in lines)
    assert any(line["message"] == "handler started" and "NOFILE" in line["reason"] for line in lines)


def test_nothing_is_left_when_the_server_has_stopped(live: LiveServer) -> None:
    processes = list_pids(live)
    folder = next(live.instance.glob("handlers-*"))
    live.stop()
    assert [pid for pid in processes if pid in list_processes()] == []
    assert [pid for pid in list_processes() if str(folder) in read_command(pid)] == []
    assert list(live.instance.glob("handlers-*")) == []


def list_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def read_command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
