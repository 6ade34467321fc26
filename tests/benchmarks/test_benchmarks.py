"""Each benchmark runs to its end within seconds and prints what it is there for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from benchmarks.first_answer import CHROMIUM
from tests.conftest import DATA
from tests.handlers.archives import make_tiny

pytestmark = [pytest.mark.slow, pytest.mark.long]
MODELS = PROJECT_ROOT / "models"
EXAMPLE = MODELS / "pcam-classification/1.1/examples/normal.jpg"
NOT_COMMANDS = {
    *("capacity_document", "capacity_figures", "capacity_model", "open_loop", "simulation"),  # capacity runs them
    *("callers", "icc_profiles", "scale", "server"),
}
WHAT_IS_PRINTED = {
    "auc_over_http": "isic-classification: AUC ",
    "colour_profiles": "Display P3 converted: AUC ",
    "costly_requests": "| JSON of empty objects | {",
    "first_answer": "from clone to heat map: ",
    "floods": "| guesses | ",
    "folder_table": " with its start, ",
    "footprint": "resident memory of a worker after predictions: ",
    "load": "8 connections for 1 s: ",
    "explanations": "isic-classification: a heat map takes ",
    "lone_request": "pcam-classification: bare compiled model, ",
    "many_models": "one of them in use: ready after ",
    "overhead": "8 connections: ",
    "soak": "answers by status: {200: ",
    "two_servers": "/s: {'right': ",
    "stages": "| isic-classification | 6000x4000 JPEG | ",
}


def run(module: str, *arguments: str) -> str:
    """Run a benchmark and return what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_browser() -> bool:
    """Whether a benchmark can drive a browser."""
    playwright = PROJECT_ROOT / "node_modules/playwright-core"
    return CHROMIUM is not None and shutil.which("node") is not None and playwright.is_dir()


def test_every_benchmark_is_in_this_file() -> None:
    there = {path.stem for path in (PROJECT_ROOT / "benchmarks").glob("[!_]*.py")}
    assert there - NOT_COMMANDS == {*WHAT_IS_PRINTED, "archive_roads", "bare", "capacity", "random_model", "reload"}


@pytest.mark.parametrize("module", WHAT_IS_PRINTED)
def test_benchmark_runs_to_its_end(module: str) -> None:
    arguments = {
        "auc_over_http": ["--data", str(DATA)],
        "colour_profiles": ["--data", str(DATA)],
        "folder_table": ["pcam-classification", str(EXAMPLE.parent)],
        "lone_request": [str(MODELS), "pcam-classification", str(EXAMPLE)],
    }
    for program in {"load": ["wrk"], "two_servers": ["nginx", "redis-server"]}.get(module, []):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{program} is not installed: see benchmarks/README.md")
    if module == "first_answer" and not ((PROJECT_ROOT / ".git").exists() and has_browser()):
        pytest.skip("there is no clone, or no Chromium, node and playwright-core: see benchmarks/README.md")
    if module in ("auc_over_http", "colour_profiles") and not DATA.is_dir():
        pytest.skip("the real pictures are not here")
    assert WHAT_IS_PRINTED[module] in run(f"benchmarks.{module}", "--quick", *arguments.get(module, []))


def test_bare_model_prints_the_milliseconds_of_an_inference_with_and_without_decoding() -> None:
    for picture in ([], [str(EXAMPLE)]):
        assert 0 < float(run("benchmarks.bare", "pcam-classification", "3", *picture)) < 1000


def test_reloads_lose_and_mistake_no_answer() -> None:
    reloads, kills = run("benchmarks.reload", "--quick").splitlines()
    assert "workers killed in " in kills
    assert "'right': " in reloads
    assert not {"lost", "wrong", "status"} & set(reloads.replace("'", " ").split())


def test_archive_is_measured_on_both_roads(tmp_path: Path) -> None:
    make_tiny(tmp_path / "models", "tiny")
    printed = run("benchmarks.archive_roads", str(tmp_path / "models"), "tiny", str(EXAMPLE), "--quick")
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["tiny, compiled", "tiny, handler"]


def test_model_of_random_weights_is_written_and_compiles(tmp_path: Path) -> None:
    name = "random-weights"
    assert run("benchmarks.random_model", str(tmp_path), name, "resnet18", "64", "3") == f"{tmp_path / name / '1.0'}\n"
    command = [sys.executable, "-m", "flask", "models", "compile", name]
    settings = {"SCANCER_MODELS": str(tmp_path), "SCANCER_INSTANCE": str(tmp_path / "instance")}
    subprocess.run(command, cwd=PROJECT_ROOT, env={**os.environ, **settings}, check=True, capture_output=True)
    assert (tmp_path / name / "1.0/compiled/model.xml").is_file()


def test_document_of_capacity_is_written_from_figures_measured_now_or_kept(tmp_path: Path) -> None:
    pytest.importorskip("simpy", reason="simpy is not installed: pip install -r benchmarks/requirements.txt")
    document, figures = tmp_path / "capacity.md", tmp_path / "figures.json"
    arguments = ["--quick", "--p99-ms", "60000", "--document", str(document), "--figures", str(figures)]
    run("benchmarks.capacity", *arguments)
    heads = [line for line in document.read_text().splitlines() if line.startswith("#")]
    committed = (PROJECT_ROOT / "benchmarks/capacity.md").read_text().splitlines()
    assert heads == [line for line in committed if line.startswith("#")]
    measured = document.read_text()
    document.unlink()
    run("benchmarks.capacity", *arguments)
    assert document.read_text() == measured
