"""The plots of a report on a model's page: of this version's report alone, and told in numbers too."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import create_app
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.repository.model_folder import FIGURES_FILE, ModelFolder
from app.web.report_plots import MAX_REPORT_BYTES, MOST_CLASSES, find_plots
from tests.conftest import basic, no_descriptors
from tests.web.test_pages import BROWSER

SHIPPED = PROJECT_ROOT / "models/pcam-classification/1.1"
Report = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    """A model folder with the manifest and the report of the shipped version."""
    own = tmp_path / "pcam-classification/1.1"
    own.mkdir(parents=True)
    for name in ("model.toml", FIGURES_FILE):
        shutil.copy(SHIPPED / name, own)
    return ModelFolder(own)


def test_plots_have_the_points_and_figures_of_the_report(folder: ModelFolder) -> None:
    report = json.loads((folder.path / FIGURES_FILE).read_text())
    plots = find_plots(folder, folder.read_manifest())
    assert plots is not None
    (plot,) = plots.shown
    figures, row = report["classes"][0], report["operating"][0]
    assert list(plot.auc) == [figures["auc"][key] for key in ("value", "low", "high")]
    assert plot.own == (1 - row["specificity"]["value"], row["sensitivity"]["value"])
    assert (plot.curve[0], plot.curve[-1]) == ((0, 0), (1, 1))
    assert len(plot.curve) < 251
    assert all(low[0] <= high[0] and low[1] <= high[1] for low, high in pairwise(plot.curve))
    area = sum((high[0] - low[0]) * (high[1] + low[1]) / 2 for low, high in pairwise(plot.curve))
    assert abs(area - plot.auc.value) < 0.002
    assert sum(dot.pictures for dot in plot.dots) == sum(report["evaluation"]["pictures"].values())
    # At the version's own share of false alarms, 6.8 %, 84.0 % are found.
    found = dict(plot.found)
    assert found[0.05] <= plot.own[1] <= found[0.1]


def change_certainty(report: Report) -> None:
    report["certainty"]["data"] = "other pictures"


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report["evaluation"].update(version="1.2"),
        lambda report: report["evaluation"].update(threshold=0.5),
        lambda report: report["evaluation"].update(pictures={"a": 1, "b": 2}),
        change_certainty,
        lambda report: report["classes"][0]["curve"]["true_positives"].__setitem__(3, 10**6),
        lambda report: report["classes"][0]["curve"]["true_positives"].pop(),
        lambda report: report["classes"][0]["auc"].update(value=float("nan")),
        lambda report: report["classes"][0]["bins"][0].update(mean_score=None),
        lambda report: report.pop("operating"),
        lambda report: report.update(classes=7),
    ],
)
def test_report_of_another_state_or_with_impossible_figures_is_not_drawn(
    folder: ModelFolder, change: Callable[[Report], None]
) -> None:
    path = folder.path / FIGURES_FILE
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    assert find_plots(folder, folder.read_manifest()) is None


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\ufeff{}", " " * (MAX_REPORT_BYTES + 1)])
def test_what_is_no_report_is_not_drawn(folder: ModelFolder, text: str) -> None:
    (folder.path / FIGURES_FILE).write_text(text)
    assert find_plots(folder, folder.read_manifest()) is None


def test_report_that_could_not_be_read_once_is_drawn_the_next_time(folder: ModelFolder) -> None:
    manifest = folder.read_manifest()
    with no_descriptors():
        assert find_plots(folder, manifest) is None
    assert find_plots(folder, manifest) is not None


def test_report_that_is_a_link_is_not_drawn(folder: ModelFolder) -> None:
    path = folder.path / FIGURES_FILE
    path.unlink()
    assert find_plots(folder, folder.read_manifest()) is None
    path.symlink_to(SHIPPED / FIGURES_FILE)
    assert find_plots(folder, folder.read_manifest()) is None


def test_page_draws_the_report_without_inline_styles_and_tells_its_figures(tmp_path: Path, own_instance: Path) -> None:
    folder = tmp_path / "models/pcam-classification/1.1"
    shutil.copytree(SHIPPED, folder)
    client = create_app(Settings(models=tmp_path / "models", instance=own_instance)).test_client()
    page = client.get("/models/pcam-classification", headers=basic() | BROWSER).text
    assert page.count('class="plot"') == 2
    assert " style=" not in page
    alternatives = re.findall(r'role="img" aria-label="([^"]+)"', page)
    assert "ROC curve of metastatic: the area below it is 0.963 (0.955 to 0.970)." in alternatives[-2]
    assert "84.5 % of metastatic are found, with 4.9 % false alarms" in alternatives[-2]
    assert "the expected calibration error is 0.0" in alternatives[-1]
    (folder / FIGURES_FILE).unlink()
    page = client.get("/models/pcam-classification", headers=basic() | BROWSER)
    assert page.status_code == 200
    assert "How good it is" in page.text
    assert 'class="plot"' not in page.text


def test_of_many_classes_the_first_are_drawn_and_none_has_a_threshold(folder: ModelFolder, app: Flask) -> None:
    path, names = folder.path / FIGURES_FILE, [f"kind-{number}" for number in range(MOST_CLASSES + 2)]
    report = json.loads(path.read_text())
    report["evaluation"] |= {"pictures": dict.fromkeys(names, 10), "positive_class": None, "threshold": None}
    report["classes"] = [report["classes"][0] | {"class_name": name, "others": "other classes"} for name in names]
    path.write_text(json.dumps(report))
    manifest = folder.read_manifest()
    output = replace(manifest.output, classes=tuple(names), positive_class=None, threshold=None)
    plots = find_plots(folder, replace(manifest, output=output))
    assert plots is not None
    assert [plot.class_name for plot in plots.shown] == names[:MOST_CLASSES]
    assert {plot.own for plot in plots.shown} == {None}
    page = app.jinja_env.get_template("report_plots.html").module.plots(plots)  # type: ignore[attr-defined]  # a macro
    assert page.count("<svg") == 2 * MOST_CLASSES
    assert "The report has 2 more classes." in page
    assert "threshold:" not in page
    assert len(page) < 80_000
