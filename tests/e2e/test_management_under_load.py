"""Managing a real server of four workers while it answers: no request fails, and all workers agree within a second."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.state.worker_reports import read_reports
from app.users import UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, LiveServer, find_first_versions
from tests.e2e.test_server import metric
from tests.test_cli import flask

NAME = "pcam-classification"
AUTH = (MANAGER, MANAGER_PASSWORD)
WORKERS = 4
AGREE_S = 1.0


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    """A server of its own with pcam-classification 1.0, and 2.0 in the store's folder."""
    shutil.copytree(find_first_versions() / NAME, tmp_path / "models" / NAME)
    make_version(tmp_path / "store/two", "2.0")
    instance = tmp_path / "instance"
    instance.mkdir()
    UsersFile(instance).add(MANAGER, "manage", MANAGER_PASSWORD)
    environment = {
        "SCANCER_MODELS": str(tmp_path / "models"),
        "SCANCER_STORE": str(tmp_path / "store"),
        "SCANCER_WORKERS": str(WORKERS),
    }
    server = LiveServer(instance, tmp_path / "log", environment)
    try:
        server.start()
        wait_until(20, lambda: len(reports(server)) == WORKERS)
        yield server
    finally:
        server.stop()


def make_version(folder: Path, version: str) -> None:
    """Copy the shipped model under another version."""
    shutil.copytree(PROJECT_ROOT / "models" / NAME / "1.0", folder)
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.0"', f'version = "{version}"'))


