"""Every folder of models/: complete, sound, and answering as its framework did. None is listed here."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import UnfitImageError
from app.registry.model_loader import ModelLoader
from app.repository.model_check import EXPECTED_FILE, check_folder
from app.repository.model_folder import CARD_FILE, ModelFolder, find_model_folders
from app.state.wanted import PlannedVersion, WantedVersion

FOLDERS = find_model_folders(PROJECT_ROOT / "models")
MAX_ARTIFACT_BYTES = 25_000_000
FITTED = [folder for folder in FOLDERS if folder.read_manifest().fit is not None]
every_fitted_folder = pytest.mark.parametrize("folder", FITTED, ids=lambda folder: f"{folder.name}-{folder.version}")
every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.name}-{folder.version}")


def test_the_two_models_ship() -> None:
    assert {folder.name for folder in FOLDERS} >= {"pcam-classification", "isic-classification"}
    assert {folder.label for folder in FITTED} >= {"pcam-classification/1.1", "isic-classification/1.1"}


@every_folder
def test_hashes_report_and_example_scores_hold(folder: ModelFolder) -> None:
    difference = check_folder(folder, Settings())
    assert difference is not None
    assert difference <= 1e-3


@every_folder
def test_card_says_research_use_data_licence_intervals_and_limits(folder: ModelFolder) -> None:
    card = (folder.path / CARD_FILE).read_text(encoding="utf-8")
    manifest = folder.read_manifest()
    for word in ("Research use only. Not for diagnosis.", "## Data", "## Limits", "## Licence", "95 %", "## Examples"):
        assert word in card
    assert manifest.licence in card
    assert f"{manifest.output.threshold:.4f}" in card
    for metric in manifest.metrics.values():
        assert f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f}; n = {metric.n})" in card


@every_folder
def test_artifact_is_a_data_format_of_at_most_25_mb(folder: ModelFolder) -> None:
    artifact = folder.path / folder.read_manifest().artifact.file
    assert artifact.suffix in (".safetensors", ".keras")
    assert artifact.stat().st_size <= MAX_ARTIFACT_BYTES


@every_folder
def test_folder_holds_no_code(folder: ModelFolder) -> None:
    suffixes = {path.suffix for path in folder.path.rglob("*") if path.is_file()}
    assert suffixes <= {".toml", ".safetensors", ".keras", ".xml", ".bin", ".json", ".md", ".html", ".png", ".jpg"}


def test_no_example_is_a_picture_of_the_training_data(real_data: Path) -> None:
    rows = [row for path in real_data.glob("*_manifest.csv") for row in csv.DictReader(path.read_text().splitlines())]
    splits = {Path(row["file"]).name: row.get("split", "") for row in rows}
    learnt = {row["sha256"] for row in rows if row.get("split") in ("train", "val")}
    for folder in FOLDERS:
        for name in folder.find_examples():
            assert hashlib.sha256((folder.path / "examples" / name).read_bytes()).hexdigest() not in learnt
        for told in read_told(folder).values():
            assert splits[told["source"].split(": ")[1]] == "test"


@every_fitted_folder
def test_real_examples_say_what_they_show_and_that_they_may_be_copied(folder: ModelFolder) -> None:
    told = read_told(folder)
    manifest = folder.read_manifest()
    assert set(told) == set(folder.find_examples())
    assert {each["licence"] for each in told.values()} == {"CC0-1.0"}
    assert {each["truth"] for each in told.values()} == set(manifest.output.classes)


@every_fitted_folder
def test_examples_fit_and_are_answered_as_their_names_say(folder: ModelFolder) -> None:
    """Right and wrong answers among them; a drawing is refused by a model that knows its kind."""
    planned = PlannedVersion(folder, WantedVersion(folder.name, folder.version, ""))
    served = ModelLoader(Settings()).load_whole(planned).served
    assert served is not None
    for name, told in read_told(folder).items():
        prediction, _ = served.predict((folder.path / "examples" / name).read_bytes())
        said = prediction.decision.class_name
        assert Path(name).stem == (said if said == told["truth"] else f"{told['truth']}-called-{said}")
    drawn = next((folder.path.parent / "1.0/examples").glob("synthetic-*"))
    with pytest.raises(UnfitImageError):
        served.predict(drawn.read_bytes())
    served.close()


@every_fitted_folder
def test_int8_model_that_ships_may_be_served(folder: ModelFolder) -> None:
    manifest = folder.read_manifest()
    report = folder.read_int8_report(manifest, folder.read_report(manifest))
    assert report.refusal == ""
    assert report.auc_drop_high <= 0.002


def read_told(folder: ModelFolder) -> dict[str, dict[str, str]]:
    """What `expected.json` says of the pictures themselves."""
    told: dict[str, dict[str, str]] = json.loads((folder.path / "examples" / EXPECTED_FILE).read_text()).get(
        "pictures", {}
    )
    return told
