"""`models report` and `models compare`: the files, what is in them, and what is not."""

import csv
import json
import re
import shutil
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from app.evaluation.labelled_folder import read_image
from app.evaluation.report.worst_mistakes import embed_picture
from app.manifest.model_manifest import read_manifest
from app.pipeline.decoding.limits import ImageLimits
from tests.evaluation.test_version_evaluation import make_short_sighted_network
from tests.evaluation.tiny_model import MANIFEST, run_command, write_pictures, write_tiny_model

pytestmark = pytest.mark.slow
GUIDE = (PROJECT_ROOT / "get_started/evaluate.md").read_text(encoding="utf-8")
VERSION, OTHER = "tiny-brightness/1.0", "tiny-brightness/2.0"
FILES = "report.html", "report.json", "pictures.csv"
NOTICE = "Research use only. Not for diagnosis."


class Page(HTMLParser):
    """What a page refers to, its ids, and the tags that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [given["id"] or ""] if "id" in given else []
        self.alts += [given.get("alt") or ""] if tag == "img" else []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two versions, of which the older is the better, and 40 pictures of each class that neither tells apart well."""
    write_tiny_model(tmp_path / "models")
    write_tiny_model(tmp_path / "models", "2.0", make_short_sighted_network())
    write_pictures(tmp_path / "pictures", 40, 98.5, 100.5, noise=15)
    return tmp_path


def write_table(place: Path) -> Path:
    """A table that puts the pictures into two sites, and the first five dark ones into a third."""
    rows = ["file,site"]
    for label in "01":
        for number in range(40):
            site = "lone" if label == "0" and number < 5 else f"<site {number % 2}>"
            rows.append(f"set/{label}/{number:03}.png,{site}")
    (place / "table.csv").write_text("\n".join(rows))
    return place / "table.csv"


def make_report(place: Path, *options: object, version: str = VERSION) -> tuple[str, dict[str, Any], list[list[str]]]:
    """Run the command; return page, document and table."""
    done = run_command(place, "report", version, "--data", place / "pictures", "--output", place / "report", *options)
    assert done.exit_code == 0, done.stderr
    texts = [(place / "report" / name).read_text("utf-8") for name in FILES]
    return texts[0], json.loads(texts[1]), list(csv.reader(texts[2].splitlines()))


def test_report_needs_nothing_from_elsewhere_and_no_script(place: Path) -> None:
    page, _, _ = make_report(place)
    seen = Page(page)
    assert NOTICE in page.split("<h1>")[0]
    assert [link for link in seen.links if not link.startswith(("#", "data:image/jpeg;base64,"))] == []
    assert {"script", "link", "iframe", "object"} & set(seen.tags) == set()
    assert set(re.findall(r"https?://[^\"' ]*", page)) == {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }  # names of SVG's namespaces, which nobody fetches
    assert "default-src 'none'" in page
    assert len(seen.ids) == len(set(seen.ids))
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(seen.ids)


def test_each_figure_has_words_for_those_who_do_not_see_it(place: Path) -> None:
    page, _, _ = make_report(place)
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        assert re.search(r'<svg[^>]* role="img"><title>[^<]+</title><desc>[^<]+</desc>', figure)
        assert len(re.search(r"<figcaption>(.*?)</figcaption>", figure, re.DOTALL)[1].split()) > 30  # type: ignore[index]
        assert figure.count("<tr>") > 5
        assert "currentColor" in figure
        assert "#010203" not in figure
    assert all(re.fullmatch(r"Picture \d+: \w+, answered \w+", alt) for alt in Page(page).alts)
    assert Page(page).alts


def test_same_pictures_give_the_same_bytes(place: Path) -> None:
    make_report(place, "--manifest", write_table(place), "--by", "site")
    first = [(place / "report" / name).read_bytes() for name in FILES]
    make_report(place, "--manifest", write_table(place), "--by", "site")
    assert [(place / "report" / name).read_bytes() for name in FILES] == first