def wait_until(seconds: float, is_so: Callable[[], bool]) -> float:
    """Wait until something is so; return the seconds it took."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


def reports(server: LiveServer) -> list[dict[str, str]]:
    """The states of all workers that have said anything."""
    return [report.states for report in read_reports(server.instance) if report.generation >= 0]


def manage(server: LiveServer, method: str, path: str) -> str:
    """Make a change and return what the server says of it."""
    answer = requests.request(method, server.management + path, auth=AUTH, timeout=60)
    assert answer.status_code == 200, answer.text
    status: str = answer.json()["status"]
    return status


@dataclass
class Load:
    """Callers that ask again and again, and what they were answered."""

    server: LiveServer
    body: bytes
    pause_s: float = 0.0
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self.threads = [threading.Thread(target=self.ask) for _ in range(6)]
        for thread in self.threads:
            thread.start()
        wait_until(20, lambda: len(self.answers) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def ask(self) -> None:
        with requests.Session() as session:
            session.auth = AUTH
            while not self.stop.is_set():
                started = time.monotonic()
                answer = session.put(f"{self.server.inference}/predictions/{NAME}", data=self.body, timeout=30)
                self.answers.append((started, answer.status_code, answer.json().get("version", answer.text)))
                self.stop.wait(self.pause_s)

    def since(self, moment: float) -> set[str]:
        """The versions that answered requests which began after a moment."""
        count = len(self.answers)
        wait_until(20, lambda: len(self.answers) > count + 20)
        return {version for started, _, version in self.answers if started > moment}


@pytest.mark.alone
def test_no_request_fails_while_versions_come_change_and_go(live: LiveServer, pcam_example: bytes) -> None:
    took: dict[str, float] = {}

    def timed(method: str, path: str) -> float:
        """Make a change; from its answer on every worker must have followed."""
        started = time.monotonic()
        manage(live, method, path)
        ended = time.monotonic()
        took[f"{method} {path}"] = ended - started
        return ended

    with Load(live, pcam_example) as load:
        assert load.since(timed("POST", "/models?url=two&initial_workers=1")) == {"1.0"}
        for default, other in (("2.0", "1.0"), ("1.0", "2.0"), ("2.0", "1.0")):
            assert load.since(timed("PUT", f"/models/{NAME}/{default}/set-default")) == {default}
            assert load.since(timed("PUT", f"/models/{NAME}/{other}?min_worker=0&synchronous=true")) == {default}
            assert load.since(timed("PUT", f"/models/{NAME}/{other}?min_worker=1&synchronous=true")) == {default}
        assert load.since(timed("DELETE", f"/models/{NAME}/1.0")) == {"2.0"}
    assert {status for _, status, _ in load.answers} == {200}, [each for each in load.answers if each[1] != 200][:3]
    assert {version for _, _, version in load.answers} == {"1.0", "2.0"}
    assert reports(live) == [{f"{NAME}/2.0": "READY"}] * WORKERS
    quick = {call: seconds for call, seconds in took.items() if "set-default" in call}
    print(f"{len(load.answers)} predictions, none failed; seconds:", {k: round(v, 2) for k, v in took.items()})
    assert max(quick.values()) < AGREE_S, took
    assert metric(live, "scancer_model_state", version="1.0") == 0
    assert metric(live, "scancer_model_state", version="2.0", state="READY") == WORKERS


@pytest.mark.alone
def test_folder_that_is_put_there_is_served_by_every_worker_and_then_taken_away(live: LiveServer) -> None:
    folder = PROJECT_ROOT / live.environment["SCANCER_MODELS"] / NAME / "3.0"
    make_version(folder, "3.0")
    both = [{f"{NAME}/1.0": "READY", f"{NAME}/3.0": "READY"}] * WORKERS
    assert wait_until(5, lambda: reports(live) == both) < 5
    shutil.rmtree(folder)
    assert wait_until(5, lambda: reports(live) == [{f"{NAME}/1.0": "READY"}] * WORKERS) < 5


def test_commands_change_a_server_that_runs(live: LiveServer, pcam_example: bytes) -> None:
    where = {"instance": str(live.instance), "models": live.environment["SCANCER_MODELS"]}
    manage(live, "POST", "/models?url=two&initial_workers=1")
    assert flask("models", "set-default", NAME, "2.0", **where).stdout == f"the default of {NAME} is 2.0\n"

    def version() -> str:
        answer = requests.put(f"{live.inference}/predictions/{NAME}", data=pcam_example, auth=AUTH, timeout=30)
        answered: str = answer.json()["version"]
        return answered

    wait_until(2, lambda: version() == "2.0")
    time.sleep(AGREE_S)
    assert {version() for _ in range(20)} == {"2.0"}
    done = flask("models", "remove", f"{NAME}/2.0", **where)
    assert (done.returncode, done.stderr) == (1, f"Error: Cannot remove default version for model {NAME}\n")
    folder = Path(where["models"]) / NAME / "1.0"
    told = f"removed {NAME}/1.0\n{folder} stays; 'flask models add {folder}' serves it again\n"
    assert flask("models", "remove", f"{NAME}/1.0", **where).stdout == told
    assert flask("models", "remove", "nope/1", **where).stderr == "Error: Model not found: nope\n"
    wait_until(2, lambda: reports(live) == [{f"{NAME}/2.0": "READY"}] * WORKERS)
    told = f"ok {NAME}/1.0: served again\n{NAME}/2.0 stays the default; 'flask models set-default {NAME} 1.0'"
    assert flask("models", "add", str(folder), **where).stdout == f"{told} changes it\n"
    wait_until(5, lambda: reports(live) == [{f"{NAME}/1.0": "READY", f"{NAME}/2.0": "READY"}] * WORKERS)


def test_guide_to_versions_moves_every_caller_at_its_lines_and_loses_none(
    live: LiveServer, pcam_example: bytes, tmp_path: Path
) -> None:
    guide = (PROJECT_ROOT / "get_started/evaluate.md").read_text(encoding="utf-8")
    lines = re.search(r"<!-- run: versions -->\n```sh\n(.*?)```", guide, re.DOTALL)
    assert lines is not None
    make_version(tmp_path / "new/1.1", "1.1")
    with zipfile.ZipFile(tmp_path / "pcam-classification-1.1.zip", "w") as archive:
        for path in sorted(path for path in (tmp_path / "new/1.1").rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(tmp_path / "new/1.1"))
    for label, name in (("0", "synthetic-normal.png"), ("1", "synthetic-metastatic.png")):
        (tmp_path / "FOLDER" / label).mkdir(parents=True)
        for copy in "abc":
            shutil.copy(PROJECT_ROOT / "models" / NAME / "1.0/examples" / name, tmp_path / f"FOLDER/{label}/{copy}.png")
    folders = {"SCANCER_MODELS": live.environment["SCANCER_MODELS"], "SCANCER_INSTANCE": str(live.instance)}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **folders, "PYTHONPATH": str(PROJECT_ROOT), "FLASK_APP": "wsgi", "PATH": path}
    ended: list[float] = []
    with Load(live, pcam_example, pause_s=0.2) as load:
        for line in lines[1].replace("1.1", "1.0").replace("1.2", "1.1").splitlines():  # here 1.0 is the shipped one
            ended.append(time.monotonic())
            done = subprocess.run(
                ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            ended.append(time.monotonic())
            assert done.returncode == 0, (line, done.stderr)
            assert "cannot serve" not in done.stderr, line
        assert load.since(ended[-1]) == {"1.0"}
    assert {status for _, status, _ in load.answers} == {200}
    _, _, _, measured, switching, switched, returning, returned, *_ = ended
    assert {version for began, _, version in load.answers if began < measured} == {"1.0"}
    assert {version for began, _, version in load.answers if switched < began < returning} <= {"1.1"}
    assert {version for began, _, version in load.answers if switching < began < returned} == {"1.0", "1.1"}
    assert {version for began, _, version in load.answers if began > returned} == {"1.0"}


def test_worker_that_starts_anew_serves_what_is_wanted(live: LiveServer, pcam_example: bytes) -> None:
    manage(live, "POST", "/models?url=two&initial_workers=1")
    manage(live, "PUT", f"/models/{NAME}/2.0/set-default")
    victim = read_reports(live.instance)[0].pid
    os.kill(victim, 9)
    wait_until(
        20, lambda: victim not in (pids := {each.pid for each in read_reports(live.instance)}) and len(pids) == 4
    )
    wait_until(20, lambda: reports(live) == [{f"{NAME}/1.0": "READY", f"{NAME}/2.0": "READY"}] * WORKERS)
    url = f"{live.inference}/predictions/{NAME}"
    answers = [requests.put(url, data=pcam_example, auth=AUTH, timeout=30).json()["version"] for _ in range(20)]
    assert set(answers) == {"2.0"}
