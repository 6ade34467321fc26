"""`flask classify`: the same rows with a server and without one, in one run or after a kill."""

import csv
import io
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from app.cli.classify_command import AHEAD, ask_in_order
from app.cli.classifying.answer_table import Asked
from app.config.setting_types import PROJECT_ROOT
from tests.conftest import PASSWORD, USER, LiveServer, find_free_ports, within
from tests.test_cli import flask, make_environment

pytestmark = pytest.mark.slow
NAME = "pcam-classification"
EXAMPLES = PROJECT_ROOT / "models" / NAME / "1.1/examples"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four real patches, one that is broken, one of another kind, and a list that is no picture."""
    folder = tmp_path / "patches"
    folder.mkdir()
    for example in EXAMPLES.glob("*.jpg"):
        shutil.copy(example, folder)
    (folder / "broken.jpg").write_bytes((EXAMPLES / "normal.jpg").read_bytes()[:1500])
    Image.new("RGB", (96, 96), "green").save(folder / "green.png")
    (folder / "labels.csv").write_text("file,label\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLASSIFY_USER", USER)
    monkeypatch.setenv("CLASSIFY_PASSWORD", PASSWORD)
    return folder


@pytest.fixture
def where(tmp_path: Path) -> dict[str, str]:
    return {"models": str(PROJECT_ROOT / "models"), "instance": str(tmp_path / "instance")}


def read(text: str) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in csv.DictReader(io.StringIO(text))}


def test_folder_becomes_a_table_in_which_a_broken_picture_is_a_row(pictures: Path, where: dict[str, str]) -> None:
    done = flask("classify", NAME, "patches", **where)
    assert done.returncode == 1
    rows = read(done.stdout)
    assert list(rows) == sorted(f"patches/{file.name}" for file in pictures.iterdir() if file.suffix != ".csv")
    assert {row["class"] for name, row in rows.items() if "metastatic.jpg" in name} == {"metastatic"}
    broken, green = rows["patches/broken.jpg"], rows["patches/green.png"]
    assert (broken["class"], broken["score"], broken["fit"]) == ("", "", "")
    assert "cut" in broken["error"] or "end" in broken["error"]
    assert (green["class"], green["score"], green["fit"], green["error"]) == ("", "", "false", "")
    assert "almost of one colour" in green["reasons"]
    assert "6 pictures: 2 normal; 2 metastatic; 1 failed; 1 not of the model's kind\npassed over" in done.stderr
    assert "passed over, as no pictures by their names: 1\n" in done.stderr
    assert "Research use only. Not for diagnosis." in done.stderr


def test_picture_of_another_kind_is_answered_where_that_is_asked_for(pictures: Path, where: dict[str, str]) -> None:
    done = flask("classify", NAME, "patches/green.png", "--unfit", "answer", **where)
    assert done.returncode == 0
    row = read(done.stdout)["patches/green.png"]
    assert (bool(row["class"]), row["fit"], row["error"]) == (True, "false", "")
    assert row["warnings"] == "The picture shows a single colour; the answer means nothing."


@pytest.mark.parametrize("unfit", ["refuse", "answer"])
def test_table_is_the_same_with_a_server(
    pictures: Path, where: dict[str, str], shipped_server: LiveServer, unfit: str
) -> None:
    alone = flask("classify", NAME, "patches", "--unfit", unfit, **where)
    asked = flask("classify", NAME, "patches", "--unfit", unfit, "--url", shipped_server.inference, **where)
    here, there = read(alone.stdout), read(asked.stdout)
    assert alone.returncode == asked.returncode == 1
    for row in (*here.values(), *there.values()):  # pictures beside it in a batch may move a score's last digit
        row |= {name: f"{float(row[name]):.4f}" for name in ("score", "confidence") if row[name]}
    assert here == there


def test_table_says_what_the_api_answers(pictures: Path, where: dict[str, str], shipped_server: LiveServer) -> None:
    row = read(flask("classify", NAME, "patches/normal.jpg", **where).stdout)["patches/normal.jpg"]
    content = (pictures / "normal.jpg").read_bytes()
    url = f"{shipped_server.inference}/predictions/{NAME}"
    answer: dict[str, Any] = requests.put(url, data=content, auth=(USER, PASSWORD), timeout=30).json()
    for column in ("class", "model", "version"):
        assert row[column] == answer[column]
    for column in ("score", "threshold", "confidence"):
        assert float(row[column]) == pytest.approx(answer[column], abs=1e-4)
    assert row["cannot_tell"] == str(answer["cannot_tell"]).lower()


def start(*arguments: str, where: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    environment = make_environment(where) | {"PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "classify", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("is_served", [False, True], ids=["alone", "with a server"])
def test_killed_half_way_and_started_again_it_writes_the_table_of_one_run(
    tmp_path: Path, where: dict[str, str], shipped_server: LiveServer, pictures: Path, is_served: bool
) -> None:
    for number in range(200):
        shutil.copy(EXAMPLES / "normal.jpg", pictures / f"{number:03}.jpg")
    options = ["--url", shipped_server.inference, "--jobs", "1"] if is_served else []
    whole, torn = tmp_path / "whole.csv", tmp_path / "torn.csv"
    assert flask("classify", NAME, "patches", "--csv", str(whole), *options, **where).returncode == 1
    running = start(NAME, "patches", "--csv", str(torn), *options, where=where, folder=tmp_path)
    assert within(60, lambda: torn.exists() and torn.stat().st_size > 3000)
    running.send_signal(signal.SIGKILL)
    running.wait()
    with torn.open("a") as table:
        table.write("patches/1")
    assert torn.stat().st_size < whole.stat().st_size
    done = flask("classify", NAME, "patches", "--csv", str(torn), *options, **where)
    assert torn.read_bytes() == whole.read_bytes()
    assert (done.returncode, done.stderr.splitlines()[-3][:14]) == (1, "206 pictures: ")


def test_busy_server_is_waited_for_until_every_picture_is_answered(pictures: Path, own_instance: Path) -> None:
    shutil.rmtree(pictures)
    pictures.mkdir()
    for number in range(40):
        shutil.copy(EXAMPLES / "normal.jpg", pictures / f"{number:03}.jpg")
    bounds = {"SCANCER_WORKERS": "1", "SCANCER_QUEUE_SIZE": "1", "SCANCER_MODELS": str(PROJECT_ROOT / "models")}
    live = LiveServer(own_instance, own_instance / "log", bounds)
    try:
        live.start()
        done = flask("classify", NAME, "patches", "--url", live.inference, "--jobs", "30")
        assert (done.returncode, len(read(done.stdout))) == (0, 40)
        metrics = requests.get(f"{live.metrics}/metrics", auth=(USER, PASSWORD), timeout=30).text
        assert re.search(r"^scancer_refused_total{.*} [1-9]", metrics, re.MULTILINE)
    finally:
        live.stop()


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"CLASSIFY_PASSWORD": "wrong"}, "does not know this user and password"),
        ({"CLASSIFY_USER": ""}, "does not know this user and password"),
        ({"MODEL": "nope"}, "answers 404: Model not found: nope"),
        ({"URL": "http://127.0.0.1:{free}"}, "does not answer: "),
        ({"URL": "http://127.0.0.1:{metrics}/metrics?"}, "is no Scancer API"),
        ({"URL": "http://ada:secret@127.0.0.1"}, "without user and password"),
        ({"URL": "127.0.0.1:8080"}, "it must be like https://host:port"),
    ],
)
def test_server_that_cannot_be_asked_is_told(
    pictures: Path, shipped_server: LiveServer, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], reason: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    url = changed.get("URL", shipped_server.inference).format(
        free=find_free_ports(1)[0], metrics=shipped_server.ports[2]
    )
    done = flask("classify", changed.get("MODEL", NAME), "patches", "--url", url)
    assert (done.returncode in (1, 2), reason in done.stderr) == (True, True), done.stderr
    assert "secret" not in done.stderr
    assert done.stdout == ""


def test_password_to_another_machine_in_the_clear_is_warned_about(pictures: Path) -> None:
    done = flask("classify", NAME, "patches", "--url", "http://nowhere.invalid")
    assert (done.returncode, "anybody on the way can read the password" in done.stderr) == (1, True)


def test_unknown_model_and_path_are_told(pictures: Path, where: dict[str, str]) -> None:
    assert "Model not found: nope" in flask("classify", "nope", "patches", **where).stderr
    done = flask("classify", NAME, "absent/*.png", **where)
    assert (done.returncode, "absent/*.png: there is no such file or folder" in done.stderr) == (1, True)


class CountingSource:
    """A source that counts what it was asked."""

    asked = Asked("tiny", "1.0", None, takes_unfit=False)
    jobs = 2
    group = 3

    def __init__(self) -> None:
        self.count = 0

    def ask(self, paths: Any) -> list[dict[str, Any]]:
        self.count += len(paths)
        return [{"class": path} for path in paths]

    def close(self) -> None:
        """Has nothing to let go."""


def test_answers_keep_their_order_and_few_are_ahead_of_the_table() -> None:
    source, paths = CountingSource(), [str(number) for number in range(10_000)]
    answered: Iterator[Any] = ask_in_order(source, paths)
    done = []
    for group, answers in answered:
        assert [answer["class"] for answer in answers] == list(group)
        done += group
        assert source.count - len(done) <= source.group * AHEAD * source.jobs
    assert done == paths
