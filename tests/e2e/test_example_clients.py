"""The clients in get_started/clients, each run against a real server, where its language is installed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer, within

FOLDER = PROJECT_ROOT / "get_started/clients"
NAME = "pcam-classification"
PICTURE = PROJECT_ROOT / "models" / NAME / "1.1/examples/metastatic.jpg"
CLIENTS = {
    "classify.py": [sys.executable],
    "classify.mjs": ["node"],
    "classify.R": ["Rscript"],
    "Classify.java": ["java"],
}
NOT_RUN = {"Classify.cs"}
TIMEOUT_S = 90


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, instance: Path) -> Iterator[LiveServer]:
    """A server of the shipped models that a test may scale."""
    folder = tmp_path_factory.mktemp("clients")
    shutil.copy(instance / "users", folder)
    live = LiveServer(folder, folder / "log", {"SCANCER_WORKERS": "1", "SCANCER_MODELS": str(PROJECT_ROOT / "models")})
    try:
        yield live.start()
    finally:
        live.stop()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> list[str]:
    """The command of a client; skipped where its language is absent."""
    program = CLIENTS[request.param]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    if (
        program == ["Rscript"]
        and subprocess.run(["Rscript", "-e", "library(curl); library(jsonlite)"], check=False).returncode
    ):
        pytest.skip("R's packages curl and jsonlite are not installed")
    return [*program, str(FOLDER / request.param)]


def start(client: list[str], live: LiveServer, picture: Path, password: str = PASSWORD) -> "subprocess.Popen[str]":
    login = {"CLASSIFY_URL": live.inference, "CLASSIFY_USER": USER, "CLASSIFY_PASSWORD": password}
    environment = {**os.environ, **login}
    command = [*client, NAME, str(picture)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_client_is_run_or_said_not_to_be() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == {*CLIENTS, *NOT_RUN, "README.md"}
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`\S+(?: run)? (\S+) MODEL PICTURE` \| yes", told)) == set(CLIENTS)
    assert set(re.findall(r"`\S+(?: run)? (\S+) MODEL PICTURE` \| no", told)) == NOT_RUN


def test_python_client_has_twenty_lines() -> None:
    assert len([line for line in (FOLDER / "classify.py").read_text().splitlines() if line]) <= 20


def test_client_prints_the_line_of_its_guide(live: LiveServer, client: list[str]) -> None:
    told, errors = start(client, live, PICTURE).communicate(timeout=TIMEOUT_S)
    line = re.search(r"^ +(class=.*)$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None, errors
    given = dict(part.split("=") for part in told.lower().split())
    promised = dict(part.split("=") for part in line[1].split())
    for key in ("score", "threshold"):
        assert float(given.pop(key)) == pytest.approx(float(promised.pop(key)), abs=1e-4)
    assert given == promised


def test_client_says_why_a_picture_has_no_class(live: LiveServer, client: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "green").save(tmp_path / "green.png")
    process = start(client, live, tmp_path / "green.png")
    told, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, told) == (1, "")
    assert errors.startswith("422: The picture is not of the kind")


def test_client_says_that_the_password_is_wrong(live: LiveServer, client: list[str]) -> None:
    process = start(client, live, PICTURE, password="wrong")
    told, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, told, errors[:5]) == (1, "", "401: ")


def test_client_waits_while_the_model_is_not_ready(live: LiveServer, client: list[str]) -> None:
    def scale(workers: int) -> None:
        url = f"{live.management}/models/{NAME}?min_worker={workers}&synchronous=true"
        assert requests.put(url, auth=(MANAGER, MANAGER_PASSWORD), timeout=60).status_code == 200

    def count_refusals() -> int:
        return live.log.read_text().count('"status": 503')

    scale(0)
    before = count_refusals()
    process = start(client, live, PICTURE)
    try:
        assert within(TIMEOUT_S, lambda: count_refusals() > before)
    finally:
        scale(1)
    told, errors = process.communicate(timeout=TIMEOUT_S)
    assert told.startswith("class=metastatic"), errors
