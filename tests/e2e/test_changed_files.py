"""A real gunicorn of two workers while the files of its models change: no two workers answer differently for long."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from app.engines.compiled.compile_report import hash_ir
from app.processes.plain_files import hash_files
from tests.conftest import MANAGER, MANAGER_PASSWORD, LiveServer, copy_users, find_first_versions, within
from tests.e2e.test_server import AUTH, PCAM, wait_for_ready_workers, worker_pids
from tests.handlers.archives import make_archive

FOLDER = "pcam-classification/1.0"
ASKED = 20
"""Requests, each on a connection of its own, so that both workers are among those who answer."""
HANDLER = "def handle(data, context):\n    return data and [b'old'] * len(data)\n"
APART_S = 10.0
"""How long two workers may answer differently on a busy machine; on an idle one it is a poll and a load, 1 s."""


@pytest.fixture(scope="module")
def live(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of pcam-classification alone."""
    models = tmp_path_factory.mktemp("models")
    own = copy_users(instance, tmp_path_factory.mktemp("own") / "instance")
    shutil.copytree(find_first_versions() / FOLDER, models / FOLDER)
    make_archive(models, "own-program", "own.py", {"own.py": HANDLER})
    settings = {"SCANCER_WORKERS": "2", "SCANCER_MODELS": str(models), "SCANCER_PROGRAMS": "all"}
    server = LiveServer(own, tmp_path_factory.mktemp("server") / "log", settings).start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def folder(live: LiveServer) -> Iterator[Path]:
    """The served folder as it was shipped, loaded by both workers; it is so again when the test ends."""
    path = Path(live.environment["SCANCER_MODELS"]) / FOLDER
    wait_for_ready_workers(live, 2)
    yield path
    shutil.copytree(find_first_versions() / FOLDER, path, dirs_exist_ok=True)
    load(live)


def load(live: LiveServer, name: str = "pcam-classification") -> None:
    url = f"{live.management}/v2/repository/models/{name}/load"
    answer = requests.post(url, auth=(MANAGER, MANAGER_PASSWORD), timeout=60)
    assert answer.status_code == 200, answer.text


def ask(live: LiveServer, picture: bytes, count: int = 1) -> str:
    """Return what a worker answers to a number of pictures in one request, but for the request's name."""
    files = [("image", (f"{number}.png", picture)) for number in range(count)]
    answer = requests.post(live.inference + PCAM, files=files, auth=AUTH, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.text.replace(answer.headers["X-Request-ID"], "")


def ask_all(live: LiveServer, picture: bytes) -> set[str]:
    """Return what the workers answer to one picture, and to two."""
    return {ask(live, picture, count) for count in (1, 2) for _ in range(ASKED)}


def describe(live: LiveServer, label: str = FOLDER) -> str:
    reason: str = requests.get(f"{live.inference}/models/{label}", auth=AUTH, timeout=10).json()["reason"]
    return reason


def change_threshold(folder: Path) -> None:
    manifest = folder / "model.toml"
    text, changed = re.subn(r"(?m)^threshold = .*", "threshold = 0.123", manifest.read_text())
    assert changed == 1
    manifest.write_text(text)


def change_weights(folder: Path) -> None:
    """Put other weights in the place of the model's, with all hashes that belong to them."""
    artifact, weights, report = (
        folder / name for name in ("model.safetensors", "compiled/model.bin", "compiled/report.json")
    )
    before = hash_files(artifact)
    artifact.write_bytes(artifact.read_bytes() + b" ")
    weights.write_bytes(weights.read_bytes()[:-5000] + bytes(5000))
    document = json.loads(report.read_text()) | {
        "artifact_sha256": hash_files(artifact),
        "ir_sha256": hash_ir(folder / "compiled"),
    }
    report.write_text(json.dumps(document))
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace(before, hash_files(artifact)))


