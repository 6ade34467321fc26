"""The guides can be followed: their lines run, their answers, messages and figures are real, they read well."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.web.documents import find_guides
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer

OWN_RULES = {"decisions"}
"""Records, of which another test counts the words."""
GUIDES = {name: path for name, path in find_guides().items() if name not in OWN_RULES} | {
    "front page": PROJECT_ROOT / "README.md",
    "contributing": PROJECT_ROOT / "CONTRIBUTING.md",
}
RUN = ("first_prediction", "heat_maps", "open_inference_protocol", "manage_models", "after_the_release")
"""Guides whose every line is run, but for those that say why not."""
MEAN_WORDS, MOST_WORDS = 18, 25
REQUEST_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TOLERANCES = {"distance": 2e-3}
DRAWN = {"psi", "psi_by_chance", "changed", "n"}
"""What depends on the pictures that other tests have sent."""
OTHERWISE = 1e-4
"""Processors round differently."""


@dataclass(frozen=True)
class Step:
    """Lines of a guide, and what it shows as their answer; empty if it shows nothing."""

    lines: str
    answer: str


def read_steps(name: str) -> list[Step]:
    """The lines of a guide that are to be run, in order."""
    text = re.sub(r"^   ", "", GUIDES[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = re.findall(r"(<!-- .*? -->\n)?^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    following = [*blocks[1:], ("", "sh", "")]
    steps = []
    for (remark, language, lines), (_, next_language, answer) in zip(blocks, following, strict=True):
        if language == "sh" and not remark.startswith("<!-- not run: "):
            steps.append(Step(lines, answer if next_language in ("", "json") else ""))
    return steps


def check_answer(told: Any, given: Any, key: str = "") -> None:
    """Every part that a guide shows must be in the answer; the answer may have more keys."""
    if key in DRAWN or re.fullmatch(REQUEST_ID, str(told)):
        return
    if isinstance(told, dict):
        assert set(told) <= set(given), told
        for name in told:
            check_answer(told[name], given[name], name)
    elif isinstance(told, list):
        assert len(told) == len(given), key
        for each, other in zip(told, given, strict=True):
            check_answer(each, other, key)
    elif isinstance(told, float):
        assert told == pytest.approx(given, abs=TOLERANCES.get(key, OTHERWISE)), key
    else:
        assert told == given, key


@pytest.mark.parametrize("name", RUN)
def test_every_line_of_a_guide_answers_what_the_guide_shows(
    shipped_server: LiveServer, tmp_path: Path, name: str
) -> None:
    (tmp_path / "models").symlink_to(PROJECT_ROOT / "models")
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nnoproxy = *\n")
    steps = read_steps(name)
    assert len(steps) > 1
    for step in steps:
        lines = step.lines.replace("http://127.0.0.1:8080", shipped_server.inference)
        lines = lines.replace("http://127.0.0.1:8081", shipped_server.management)
        lines = lines.replace("demo-manager:PASSWORD", f"'{MANAGER}:{MANAGER_PASSWORD}'")
        lines = lines.replace("demo:PASSWORD", f"'{USER}:{PASSWORD}'")
        done = run_in_shell(lines, tmp_path, CURL_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        if step.answer.startswith(("{", "[")):
            check_answer(json.loads(step.answer), json.loads(done.stdout))
        elif step.answer:
            assert done.stdout.strip() == step.answer.strip(), lines
        else:
            assert '"code"' not in done.stdout, lines
    for file in re.findall(r"-o (\S+\.png)", GUIDES[name].read_text(encoding="utf-8")):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")


def run_in_shell(lines: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run lines as somebody in a terminal does, whose environment is active."""
    active = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-e", "-c", lines],
        cwd=folder,
        env={**os.environ, **active, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_guide_to_a_threshold_runs_and_prints_lines_as_it_shows(tmp_path: Path) -> None:
    examples = PROJECT_ROOT / "models/pcam-classification/1.1/examples"
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification/1.1", tmp_path / "models/pcam-classification/1.1")
    for folder in ("FOLDER", "OTHERS"):
        for name in ("normal", "metastatic"):
            (tmp_path / folder / name).mkdir(parents=True)
            for copy in "ab":
                for path in examples.glob(f"{name}*.jpg"):
                    shutil.copy(path, tmp_path / folder / name / f"{copy}-{path.name}")
    folders = {"SCANCER_MODELS": str(tmp_path / "models"), "SCANCER_INSTANCE": str(tmp_path / "instance")}
    folders |= {"PYTHONPATH": str(PROJECT_ROOT), "FLASK_APP": "wsgi"}
    shown = [step.answer for step in read_steps("choose_a_threshold") if "answers metastatic" in step.answer]
    assert len(shown) == 1
    for step in read_steps("choose_a_threshold"):
        done = run_in_shell(step.lines, tmp_path, **folders)
        assert done.returncode == 0, done.stderr
        if "set-threshold" in step.lines:
            assert mask(done.stdout) == mask(shown[0])
        elif step.answer:
            assert done.stdout == step.answer
    manifest = tomllib.loads((tmp_path / "models/pcam-classification/1.2/model.toml").read_text())
    assert (manifest["version"], manifest["output"]["threshold"]) == ("1.2", 0.844071)


def mask(text: str) -> str:
    return re.sub(r"\d[\d.]*", "N", text.replace("classification/1.2", "")).strip()


def read_table(guide: str, name: str) -> list[list[str]]:
    """The cells of a named table, without its head."""
    found = re.search(rf"<!-- table: {name} -->\n((?:\|.*\n)+)", GUIDES[guide].read_text(encoding="utf-8"))
    assert found is not None
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in found[1].splitlines()]
    return rows[2:]