def test_report_has_the_figures_of_evaluate(place: Path) -> None:
    page, report, rows = make_report(place)
    assert run_command(place, "evaluate", VERSION, "--data", place / "pictures").exit_code == 0
    evaluation = json.loads((place / "instance/evaluations/tiny-brightness/1.0.json").read_text())
    for name, figure in evaluation["metrics"].items():
        assert report["evaluation"]["metrics"][name] == pytest.approx(figure, rel=1e-5)
        assert f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" in page
    assert report["evaluation"]["data_sha256"] == evaluation["data_sha256"]
    assert report["evaluation"]["model_sha256"] == evaluation["model_sha256"]
    assert {"date", "labels", "probabilities"} & set(report["evaluation"]) == set()
    header, *pictures = rows
    right = [row[header.index("right")] == "true" for row in pictures]
    assert sum(right) == report["answers"][0][0] + report["answers"][1][1]
    said = sorted(float(row[header.index("probability of bright")]) for row in pictures)
    assert said == pytest.approx(sorted(row[1] for row in evaluation["probabilities"]), rel=1e-5)


def test_pictures_are_named_in_the_table_alone(place: Path) -> None:
    (place / "pictures/0/000.png").rename(place / "pictures/0/Jane-Roe-1970.png")
    (place / "pictures/1/torn-John-Doe.png").write_bytes(b"no picture")
    page, report, rows = make_report(place)
    assert [row[:2] for row in rows[1:]] == [
        [str(number), f"{path.parent.name}/{path.name}"]
        for number, path in enumerate(sorted((place / "pictures").glob("*/*")), 1)
    ]
    for text in (page, json.dumps(report)):
        assert "Jane" not in text
        assert "Doe" not in text
        assert "000.png" not in text


def test_unreadable_picture_has_a_row_with_the_reason(place: Path) -> None:
    (place / "pictures/0/000.png").write_bytes(b"no picture")
    done = run_command(place, "report", VERSION, "--data", place / "pictures", "--output", place / "report")
    assert "not counted: 0/000.png: " in done.stderr
    page, report, (header, first, *others) = make_report(place)
    ((reason, count),) = report["unreadable"].items()
    assert count == report["evaluation"]["unreadable"] == 1
    assert dict(zip(header, first, strict=True)) == dict.fromkeys(header, "") | {
        "number": "1",
        "file": "0/000.png",
        "class": "dark",
        "error": reason,
    }
    assert len(others) == 79
    assert "1 more could not be read" in page


def test_subgroups_stand_beside_each_other_and_their_names_are_escaped(place: Path) -> None:
    page, report, (header, *rows) = make_report(place, "--manifest", write_table(place), "--by", "site")
    (table,) = report["groups"]
    groups = {group["value"]: group for group in table["groups"]}
    assert table["column"] == "site"
    assert {name: list(group["pictures"].values()) for name, group in groups.items()} == {
        "<site 0>": [17, 20],
        "<site 1>": [18, 20],
        "lone": [5, 0],
    }
    assert (groups["lone"]["auc"], groups["lone"]["note"]) == (None, "no AUC: no pictures of bright")
    assert "no AUC: no pictures of bright" in page
    assert "&lt;site 0&gt;" in page
    assert "<site 0>" not in page
    assert header[-1] == "site"
    assert [row[-1] for row in rows[:6]] == ["lone"] * 5 + ["<site 1>"]


def test_part_without_figures_says_what_makes_them(place: Path) -> None:
    page, report, _ = make_report(place)
    for part, words in (
        ("certainty", "the version is not calibrated: run `models calibrate`"),
        ("refusals", "the version does not know which pictures it was made for: run `models fit`"),
        ("int8", "there is no INT8 model"),
    ):
        assert report["absent"][part] == words
        assert report[part] is None
        assert f"No figures: {words}." in page
    assert "--manifest CSV --by COLUMN" in page


def test_calibrated_version_has_its_coverage(place: Path) -> None:
    assert run_command(place, "calibrate", VERSION, "--data", place / "pictures").exit_code == 0
    page, report, (header, *rows) = make_report(place)
    covered = report["certainty"]["covered"]
    for label, name in enumerate(("dark", "bright")):
        possible = [row[header.index("possible")].split() for row in rows if row[header.index("class")] == name]
        assert covered[name]["value"] == pytest.approx(np.mean([name in each for each in possible]))
        unsure = [row[header.index("cannot_tell")] == "true" for row in rows[40 * label : 40 * label + 40]]
        assert report["certainty"]["cannot_tell"][name]["value"] == pytest.approx(np.mean(unsure))
    assert covered["all pictures"]["n"] == 80
    assert "No figures: the version is not calibrated" not in page


