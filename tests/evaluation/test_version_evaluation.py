"""Evaluations: the figures of a version on labelled pictures, and the choice between versions by their reports."""

import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from openvino import opset13 as ops
from PIL import Image

from app import create_app
from app.api.request.services import EXTENSION, Services
from app.cli.progress import show_progress
from app.config.settings import Settings
from app.evaluation.estimates import compare_aucs, estimate_auc, estimate_share, measure_auc
from tests.conftest import within
from tests.evaluation.tiny_model import MANIFEST, SIDE_PX, write_pictures, write_tiny_model
from training.evaluation import estimate_auc as bootstrap_auc

NAME = "tiny-brightness"
Run = Callable[..., Result]


def make_short_sighted_network(outputs: int = 2) -> openvino.Model:
    """Sees one pixel alone, so it is wrong more often than the one that sees the whole picture."""
    pixels = ops.parameter([-1, SIDE_PX, SIDE_PX, 3], np.uint8, name="pixels")
    corner = ops.slice(ops.convert(pixels, np.float32), [0, 0], [1, 1], [1, 1], [1, 2])
    level = ops.reduce_mean(corner, np.array([1, 2, 3]), keep_dims=False)
    slopes = np.linspace(0, 0.2, outputs, dtype=np.float32)[np.newaxis]
    scores = ops.matmul(ops.reshape(level, np.array([-1, 1]), False), slopes, False, False)
    return openvino.Model([ops.result(ops.add(scores, -100 * slopes))], [pixels], "tiny")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model of two versions, of which the older is the better."""
    write_tiny_model(tmp_path / "models")
    write_tiny_model(tmp_path / "models", "2.0", make_short_sighted_network())
    return tmp_path / "models"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """40 pictures of each class that even the better model does not tell apart without fault."""
    return write_pictures(tmp_path / "pictures", 40, 98.5, 100.5, noise=15)


def make_app(tmp_path: Path) -> Flask:
    app = create_app(Settings(models=tmp_path / "models", instance=tmp_path / "instance"))
    services: Services = app.extensions[EXTENSION]
    services.follower.close()  # a command follows nothing
    return app


@pytest.fixture
def run(models: Path, tmp_path: Path) -> Run:
    """Runs `flask models …`."""
    app = make_app(tmp_path)
    return lambda *arguments: app.test_cli_runner().invoke(args=["models", *map(str, arguments)])


def read_report(tmp_path: Path, version: str) -> dict[str, object]:
    path = tmp_path / f"instance/evaluations/{NAME}/{version}.json"
    document: dict[str, object] = json.loads(path.read_text())
    return document


def test_evaluation_measures_every_version_and_says_which_leads(run: Run, pictures: Path, tmp_path: Path) -> None:
    done = run("evaluate", NAME, "--data", pictures)
    assert done.exit_code == 0, done.stderr
    header, first, second, lead, place = done.stdout.splitlines()
    assert header.split() == ["version", "auc", "sensitivity", "specificity", "pictures"]
    figure = r"0\.\d{3} \(0\.\d{3} to [01]\.\d{3}\)"
    for version, row in (("1.0", first), ("2.0", second)):
        assert re.fullmatch(rf"{version} +({figure} +){{3}}40 dark, 40 bright; data [0-9a-f]{{12}}", row)
    assert re.fullmatch(
        r"1\.0 is ahead of 2\.0 by 0\.\d{4} of AUC \(95 %: 0\.\d{4} to 0\.\d{4}; p = [0-9.e-]+\), which can "
        "be told from chance",
        lead,
    )
    assert place == f"reports: {tmp_path}/instance/evaluations/{NAME}"
    assert done.stderr.count(f"{NAME}/1.0: ") == done.stderr.count(f"{NAME}/2.0: ") == 10
    assert f"{NAME}/1.0: 80 of 80 pictures, " in done.stderr


def test_report_holds_what_the_service_answers(run: Run, pictures: Path, tmp_path: Path) -> None:
    assert run("evaluate", f"{NAME}/1.0", "--data", pictures).exit_code == 0
    report = read_report(tmp_path, "1.0")
    client = make_client(tmp_path)
    positive, decided, labels = [], [], []
    for label in (0, 1):
        for path in sorted((pictures / str(label)).iterdir()):
            answer = client.put(f"/predictions/{NAME}", data=path.read_bytes()).get_json()
            positive.append(answer["probabilities"]["bright"])
            decided.append(answer["class"] == "bright")
            labels.append(label == 1)
    scores, is_bright, called = np.array(positive), np.array(labels), np.array(decided)
    metrics = report["metrics"]
    assert metrics["auc"]["value"] == pytest.approx(measure_auc(scores, is_bright)[0], abs=2e-3)  # answers are rounded
    assert (metrics["sensitivity"]["value"], metrics["specificity"]["value"]) == (
        called[is_bright].mean(),
        (~called[~is_bright]).mean(),
    )
    assert [metrics[name]["n"] for name in ("auc", "sensitivity", "specificity")] == [80, 40, 40]
    assert sorted(row[1] for row in report["probabilities"]) == pytest.approx(sorted(scores), abs=1e-6)
    assert (report["threshold"], report["precision"], report["unreadable"]) == (0.5, "float32", 0)
    assert not list((tmp_path / "instance/evaluations" / NAME).glob("tmp*"))


def make_client(tmp_path: Path) -> FlaskClient:
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "serving", auth="off")
    app = create_app(settings)
    services: Services = app.extensions[EXTENSION]
    services.changes.set_default(NAME, "1.0")
    assert within(5, lambda: services.registry.get(NAME).wanted.version == "1.0")
    return app.test_client()


def test_same_pictures_by_other_names_have_the_same_fingerprint(run: Run, pictures: Path, tmp_path: Path) -> None:
    run("evaluate", NAME, "--data", pictures)
    first = read_report(tmp_path, "1.0")
    for index, path in enumerate(sorted((pictures / "0").iterdir(), reverse=True)):
        path.rename(path.with_name(f"other-{index:03}"))
    for old, new in (("0", "dark"), ("1", "bright")):
        (pictures / old).rename(pictures / new)
    run("evaluate", NAME, "--data", pictures)
    second = read_report(tmp_path, "1.0")
    assert first | {"date": ""} == second | {"date": ""}
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    shutil.copytree(pictures / "dark", swapped / "bright")
    shutil.copytree(pictures / "bright", swapped / "dark")
    run("evaluate", NAME, "--data", swapped)
    third = read_report(tmp_path, "1.0")
    assert third["data_sha256"] != first["data_sha256"]
    assert third["metrics"]["auc"]["value"] == pytest.approx(1 - first["metrics"]["auc"]["value"])


def test_unreadable_pictures_are_named_on_the_terminal_and_counted_in_the_report(
    run: Run, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pictures / "0/secret-name.png").write_bytes(b"no picture")
    (pictures / "1/torn.png").write_bytes((pictures / "1/000.png").read_bytes()[:40])
    done = run("evaluate", f"{NAME}/1.0", "--data", pictures)
    assert done.exit_code == 0
    assert "not counted: 0/secret-name.png: " in done.stderr
    assert "not counted: 1/torn.png: " in done.stderr
    report = read_report(tmp_path, "1.0")
    assert (report["unreadable"], report["pictures"]) == (2, {"dark": 40, "bright": 40})
    assert "secret-name" not in json.dumps(report) + caplog.text
    (pictures / "0/secret-name.png").unlink()
    run("evaluate", f"{NAME}/2.0", "--data", pictures)
    assert read_report(tmp_path, "2.0")["data_sha256"] == report["data_sha256"]


def test_class_of_which_nothing_can_be_read_has_no_figures(run: Run, pictures: Path, tmp_path: Path) -> None:
    for path in sorted((pictures / "0").iterdir())[1:]:
        path.write_bytes(b"no picture")
    done = run("evaluate", NAME, "--data", pictures)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"FAILED {NAME}/2.0: only 1 of the pictures of dark can be read: too few\n" in done.stderr
    assert not (tmp_path / "instance/evaluations").exists()


def test_version_that_cannot_be_served_fails_alone(run: Run, models: Path, pictures: Path) -> None:
    (models / NAME / "2.0/model.safetensors").write_bytes(b"other weights")
    done = run("evaluate", NAME, "--data", pictures)
    assert done.exit_code == 1
    assert f"FAILED {NAME}/2.0: model.safetensors is not the file that the manifest's sha256 names" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["version", "1.0", "reports:"]


def test_archive_with_a_program_of_its_own_is_not_measured(run: Run, models: Path, pictures: Path) -> None:
    (models / NAME / "2.0/MAR-INF").mkdir()
    (models / NAME / "2.0/MAR-INF/MANIFEST.json").write_text("{}")
    done = run("evaluate", f"{NAME}/2.0", "--data", pictures)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"FAILED {NAME}/2.0: a model archive cannot be measured, for its answers need not be classes" in done.stderr


def test_model_of_three_classes_has_accuracy_and_the_mean_auc(run: Run, models: Path, tmp_path: Path) -> None:
    binary = 'classes = ["dark", "bright"]', 'positive_class = "bright"\nthreshold = 0.5\nthreshold_source = "a test"\n'
    three = MANIFEST.replace(binary[0], 'classes = ["dark", "grey", "bright"]').replace(binary[1], "")
    write_tiny_model(models, "3.0", make_short_sighted_network(3), three)
    folder = write_pictures(tmp_path / "three", 20, 60, 150, ("dark", "bright"), noise=20)
    grey = write_pictures(tmp_path / "grey", 20, 100, 100, ("grey", "left out"), noise=20)
    (grey / "grey").rename(folder / "grey")
    done = run("evaluate", f"{NAME}/3.0", "--data", folder)
    assert done.exit_code == 0, done.stderr
    report = read_report(tmp_path, "3.0")
    probabilities, labels = np.array(report["probabilities"]), np.array(report["labels"])
    each = [measure_auc(probabilities[:, index], labels == index)[0] for index in range(3)]
    assert report["metrics"]["auc"]["value"] == pytest.approx(np.mean(each))
    assert report["metrics"]["accuracy"]["value"] == (probabilities.argmax(axis=1) == labels).mean()
    assert set(report["metrics"]) == {"auc", "accuracy"}


def test_best_becomes_the_default_and_is_said_to_lead_by_how_much(run: Run, pictures: Path) -> None:
    run("evaluate", NAME, "--data", pictures)
    done = run("set-default", NAME, "--best")
    assert done.exit_code == 0, done.stderr
    figures, lead, last = done.stdout.splitlines()
    assert re.fullmatch(rf"{NAME}/1\.0: AUC 0\.\d+ \(.*\); 40 dark, 40 bright; data [0-9a-f]{{12}}", figures)
    assert lead.startswith("1.0 is ahead of 2.0 by 0.")
    assert last == f"the default of {NAME} is 1.0"


def test_lead_that_may_be_chance_is_called_so(run: Run, models: Path, pictures: Path) -> None:
    shutil.rmtree(models / NAME / "2.0")
    write_tiny_model(models, "2.0")
    run("evaluate", NAME, "--data", pictures)
    done = run("set-default", NAME, "--best")
    assert "2.0 is ahead of 1.0 by 0.0000 of AUC (95 %: 0.0000 to 0.0000; p = 1), which cannot be told" in done.stdout
    run("set-default", NAME, "1.0")
    assert run("set-default", NAME, "--best").stdout.endswith(f"the default of {NAME} is 1.0\n")  # equal: it stays


def test_reports_of_different_pictures_do_not_choose(run: Run, pictures: Path, tmp_path: Path) -> None:
    run("set-default", NAME, "1.0")
    run("evaluate", f"{NAME}/1.0", "--data", pictures)
    (pictures / "0/000.png").unlink()
    run("evaluate", f"{NAME}/2.0", "--data", pictures)
    done = run("set-default", NAME, "--best")
    assert done.exit_code == 1
    assert "are of different pictures (" in done.stderr
    assert "40 dark, 40 bright; data " in done.stderr
    assert "39 dark, 40 bright; data " in done.stderr
    services: Services = make_app(tmp_path).extensions[EXTENSION]
    assert services.changes.plan().find_default(NAME) == "1.0"


def test_version_without_a_report_stops_the_choice(run: Run, models: Path, pictures: Path) -> None:
    run("evaluate", NAME, "--data", pictures)
    write_tiny_model(models, "3.0")
    done = run("set-default", NAME, "--best")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"Error: {NAME}/3.0: there is no report of it: run `flask models evaluate` first\n"


def change_threshold(folder: Path) -> None:
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace("threshold = 0.5", "threshold = 0.6"))


def put_other_model(folder: Path) -> None:
    shutil.rmtree(folder)
    write_tiny_model(folder.parent.parent, "2.0")


@pytest.mark.parametrize("change", [change_threshold, put_other_model])
def test_version_changed_since_its_report_stops_the_choice(
    run: Run, models: Path, pictures: Path, change: Callable[[Path], None]
) -> None:
    run("evaluate", NAME, "--data", pictures)
    change(models / NAME / "2.0")
    done = run("set-default", NAME, "--best")
    assert done.exit_code == 1
    assert f"Error: {NAME}/2.0 was changed since its report of 2" in done.stderr


def test_artifact_that_is_not_the_manifests_stops_the_choice(run: Run, models: Path, pictures: Path) -> None:
    run("evaluate", NAME, "--data", pictures)
    (models / NAME / "1.0/model.safetensors").write_bytes(b"other weights")
    done = run("set-default", NAME, "--best")
    assert (done.exit_code, "model.safetensors is not the file" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "old, new", [('"labels": [', '"labels": [1, '), ('"value": 0.', '"value": 0.9'), ("{", ""), ('"date"', '"time"')]
)
def test_damaged_report_stops_the_choice(run: Run, pictures: Path, tmp_path: Path, old: str, new: str) -> None:
    run("evaluate", NAME, "--data", pictures)
    path = tmp_path / f"instance/evaluations/{NAME}/1.0.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = run("set-default", NAME, "--best")
    assert (done.exit_code, f"{NAME}/1.0: the report cannot be read (" in done.stderr) == (1, True)


def test_best_version_without_workers_is_not_made_the_default(run: Run, pictures: Path, tmp_path: Path) -> None:
    run("evaluate", NAME, "--data", pictures)
    services: Services = make_app(tmp_path).extensions[EXTENSION]
    services.changes.scale(NAME, "1.0", 0, 0)
    done = run("set-default", NAME, "--best")
    assert (done.exit_code, done.stderr) == (1, f"Error: {NAME}/1.0 is the best, but has no workers: scale it first\n")


def test_unregistered_version_is_neither_measured_nor_missed(run: Run, pictures: Path, tmp_path: Path) -> None:
    services: Services = make_app(tmp_path).extensions[EXTENSION]
    services.changes.unregister(NAME, "1.0")
    done = run("evaluate", NAME, "--data", pictures)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["version", "2.0", "reports:"]
    assert run("set-default", NAME, "--best").stdout.endswith(f"the default of {NAME} is 2.0\n")


def test_default_is_named_or_the_best_and_not_both(run: Run) -> None:
    for arguments in ((NAME,), (NAME, "1.0", "--best")):
        done = run("set-default", *arguments)
        assert (done.exit_code, "give a VERSION, or --best" in done.stderr) == (2, True)
    for command in (("evaluate", "no-model", "--data", "."), ("set-default", "no-model", "--best")):
        done = run(*command)
        assert (done.exit_code, done.stderr) == (1, "Error: Model not found: no-model\n")


def test_report_that_cannot_be_written_is_an_error(run: Run, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir(exist_ok=True)
    (tmp_path / "instance/evaluations").touch()
    done = run("evaluate", NAME, "--data", pictures)
    assert (done.exit_code, "the report cannot be written: " in done.stderr) == (1, True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        with show_progress("tiny/1.0", 30, stream) as advance:
            for _ in range(10):
                advance(3)
    assert "\r" in terminal.getvalue()
    assert re.search(r"30/30 .*\d+/s", terminal.getvalue())
    told = [line.split(", ") for line in pipe.getvalue().splitlines()]
    assert [line[0] for line in told] == [f"tiny/1.0: {3 * tenth} of 30 pictures" for tenth in range(1, 11)]
    assert {re.sub(r"\d+", "N", f"{rate}, {left}") for _, rate, left in told} == {"N/s, N s left"}


def test_interval_of_an_auc_is_as_wide_as_a_bootstrap_finds() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(500) % 2
    scores = labels + random.normal(0, 1.2, 500)
    ours = estimate_auc(np.stack([-scores, scores], axis=1), labels, [1])
    theirs = bootstrap_auc(labels, scores)
    assert ours.value == pytest.approx(theirs.value, abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_test_of_two_aucs_rejects_equal_models_one_time_in_20() -> None:
    random = np.random.default_rng(0)
    values = []
    for _ in range(600):
        labels = np.arange(200) % 2
        signal = labels + random.normal(0, 1, 200)
        first, second = (np.stack([-scores, scores], 1) for scores in signal + random.normal(0, 0.4, (2, 200)))
        values.append(compare_aucs(first, second, labels, [1]).p_value)
    assert 0.03 <= np.mean(np.array(values) < 0.05) <= 0.07
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_wilson_interval_is_that_of_its_literature() -> None:
    # Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I, method 3
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = estimate_share(hits, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert math.isclose(estimate_share(20, 20).high, 1)


def test_picture_larger_than_a_body_may_be_is_not_counted(models: Path, pictures: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)).save(pictures / "0/large.png")
    app = create_app(Settings(models=models, instance=tmp_path / "instance", max_body_bytes=1 << 20))
    app.extensions[EXTENSION].follower.close()
    done = app.test_cli_runner().invoke(args=["models", "evaluate", f"{NAME}/1.0", "--data", str(pictures)])
    assert "not counted: 0/large.png: The file is larger than 1048576 bytes (SCANCER_MAX_BODY_BYTES)." in done.stderr


def test_archive_is_not_measured_and_is_told_what_to_do(models: Path, pictures: Path, tmp_path: Path) -> None:
    marked = models / "scans/1.0/MAR-INF"
    marked.mkdir(parents=True)
    model = {"modelName": "scans", "modelVersion": "1.0", "handler": "h.py"}
    (marked / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
    (marked.parent / "h.py").write_text("def handle(data, context):\n    return ['done'] * len(data)\n")
    app = create_app(Settings(models=models, instance=tmp_path / "instance"))
    app.extensions[EXTENSION].follower.close()
    done = app.test_cli_runner().invoke(args=["models", "evaluate", "scans", "--data", str(pictures)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("FAILED scans/1.0: a model archive cannot be measured")
    assert "send the pictures to /predictions/scans/1.0," in done.stderr