def test_users_are_shown_as_the_quick_start_prints_them() -> None:
    found = re.search(r"^ *(User: .*\n) *(Password: .*\n)", GUIDES["first_prediction"].read_text("utf-8"), re.MULTILINE)
    assert found is not None
    shown = re.sub(r"[0-9a-f]{24}", "$password", found[1] + found[2]).replace("demo", "$user")
    assert shown in (PROJECT_ROOT / "get_started/quick_start.sh").read_text(encoding="utf-8")


def test_table_of_thresholds_is_that_of_the_report() -> None:
    report = json.loads((PROJECT_ROOT / "models/pcam-classification/1.1/report.json").read_text())
    expected = {each["rule"]: each for each in report["classes"][0].get("operating", report["operating"])}
    for rule, threshold, sensitivity, specificity, right in read_table("choose_a_threshold", "thresholds"):
        point = expected[rule]
        (rare,) = [each["value"] for each in point["expected"] if each["prevalence"] == 0.1]
        assert f"{point['threshold']:.3f}" == threshold
        assert f"{point['sensitivity']['value']:.3f}" == sensitivity
        assert f"{point['specificity']['value']:.3f}" == specificity
        assert str(round(100 * rare)) == right


@pytest.mark.parametrize("positives", [50, 10])
def test_a_hundred_pictures_are_counted_by_the_models_own_figures(positives: int) -> None:
    metrics = tomllib.loads((PROJECT_ROOT / "models/pcam-classification/1.1/model.toml").read_text())["metrics"]
    found = round(positives * metrics["sensitivity"]["value"])
    right = round((100 - positives) * metrics["specificity"]["value"])
    alarms = 100 - positives - right
    rows = read_table("what_the_numbers_mean", str(positives))
    counts = [[int(re.sub(r"\D", "", cell)) for cell in row[1:]] for row in rows]
    assert counts[0] == [found, positives - found, positives]
    assert counts[1] == [alarms, right, 100 - positives]
    assert counts[2] == [found + alarms, 100 - found - alarms, 100]
    share = round(100 * found / (found + alarms))
    said = f"Of the {found + alarms} that are called `metastatic`, {found} truly are: {share} of 100."
    assert said in " ".join(GUIDES["what_the_numbers_mean"].read_text(encoding="utf-8").split())


