"""Copies of the shipped model folders that a test may break."""

import shutil
from pathlib import Path

import pytest

from app.setting_types import PROJECT_ROOT


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model repository with a copy of pcam-classification/1.0."""
    folder = tmp_path / "models"
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification", folder / "pcam-classification")
    return folder


@pytest.fixture
def pcam(models: Path) -> Path:
    """The folder of the copied version."""
    return models / "pcam-classification/1.0"
