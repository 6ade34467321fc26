"""Which pictures a person means, and in which order."""

from pathlib import Path

import pytest

from app.cli.classifying.picture_paths import find_paths
from app.errors import PicturesError

FILES = [
    "b/2.png",
    "b/10.JPG",
    "b/a/1.tiff",
    "b/labels.csv",
    "b/.hidden.png",
    "b/.git/x.png",
    "a.png",
    "no_ending",
    "[1].png",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folder_is_searched_with_all_folders_in_it_by_name() -> None:
    found = find_paths(["b"])
    assert (found.pictures, found.others) == (["b/10.JPG", "b/2.png", "b/a/1.tiff"], 1)


def test_names_come_in_the_order_given_and_each_once(folder: Path) -> None:
    assert find_paths(["./b/2.png", "a.png", "b/2.png"]).pictures == ["b/2.png", "a.png"]
    assert find_paths([str(folder / "a.png"), "."]).pictures[0] == str(folder / "a.png")


def test_file_that_is_named_may_end_in_anything() -> None:
    assert find_paths(["no_ending"]).pictures == ["no_ending"]


def test_pattern_is_matched_unless_a_file_has_that_name() -> None:
    assert find_paths(["b/*.*"]).pictures == ["b/10.JPG", "b/2.png", "b/labels.csv"]
    assert find_paths(["**/*.png"]).pictures == ["[1].png", "a.png", "b/2.png"]
    assert find_paths(["[1].png"]).pictures == ["[1].png"]


def test_name_that_leads_nowhere_is_told() -> None:
    with pytest.raises(PicturesError, match=r"^c/\*\.png: there is no such file"):
        find_paths(["a.png", "c/*.png"])


def test_links_that_lead_round_end(folder: Path) -> None:
    (folder / "b/round").symlink_to(folder / "b")
    assert len(find_paths(["b"]).pictures) == 3
