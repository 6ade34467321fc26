"""The documents tell the truth: the README's answers, links, maps and tables are compared with what is there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from app.cli.classifying.answer_table import COLUMNS
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from tests.conftest import PASSWORD, USER, LiveServer
from tests.handlers.archives import make_archive

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST_WORDS_OF_THE_README = 600
DOCUMENTS = [
    path
    for path in sorted(PROJECT_ROOT.rglob("*.md"))
    if not {"node_modules", ".venv", ".venv-check", ".pytest_cache"} & set(path.relative_to(PROJECT_ROOT).parts)
]


def read_document(file: str) -> str:
    """A document; the blocks of its numbered steps stand at the left."""
    return re.sub(r"^   ", "", (PROJECT_ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)


FIRST_PREDICTION = read_document("get_started/first_prediction.md")


def read_answer(document: str, name: str) -> dict[str, Any]:
    """The answer that a document shows under a name."""
    found = re.search(rf"<!-- answer: {name} -->\n```json\n(.*?)\n```", document, re.DOTALL)
    assert found is not None
    answer: dict[str, Any] = json.loads(found[1])
    return answer


def ask(server: LiveServer, document: str, name: str) -> dict[str, Any]:
    """The server's answer to the first curl line of a document that asks a model."""
    found = re.search(rf"^curl --user demo:PASSWORD \S*/predictions/{name}-classification .*$", document, re.MULTILINE)
    assert found is not None
    line = shlex.split(found[0])
    url, file = line[3].replace("http://127.0.0.1:8080", server.inference), line[5]
    body = (PROJECT_ROOT / file).read_bytes()
    answer: dict[str, Any] = requests.put(url, data=body, auth=(USER, PASSWORD), timeout=30).json()
    return answer


@pytest.mark.parametrize("name", ["pcam", "isic"])
def test_answer_in_the_guide_is_the_servers(shipped_server: LiveServer, name: str) -> None:
    told, given = read_answer(FIRST_PREDICTION, name), ask(shipped_server, FIRST_PREDICTION, name)
    assert list(told) == list(given)
    # Processors round differently: the last digits may move from one machine to the next.
    for key in ("confidence", "score", "probabilities"):
        assert told.pop(key) == pytest.approx(given.pop(key), abs=1e-4), key
    assert told["fit"].pop("distance") == pytest.approx(given["fit"].pop("distance"), abs=2e-3)
    for key in set(told) - {"request_id"}:
        assert told[key] == given[key], key


def test_answer_in_the_readme_is_the_servers_and_shortened_alone(shipped_server: LiveServer) -> None:
    told, given = read_answer(README, "short"), ask(shipped_server, README, "pcam")
    assert list(told) == [key for key in given if key in told]
    assert told.pop("score") == pytest.approx(given["score"], abs=1e-4)
    assert told["fit"].pop("distance") == pytest.approx(given["fit"].pop("distance"), abs=2e-3)
    assert told == {key: given[key] for key in told}


def test_readme_says_what_an_answer_means() -> None:
    text = " ".join(README.split())
    for sentence in (
        "`score` is the probability of the positive class; `class` is that class if the score reaches the `threshold`.",
        "`cannot_tell` is true when the model cannot rule out the other class, or rules out both: then ask a person.",
        "`fit` says whether the picture is of the kind that the model knows; one that is not is refused with the "
        "reasons.",
    ):
        assert sentence in text


def test_readme_is_short_and_shows_the_page() -> None:
    assert len(README.split()) < MOST_WORDS_OF_THE_README
    picture = re.search(r"^!\[.+\]\((.+\.png)\)$", README, re.MULTILINE)
    assert picture is not None
    with Image.open(PROJECT_ROOT / picture[1]) as image:
        assert (image.format, image.width) == ("PNG", 1280)
    assert (PROJECT_ROOT / picture[1]).stat().st_size < 200_000


def test_readme_names_the_two_commands() -> None:
    assert "bash get_started/quick_start.sh" in README
    assert "sh tests/check.sh" in README
    assert README.count("Research use only. Not for diagnosis.") >= 1