def test_worst_mistakes_are_those_with_the_least_probability_of_the_truth(place: Path) -> None:
    page, report, (header, *rows) = make_report(place)
    for name in ("dark", "bright"):
        column = header.index(f"probability of {name}")
        wrong = [row for row in rows if row[2] == name and row[4] == "false"]
        worst = sorted(wrong, key=lambda row: (float(row[column]), int(row[0])))[:6]
        assert [each["number"] for each in report["mistakes"] if each["truth"] == name] == [
            int(row[0]) for row in worst
        ]
    assert page.count("data:image/jpeg;base64,") == len(report["mistakes"]) > 6
    page, again, _ = make_report(place, "--no-pictures")
    assert again == report
    assert "data:image" not in page
    assert "This report was made without the pictures themselves" in page


def test_embedded_picture_is_small_and_without_metadata(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))
    image.info["comment"] = b"Jane Roe"
    exif = Image.Exif()
    exif[0x010E] = "Jane Roe"
    image.save(tmp_path / "a.jpg", comment=b"Jane Roe", exif=exif)
    assert (tmp_path / "a.jpg").read_bytes().count(b"Jane Roe") == 2
    spec, limits = read_manifest(tmp_path / "tiny-brightness/1.0").input, ImageLimits(1_000_000)
    uri = embed_picture(tmp_path / "a.jpg", spec, limits)
    import base64

    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"), validate=True)
    assert b"Jane" not in content
    (tmp_path / "small.jpg").write_bytes(content)
    assert read_image(tmp_path / "small.jpg", spec, limits).size == (160, 96)


def test_model_of_three_classes_is_reported_class_by_class(place: Path) -> None:
    binary = 'classes = ["dark", "bright"]', 'positive_class = "bright"\nthreshold = 0.5\nthreshold_source = "a test"\n'
    three = MANIFEST.replace(binary[0], 'classes = ["dark", "grey", "bright"]').replace(binary[1], "")
    write_tiny_model(place / "models", "3.0", make_short_sighted_network(3), three)
    shutil.rmtree(place / "pictures")
    folder = write_pictures(place / "pictures", 20, 60, 150, ("dark", "bright"), noise=20)
    grey = write_pictures(place / "grey", 20, 100, 100, ("grey", "left out"), noise=20)
    (grey / "grey").rename(folder / "grey")
    page, report, _ = make_report(place, version="tiny-brightness/3.0")
    assert [each["class_name"] for each in report["classes"]] == ["dark", "grey", "bright"]
    assert [row["rule"] for row in report["operating"]] == ["dark", "grey", "bright"]
    assert page.count("<figure>") == 12
    assert "grey against the other classes" in page
    assert set(report["evaluation"]["metrics"]) == {"auc", "accuracy"}
    seen = Page(page)
    assert len(seen.ids) == len(set(seen.ids))