def kill_one(live: LiveServer) -> None:
    os.kill(min(worker_pids(live)), signal.SIGKILL)


def hang_up(live: LiveServer) -> None:
    assert live.process is not None
    live.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("is_cut", [False, True], ids=["overwritten", "cut"])
def test_compiled_files_that_change_where_they_lie_change_no_answer(
    live: LiveServer, folder: Path, pcam_example: bytes, is_cut: bool
) -> None:
    answers, workers = ask_all(live, pcam_example), worker_pids(live)
    assert len(answers) == 2
    for path in (folder / "compiled").iterdir():
        with path.open("r+b") as file:
            if is_cut:
                file.truncate(0)
            else:
                file.write(os.urandom(path.stat().st_size))
    assert ask_all(live, pcam_example) == answers
    assert within(10, lambda: "compiled" in describe(live))
    assert ask_all(live, pcam_example) == answers
    assert worker_pids(live) == workers


@pytest.mark.alone
@pytest.mark.parametrize(
    ("change", "renew"), [(change_threshold, kill_one), (change_weights, kill_one), (change_weights, hang_up)]
)
def test_changed_files_that_a_worker_reads_when_it_starts_are_soon_read_by_all(
    live: LiveServer,
    folder: Path,
    pcam_example: bytes,
    change: Callable[[Path], None],
    renew: Callable[[LiveServer], None],
) -> None:
    old = ask(live, pcam_example)
    change(folder)
    assert within(10, lambda: "changed since it was loaded" in describe(live))
    assert {ask(live, pcam_example) for _ in range(ASKED)} == {old}
    workers = worker_pids(live)
    renew(live)
    answers: list[tuple[str, float]] = []
    while len(answers) < ASKED or old in {answer for answer, _ in answers[-ASKED:]}:
        answers.append((ask(live, pcam_example), time.monotonic()))
    first_s = min(moment for answer, moment in answers if answer != old)
    assert max([moment for answer, moment in answers if answer == old], default=0) - first_s < APART_S
    assert len({answer for answer, _ in answers}) == 2
    if renew is kill_one:
        assert len(workers & worker_pids(live)) == 1


def test_explicit_load_reads_what_has_changed_in_all_workers(
    live: LiveServer, folder: Path, pcam_example: bytes
) -> None:
    workers, old = worker_pids(live), ask(live, pcam_example)
    change_weights(folder)
    load(live)
    answers = {ask(live, pcam_example) for _ in range(ASKED)}
    assert len(answers) == 1
    assert old not in answers
    assert worker_pids(live) == workers
    assert describe(live) == ""


def load_program(live: LiveServer) -> None:
    load(live, "own-program")


def ask_program(live: LiveServer) -> set[str]:
    url = f"{live.inference}/predictions/own-program"
    return {requests.post(url, data=b"x", auth=AUTH, timeout=30).text for _ in range(ASKED)}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("renew", [kill_one, load_program])
def test_changed_program_answers_in_all_workers_or_in_none(
    live: LiveServer, renew: Callable[[LiveServer], None]
) -> None:
    program = Path(live.environment["SCANCER_MODELS"]) / "own-program/1.0/own.py"
    program.write_text(HANDLER)
    load_program(live)
    assert ask_program(live) == {"old"}
    program.write_text(HANDLER.replace("old", "new"))
    assert within(10, lambda: describe(live, "own-program/1.0").endswith(": own.py"))
    assert ask_program(live) == {"old"}
    renew(live)
    assert within(60, lambda: "new" in ask_program(live))
    assert within(APART_S, lambda: ask_program(live) == {"new"})
    assert ask_program(live) == {"new"}


def test_touched_files_are_no_change(live: LiveServer, folder: Path) -> None:
    said = live.log.read_text().count("were changed")
    for path in folder.rglob("*"):
        path.touch()
    assert not within(4, lambda: bool(describe(live)))
    assert live.log.read_text().count("were changed") == said