def test_every_field_of_an_answer_is_explained() -> None:
    found = re.search(r"<!-- answer: pcam -->\n *```json\n(.*?)```", GUIDES["first_prediction"].read_text(), re.DOTALL)
    assert found is not None
    guide = GUIDES["what_the_numbers_mean"].read_text(encoding="utf-8")
    explained = {
        name for line in re.findall(r"^\| (`.*?) \|", guide, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }
    assert set(json.loads(found[1])) <= explained


def test_index_leads_to_every_guide_and_the_pages_list_them_in_its_order() -> None:
    index = GUIDES["README"]
    links = [(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)", index.read_text("utf-8"))]
    listed = [path for path in find_guides().values() if path != index]
    assert next(iter(find_guides().values())) == index
    assert listed == [path for path in dict.fromkeys(links) if path in listed]


def list_sentences(text: str) -> list[str]:
    """The sentences of a document, outside of code, tables and headings."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    lines = ["" if re.match(r" *[|#!]", line) else line for line in text.splitlines()]
    text = re.sub(r"^ *(?:[-*]|\d+\.) ", "\n\n", "\n".join(lines), flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    sentences = []
    for paragraph in re.split(r"\n\s*\n", text):
        sentences += re.split(r"(?<=[.!?])[*_)]*\s+(?=[^a-z])", " ".join(paragraph.split()))
    return [sentence for sentence in sentences if sentence]


def count_words(sentence: str) -> int:
    """Words of a sentence; a piece of code is one."""
    return len(re.sub(r"`[^`]*`", "code", sentence).split())


def count_most_words(sentence: str) -> int:
    """Words of the longest part of a sentence between colons and semicolons."""
    return max(map(count_words, re.split(r"[;:] ", sentence)))


@pytest.mark.parametrize("name", GUIDES)
def test_sentences_are_short(name: str) -> None:
    sentences = list_sentences(GUIDES[name].read_text(encoding="utf-8"))
    counts = [count_words(sentence) for sentence in sentences]
    assert sum(counts) / len(counts) < MEAN_WORDS
    assert [each for each in sentences if count_most_words(each) > MOST_WORDS] == []


def test_sentences_are_counted() -> None:
    text = (
        "# A b\n\nOne two. Three [four](x.md) `five six`:\n\n```sh\na b c\n```\n\n| a b |\n\n1. Six seven.\n   Eight.\n"
    )
    assert [count_words(each) for each in list_sentences(text)] == [2, 3, 2, 1]
    assert count_most_words("One two: three four five; six.") == 3


BEGINNINGS = {
    *("first_prediction", "what_the_numbers_mean", "choose_a_threshold", "folder_to_table", "heat_maps"),
    *("add_a_model", "add_a_keras_model", "add_a_pytorch_model", "add_an_onnx_model", "add_an_archive"),
    *("manage_models", "open_inference_protocol", "tls", "evaluate", "int8", "from_torchserve"),
    *("calibrate_and_fit", "after_the_release", "tracing"),
}


@pytest.mark.parametrize("name", sorted(BEGINNINGS))
def test_guide_begins_with_what_you_have_and_ends_with_what_goes_wrong(name: str) -> None:
    text = GUIDES[name].read_text(encoding="utf-8")
    beginning = " ".join(text.split("\n\n", 2)[1].split())
    assert beginning.startswith("You have ")
    assert " want" in beginning
    assert "Research use only. Not for diagnosis." in beginning
    assert "\n## What goes wrong\n" in text


FOREIGN = {
    "Could not locate a Flask application": "flask",
    "No such command 'models'": "flask",
    "No such command 'classify'": "flask",
    "command not found": "the shell",
    "flask: command not found": "the shell",
    "no matches found": "zsh",
    "Failed to connect": "curl",
    "wrong version number": "curl",
    "self-signed certificate": "curl",
    "Failed to open/read local data": "curl",
    "Can't open": "curl",
    "No such file or directory": "the shell",
    "torchvision::nms does not exist": "torchvision",
    "unauthorized": "tritonclient",
    "Failed to export spans batch": "OpenTelemetry",
    "Queue full, dropping Span.": "OpenTelemetry",
}
"""Messages of other programs."""
PAGES = [PROJECT_ROOT / "app/web/templates", PROJECT_ROOT / "app/web/static"]
SCRIPTS = [PROJECT_ROOT / "get_started/quick_start.sh", PROJECT_ROOT / "deploy/systemd/install.sh"]


@cache
def read_messages() -> list[str]:
    """All texts of the code; where a text takes in a value stands a mark."""
    texts = []
    for path in (PROJECT_ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(each.value if isinstance(each, ast.Constant) else "\0" for each in node.values))
    files = [path for folder in PAGES for path in folder.iterdir() if path.suffix in (".js", ".html")] + SCRIPTS
    return texts + [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def is_written(message: str) -> bool:
    """Whether one text of the code has all pieces of a message in order; `…` stands for what differs."""
    pieces = [re.escape(piece.strip(" :=/")) for piece in message.split("…")]
    pattern = re.compile(".*".join(pieces), re.DOTALL)
    return any(pattern.search(text) for text in read_messages())


def list_quoted_messages(name: str) -> list[str]:
    """What a guide quotes in the first columns of its tables of what goes wrong."""
    text = GUIDES[name].read_text(encoding="utf-8")
    parts = (
        [text] if name == "troubleshooting" else re.findall(r"^## What goes wrong\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    )
    quoted = []
    for line in re.findall(
        r"^\| (?!---|you see|message|status|you think|`message`)(.*)", "\n".join(parts), re.MULTILINE
    ):
        cells = line.split(" | ")
        first = cells[1] if cells[0].isdigit() else cells[0]
        quoted += re.findall(r"`([^`]*)`", first)
    return quoted


@pytest.mark.parametrize("name", sorted(BEGINNINGS - {"what_the_numbers_mean"} | {"troubleshooting"}))
def test_quoted_messages_stand_in_the_code(name: str) -> None:
    quoted = list_quoted_messages(name)
    assert quoted
    assert [message for message in quoted if message not in FOREIGN and not is_written(message)] == []


def test_message_that_the_code_does_not_have_is_found() -> None:
    assert is_written("Model not found: …")
    assert is_written("The request holds …; at most … are taken")
    assert not is_written("The request holds …; at least … are taken")
    assert not is_written("Model was not found: …")


def test_glossary_is_in_order_and_says_each_term_in_two_sentences() -> None:
    sections = re.findall(
        r"^\| term \| meaning \|\n\|.*\n((?:\|.*\n?)+)", GUIDES["glossary"].read_text("utf-8"), re.MULTILINE
    )
    assert len(sections) == 4
    for section in sections:
        rows = [line.strip("| ").split(" | ") for line in section.splitlines()]
        terms = [term.replace("`", "").casefold() for term, _ in rows]
        assert terms == sorted(set(terms))
        assert [term for term, meaning in rows if len(re.findall(r"[.:!?] ", meaning)) > 2] == []


def test_statuses_of_troubleshooting_are_those_of_the_errors() -> None:
    from app import errors

    known = {
        int(each.status)
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.AnsweredError)
    }
    told = {int(each) for each in re.findall(r"^\| (\d{3}) \|", GUIDES["troubleshooting"].read_text(), re.MULTILINE)}
    assert told == known