def test_readme_maps_every_folder_and_no_other() -> None:
    tree = re.search(r"## Where things stand\n\n```\n(.*?)```", README, re.DOTALL)
    assert tree is not None
    named = set(re.findall(r"^(\w+)/", tree[1], re.MULTILINE))
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line}
    assert named == {folder for folder in folders if not folder.startswith(".")}


def test_map_of_the_service_names_every_room_and_no_other() -> None:
    tree = re.search(r"## How the house is laid\n\n```\n(.*?)```", CONTRIBUTING, re.DOTALL)
    assert tree is not None
    named = [room for line in re.findall(r"^  \w.*$", tree[1], re.MULTILINE) for room in re.findall(r"(\w+)/ ", line)]
    assert sorted(named) == sorted(path.parent.name for path in (PROJECT_ROOT / "app").glob("*/__init__.py"))


def test_tritonclient_example_of_the_guide_answers_as_the_first_prediction_does(shipped_server: LiveServer) -> None:
    guide = read_document("get_started/open_inference_protocol.md")
    found = re.search(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    assert found is not None
    program = found[1].replace("127.0.0.1:8080", shipped_server.inference.removeprefix("http://"))
    program = program.replace('"demo", "PASSWORD"', f'"{USER}", "{PASSWORD}"')
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = read_answer(FIRST_PREDICTION, "pcam")
    label, *numbers = done.stdout.replace("[", "").replace("]", "").split()
    assert label == told["class"]
    assert [float(number) for number in numbers] == pytest.approx(list(told["probabilities"].values()), abs=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", document.read_text(encoding="utf-8")):
        target = document.parent / link if link else document
        assert target.exists(), link
        if anchor:
            assert anchor in list_anchors(target), f"{link}#{anchor}"


def list_anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


GONE = {"CHANGELOG.md"}
"""Documents that also name settings that are no more."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_settings_named_in_documents_exist(document: Path) -> None:
    named = set(re.findall(r"SCANCER_[A-Z0-9_]*[A-Z0-9]", document.read_text(encoding="utf-8")))
    if document.name not in GONE:
        assert named <= {f"SCANCER_{field.upper()}" for field in Settings.__dataclass_fields__}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_paths_of_the_code_exist(document: Path) -> None:
    named = re.findall(r"(?<![\w/.])(?:app|tests|benchmarks|deploy)/[\w./-]*\w", document.read_text("utf-8"))
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    files = {Path(line) for line in tracked.splitlines()}
    known = files.union(*(path.parents for path in files))
    assert {path for path in named if Path(path) not in known} == set()


DECISIONS = (PROJECT_ROOT / "get_started/decisions.md").read_text(encoding="utf-8")
RECORDS = re.findall(r"^## .*?(?=^#{1,2} |\Z)", DECISIONS, re.MULTILINE | re.DOTALL)


def test_each_record_of_a_decision_has_under_100_words() -> None:
    assert len(RECORDS) > 50
    assert {record.splitlines()[0]: len(record.split()) for record in RECORDS if len(record.split()) >= 100} == {}


def test_each_record_of_a_decision_says_context_and_decision_first() -> None:
    order = "- Context.*- Decision.*(- Consequence.*)?(- Measured.*)?"
    assert [record for record in RECORDS if not re.fullmatch(f"## .*\n{order}", record, re.DOTALL)] == []
    parts = {line.split(":")[0].split(" (")[0] for line in DECISIONS.splitlines() if line.startswith("- ")}
    assert parts == {"- Context", "- Decision", "- Consequence", "- Measured"}


@pytest.mark.parametrize("name", ["pcam", "isic"])
def test_figures_in_the_readme_and_the_guide_are_those_of_the_manifests(name: str) -> None:
    manifest = tomllib.loads((PROJECT_ROOT / f"models/{name}-classification/1.1/model.toml").read_text())
    guide = read_document("get_started/what_the_numbers_mean.md")
    for key, metric in manifest["metrics"].items():
        figure = f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
        assert figure in find_row(guide, f"`{name}-classification` 1.1"), key
    auc = manifest["metrics"]["auc"]
    told = find_row(README, f"[{name}-classification]")
    assert f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})" in told
    assert manifest["licence"] in told


def find_row(document: str, start: str) -> str:
    """The row of a table that begins with a text."""
    (row,) = [line for line in document.splitlines() if line.startswith(f"| {start}")]
    return row


@pytest.mark.slow
@pytest.mark.parametrize(
    "framework, page, file, artifact",
    [
        ("keras", "add_a_keras_model.md", "lesions.toml", "isic-classification/1.0/model.keras"),
        ("torch", "add_a_pytorch_model.md", "patches.toml", "pcam-classification/1.0/model.safetensors"),
        ("onnx", "add_an_onnx_model.md", "nodules.toml", ""),
    ],
)
def test_guide_to_adding_a_model_ends_in_ok(
    tmp_path: Path, framework: str, page: str, file: str, artifact: str
) -> None:
    guide = read_document(f"get_started/{page}")
    manifest = re.search(rf"<!-- file: {file} -->\n```toml\n(.*?)```", guide, re.DOTALL)
    assert manifest is not None
    text = manifest[1]
    assert len(text.splitlines()) < 20
    (tmp_path / file).write_text(text)
    if artifact:
        source = PROJECT_ROOT / "models" / artifact
    else:
        from tests.engines.programs import write_onnx  # imports PyTorch

        source = write_onnx(tmp_path)
    shutil.copy(source, tmp_path / tomllib.loads(text)["artifact"]["file"])
    run_guide(framework, guide, tmp_path)


@pytest.mark.slow
def test_guide_to_a_table_writes_what_it_shows(tmp_path: Path) -> None:
    guide = (PROJECT_ROOT / "get_started/folder_to_table.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- run: table -->\n +```sh\n +flask (.*?)\n", guide)
    assert command is not None
    shown = {}
    for name in ("summary", "table"):
        found = re.search(rf"<!-- answer: {name} -->\n +```\n(.*?)\n +```", guide, re.DOTALL)
        assert found is not None
        shown[name] = textwrap.dedent(found[1]).splitlines()
    arguments = shlex.split(command[1].replace("table.csv", str(tmp_path / "table.csv")))
    environment = {**os.environ, "SCANCER_INSTANCE": str(tmp_path / "instance")}
    done = subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()[-3:]) == (0, shown["summary"])
    lines = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    for told, line in zip(shown["table"], lines, strict=False):
        cells = told.split(",")
        given = line.split(",")[: len(cells)]
        if cells[0] != "name":
            assert float(given.pop(1)) == pytest.approx(float(cells.pop(1)), abs=1e-4)
        assert given == cells


def test_guide_to_a_table_names_every_column_in_order() -> None:
    guide = (PROJECT_ROOT / "get_started/folder_to_table.md").read_text(encoding="utf-8")
    columns = guide.partition("## The columns")[2].partition("\n## ")[0]
    named = [
        name for cell in re.findall(r"^\| (`.*?) \|", columns, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]
    assert named == list(COLUMNS)


@pytest.mark.slow
def test_guide_to_adding_an_archive_ends_in_ok(tmp_path: Path) -> None:
    handler = {"scans.py": "def handle(data, context):\n    return ['normal'] * len(data)\n"}
    make_archive(tmp_path / "unpacked", "scans", "scans.py", handler)
    shutil.copy(tmp_path / "source-scans/scans.mar", tmp_path)
    run_guide("mar", read_document("get_started/add_an_archive.md"), tmp_path)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["scans"]


def run_guide(name: str, guide: str, folder: Path) -> None:
    """Run a command of a guide as it is written, and see that it prints what the guide says."""
    pattern = r"\n```sh\n((?:SCANCER_PROGRAMS=all )?)flask (.*?)\n```\n\nIt prints `(.*?)`"
    command = re.search(f"<!-- run: {name} -->{pattern}", guide)
    assert command is not None
    (folder / "models").mkdir()
    folders = {"SCANCER_MODELS": str(folder / "models"), "SCANCER_INSTANCE": str(folder / "instance")}
    environment = {**os.environ, **folders, "PYTHONPATH": str(PROJECT_ROOT), "FLASK_APP": "wsgi"}
    environment |= {"SCANCER_PROGRAMS": "all"} if command[1] else {}
    arguments = [sys.executable, "-m", "flask", *shlex.split(command[2])]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (command[3], 0), done.stderr
