"""Every folder of models/: complete, sound, and answering as its framework did. None is listed here."""

import hashlib
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.repository.model_check import check_folder
from app.repository.model_folder import CARD_FILE, ModelFolder, find_model_folders

FOLDERS = find_model_folders(PROJECT_ROOT / "models")
MAX_ARTIFACT_BYTES = 25_000_000
every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.name}-{folder.version}")


def test_the_two_models_ship() -> None:
    assert {folder.name for folder in FOLDERS} >= {"pcam-classification", "isic-classification"}


@every_folder
def test_hashes_report_and_example_scores_hold(folder: ModelFolder) -> None:
    difference = check_folder(folder, Settings())
    assert difference is not None
    assert difference <= 1e-3


@every_folder
def test_card_says_research_use_data_licence_intervals_and_limits(folder: ModelFolder) -> None:
    card = (folder.path / CARD_FILE).read_text(encoding="utf-8")
    manifest = folder.read_manifest()
    for word in ("Research use only. Not for diagnosis.", "## Data", "## Limits", "## Licence", "95 %", "synthetic"):
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
    assert suffixes <= {".toml", ".safetensors", ".keras", ".xml", ".bin", ".json", ".md", ".png", ".jpg"}


def test_no_example_is_a_picture_of_the_training_data(real_data: Path) -> None:
    known = "".join(path.read_text() for path in real_data.glob("*_manifest.csv"))
    for folder in FOLDERS:
        for name in folder.find_examples():
            digest = hashlib.sha256((folder.path / "examples" / name).read_bytes()).hexdigest()
            assert digest not in known