def test_shipped_version_is_reported_with_its_fit_and_its_int8_model(tmp_path: Path) -> None:
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification/1.1", tmp_path / "models/pcam-classification/1.1")
    examples = tmp_path / "models/pcam-classification/1.1/examples"
    for name in ("normal", "metastatic"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for path in examples.glob(f"{name}*"):
            image = Image.open(path).convert("RGB")
            for turn in range(4):
                image.rotate(90 * turn).save(tmp_path / "pictures" / name / f"{path.stem}-{turn}.png")
        Image.new("RGB", (96, 96), "white").save(tmp_path / "pictures" / name / "white.png")
    page, report, (header, *rows) = make_report(tmp_path, version="pcam-classification/1.1")
    refused = [row[header.index("fits")] == "false" for row in rows]
    assert report["refusals"]["refused"]["all pictures"]["value"] == pytest.approx(np.mean(refused))
    assert sum(refused) >= 2
    assert sum(report["refusals"]["fitting"]["pictures"].values()) == len(rows) - sum(refused)
    assert report["evaluation"]["precision"] == "float32"
    assert report["int8"]["metrics"]["sensitivity"]["n"] == 9
    assert 0 < report["int8"]["largest_change"] < 0.2
    assert "No figures" not in page.replace("No figures: no table was given", "")


@pytest.mark.parametrize("command", ["report", "compare"])
def test_guide_prints_what_it_says(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(
        rf"<!-- run: {command} -->\n *```sh\n *flask models (.*?)\n *```.*?```\n(.*?) *```", GUIDE, re.DOTALL
    )
    assert found is not None
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification", tmp_path / "models/pcam-classification")
    write_pictures(tmp_path / "PICTURES", 4, 90, 160, ("normal", "metastatic"), noise=30)
    rows = [f"{path.parent.name}/{path.name},A" for path in (tmp_path / "PICTURES").glob("*/*")]
    (tmp_path / "TABLE.csv").write_text("\n".join(["file,site", *rows]))
    monkeypatch.chdir(tmp_path)
    done = run_command(tmp_path, *found[1].split())
    assert done.exit_code == 0, done.stderr
    number = r"-?\d+(?:\.\d+)?(?:e-\d+)?"
    told = [re.sub(number, "N", line) for line in textwrap.dedent(found[2]).splitlines()]
    assert [re.sub(number, "N", line) for line in done.stdout.splitlines()][: len(told)] == told


def test_matplotlib_that_is_absent_is_named_in_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run_command(place, "report", VERSION, "--data", place / "pictures")
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: a report needs matplotlib, which is not installed: run `pip install -r requirements.txt`\n"
    )


@pytest.mark.parametrize("options", [("--by", "site"), ("--manifest", "table.csv")])
def test_table_and_column_need_each_other(
    place: Path, options: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(place)
    monkeypatch.chdir(place)
    for command in (("report", VERSION), ("compare", VERSION, OTHER)):
        done = run_command(place, *command, "--data", place / "pictures", *options)
        assert done.exit_code == 2
        assert "--manifest and --by need each other" in done.stderr


def test_report_goes_to_the_instance_folder_unless_told(place: Path) -> None:
    done = run_command(place, "report", VERSION, "--data", place / "pictures")
    folder = place / "instance/reports/tiny-brightness/1.0"
    assert done.stdout.splitlines()[-3:] == [str(folder / name) for name in FILES]
    assert re.match(r"auc 0\.\d{3} \(0\.\d{3} to [01]\.\d{3}\)\nsensitivity 0", done.stdout)
    assert f"{VERSION} float32: 80 of 80 pictures" in done.stderr


def test_folder_that_cannot_be_written_is_named_without_a_traceback(place: Path) -> None:
    (place / "file").write_text("")
    done = run_command(place, "report", VERSION, "--data", place / "pictures", "--output", place / "file/below")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, "Error: the report cannot be written: Not a directory")


def test_comparison_says_which_version_is_better_and_where(place: Path) -> None:
    done = run_command(
        place, "compare", VERSION, OTHER, "--data", place / "pictures", "--output", place / "both",
        "--manifest", write_table(place), "--by", "site",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    document = json.loads((place / "both/comparison.json").read_text())
    whole = document["whole"]
    assert whole["auc"]["drop"] > 0 < whole["auc"]["drop_low"]
    assert whole["auc"]["p_value"] < 0.05
    assert done.stdout.splitlines()[0] == "all pictures: 40 dark, 40 bright"
    assert f"p = {whole['auc']['p_value']:.2g})" in done.stdout.splitlines()[1]
    assert sum(whole["decisions"]["dark"][key] for key in ("both", "only_first", "only_second", "neither")) == 40
    (column,) = document["columns"]
    assert [group["value"] for group in column["groups"]] == ["<site 1>", "<site 0>", "lone"]
    assert column["groups"][2]["auc"] is None
    assert column["groups"][2]["decisions"]["bright"] is None
    assert "site = lone: 5 dark, 0 bright\n  no AUC: too few pictures of a class\n" in done.stdout
    page = (place / "both/comparison.html").read_text()
    assert NOTICE in page.split("<h1>")[0]
    assert "too few pictures of a class for an AUC" in page
    assert Page(page).links == []


def test_version_compared_with_itself_is_equal(place: Path) -> None:
    done = run_command(place, "compare", VERSION, VERSION, "--data", place / "pictures")
    assert "first less second 0.0000 (95 %: 0.0000 to 0.0000; p = 1)" in done.stdout
    assert "only tiny-brightness/1.0 0, only tiny-brightness/1.0 0, neither" in done.stdout


def test_versions_of_other_classes_are_not_compared(place: Path) -> None:
    other = MANIFEST.replace('"dark"', '"black"')
    write_tiny_model(place / "models", "3.0", manifest_text=other)
    done = run_command(place, "compare", VERSION, "tiny-brightness/3.0", "--data", place / "pictures")
    assert done.exit_code == 1
    assert done.stderr == "Error: only versions of the same classes, in the same order, can be compared\n"
