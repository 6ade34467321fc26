"""Where the files of the workers' metrics lie, and which of them are removed."""

import os
from pathlib import Path

import pytest

from app.config.settings import MULTIPROCESS_VARIABLE
from app.server import metrics_folder
from app.server.metrics_folder import PREFIX, MetricsFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders are made; a folder of memory stands for the system's."""
    monkeypatch.setenv(MULTIPROCESS_VARIABLE, "")  # so that it is put back
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setattr(metrics_folder, "MEMORY_FOLDER", place)
    return place


def test_folder_is_named_in_the_environment_and_its_owners_alone(place: Path, tmp_path: Path) -> None:
    folder = MetricsFolder(tmp_path)
    assert (folder.path.parent, folder.path.stat().st_mode & 0o777) == (place, 0o700)
    assert os.environ[MULTIPROCESS_VARIABLE] == str(folder.path)
    folder.remove()
    assert list(place.iterdir()) == []


def test_without_a_folder_in_memory_it_lies_in_the_instance_folder(place: Path, tmp_path: Path) -> None:
    place.rmdir()
    folder = MetricsFolder(tmp_path)
    assert folder.path.parent == tmp_path
    folder.remove()


def test_leftovers_go_and_what_another_server_or_link_has_stays(place: Path, tmp_path: Path) -> None:
    living = MetricsFolder(tmp_path)
    (place / f"{PREFIX}left").mkdir()
    (place / f"{PREFIX}left/counter_1.db").touch()
    (tmp_path / "elsewhere").mkdir()
    (place / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (place / f"{PREFIX}file").touch()
    second = MetricsFolder(tmp_path)
    stay = {living.path.name, second.path.name, f"{PREFIX}link", f"{PREFIX}file"}
    assert {path.name for path in place.iterdir()} == stay
    assert living.path != second.path
    living.remove()
    second.remove()


def test_operators_folder_loses_earlier_totals_and_nothing_else(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "counter_1.db").touch()
    (own / "notes").touch()
    monkeypatch.setenv(MULTIPROCESS_VARIABLE, str(own))
    folder = MetricsFolder(tmp_path)
    assert os.environ[MULTIPROCESS_VARIABLE] == str(own)
    folder.remove()
    assert [path.name for path in own.iterdir()] == ["notes"]
    assert list(place.iterdir()) == []
