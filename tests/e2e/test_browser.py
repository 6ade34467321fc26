"""The pages in a real browser: what people see, with and without script, by keyboard, and in both themes."""

import csv
import io
import json
import os
import shutil
import subprocess
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image, ImageEnhance

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import PASSWORD, USER, LiveServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE, MODULES = shutil.which("node"), PROJECT_ROOT / "node_modules"
INSTALL = "npm install --no-save playwright-core@1.65.1 axe-core@4.14.1"
MODEL = "/predictions/pcam-classification"
EXAMPLES = PROJECT_ROOT / "models/pcam-classification"
MANY = 200
HEAP_BYTES, NODES, HELD = 5_000_000, 100, 1
"""Bounds of what a page may hold more once they are answered: of its script's memory, of nodes for each picture, and
of pictures that the browser keeps for the page: the one that is shown.
"""
PORTRAIT_COLOURS = 256
PORTRAIT = "PAGE_PICTURE"
"""Names the file into which the picture of the README is written, such as get_started/page.png; else none is taken."""
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
    pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: apt-get install npm)"),
    pytest.mark.skipif(
        not (MODULES / "playwright-core").is_dir(), reason=f"playwright-core is absent: run '{INSTALL}'"
    ),
    pytest.mark.skipif(not (MODULES / "axe-core").is_dir(), reason=f"axe-core is absent: run '{INSTALL}'"),
]

Facts = dict[str, Any]


def classify(server: LiveServer, picture: bytes) -> Facts:
    answer: Facts = requests.post(server.inference + MODEL, data=picture, auth=(USER, PASSWORD), timeout=30).json()
    return answer


def darken_until_unsure(server: LiveServer) -> bytes:
    """A picture that the model cannot tell, PNG: where its answer goes over from one class to the other."""
    with Image.open(EXAMPLES / "1.1/examples/metastatic-called-normal.jpg") as image:
        for step in range(140, 200):
            buffer = io.BytesIO()
            ImageEnhance.Brightness(image).enhance(step / 200).save(buffer, "PNG")
            if classify(server, buffer.getvalue()).get("cannot_tell"):
                return buffer.getvalue()
    raise AssertionError("the model is sure of every picture")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def pictures(folder: Path, shipped_server: LiveServer) -> dict[str, Path]:
    """One file for each kind of answer."""
    (folder / "unsure.png").write_bytes(darken_until_unsure(shipped_server))
    return {
        "sure": EXAMPLES / "1.1/examples/metastatic.jpg",
        "unsure": folder / "unsure.png",
        "unfit": EXAMPLES / "1.0/examples/synthetic-normal.png",
        "failed": PROJECT_ROOT / "README.md",
    }


@pytest.fixture(scope="module")
def seen(folder: Path, pictures: dict[str, Path], shipped_server: LiveServer) -> Facts:
    """What one browser saw on all pages."""
    told = {
        "base": shipped_server.inference,
        "user": USER,
        "password": PASSWORD,
        "chromium": CHROMIUM,
        "modules": str(MODULES),
        "folder": str(folder),
        "pictures": {name: str(path) for name, path in pictures.items()},
        "many": MANY,
        "portrait": os.environ.get(PORTRAIT),
    }
    program = Path(__file__).with_name("browser.mjs")
    command = [str(NODE), str(program), json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    facts: Facts = json.loads(done.stdout)
    if portrait := told["portrait"]:
        with Image.open(str(portrait)) as image:
            image.convert("RGB").quantize(PORTRAIT_COLOURS).save(str(portrait), optimize=True)
    return facts


def test_every_page_was_used_to_its_end(seen: Facts) -> None:
    assert seen["errors"] == {}


def test_axe_finds_nothing_in_any_theme_or_width_and_no_page_scrolls_sideways(seen: Facts) -> None:
    assert seen["failures"] == []


def test_pages_ask_no_other_host_and_keep_to_their_policy(seen: Facts) -> None:
    assert seen["hosts"] == []
    assert seen["console"] == []


VERDICTS = {
    "sure": "metastatic",
    "unsure": "Cannot tell",
    "unfit": "Not this kind of picture",
    "failed": "No answer",
}


def test_every_kind_of_answer_is_told_in_words(seen: Facts) -> None:
    assert seen["verdicts"] == VERDICTS


def test_form_tells_the_same_without_script(seen: Facts) -> None:
    assert seen["plain"] == VERDICTS


def test_keyboard_alone_classifies_an_example_copies_the_answer_and_fades_the_map(seen: Facts) -> None:
    found = seen["keyboard"]
    assert found["copied"] == found["shown"]
    assert found["opacity"] == "0"
    assert "speaks most for metastatic" in found["map"]
    assert found["said"] == "Copied."


def test_many_dropped_pictures_are_answered_in_order_two_at_a_time(
    seen: Facts, folder: Path, pictures: dict[str, Path], shipped_server: LiveServer
) -> None:
    answers = [classify(shipped_server, pictures[name].read_bytes()) for name in ("sure", "unsure", "unfit")]
    with (folder / "many.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f'picture {number:03}, "{number}".png' for number in range(MANY)]
    for row, expected in zip(rows, islice(cycle(answers), MANY), strict=True):
        assert row["class"] == expected.get("class", "")
        assert row["score"] == str(expected.get("score", ""))
        assert row["error"] == expected.get("message", "")
        assert row["cannot_tell"] == str(expected.get("cannot_tell", "")).lower()
        assert row["fits"] == str(expected["fit"]["fits"]).lower()
    many = seen["many"]
    assert many["most"] == 2
    assert many["scores"] == sorted(many["scores"])
    assert many["drawn"]


def test_page_sends_no_name_and_keeps_small_pictures_alone(seen: Facts) -> None:
    assert not seen["many"]["sentNames"]
    assert seen["many"]["pixels"] <= MANY * 40 * 40


def test_page_holds_little_more_once_many_pictures_are_answered(seen: Facts) -> None:
    many = seen["many"]
    assert many["heap_bytes"] < HEAP_BYTES
    assert many["nodes"] < NODES * MANY
    assert many["documents"] < 10  # each answer comes as a page, of which a part is kept
    assert many["held"] == HELD


def test_others_are_served_while_many_pictures_are_answered(seen: Facts) -> None:
    other = seen["other"]
    assert list(other["statuses"]) == ["200"]
    assert other["count"] >= MANY // 4
    assert other["longest_ms"] < 5000


def test_page_of_a_model_is_light_and_moves_nothing_when_the_answer_comes(seen: Facts) -> None:
    assert seen["weight"]["bytes"] < 100_000
    assert seen["weight"]["shifts"] == {"1280": 0, "390": 0}


def test_reference_tries_a_request_out_as_the_user_of_the_page(seen: Facts) -> None:
    assert seen["reference"] == {"status": "200", "is_listed": True}
