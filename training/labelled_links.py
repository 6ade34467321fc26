"""Lays out a part of the data sets as a folder of labelled pictures, with links: what the commands take."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.evaluation.labelled_folder import LabelledPicture
from training.image_folder import read_manifest


@dataclass(frozen=True)
class Part:
    """Some pictures.

    Attributes:
        name: in words, for the manifest and the card.
        sets, splits: data sets and splits that they are of.
        keeps: by the manifest's row, whether a picture is one of them.
    """

    name: str
    sets: Sequence[str]
    splits: Sequence[str]
    keeps: Callable[[dict[str, str]], bool] = bool  # a row is never empty


def read_labelled(data: Path, part: Part) -> list[LabelledPicture]:
    """List the pictures of a part, by path."""
    return [
        LabelledPicture(data / file, int(row["label"]))
        for name in part.sets
        for file, row in sorted(read_manifest(data, name).items())
        if row["split"] in part.splits and part.keeps(row)
    ]


def link_part(data: Path, links: Path, part: Part) -> Path:
    """Make the folder of a part anew: `0/` and `1/` with links to its pictures."""
    folder = links / part.name
    shutil.rmtree(folder, ignore_errors=True)
    for picture in read_labelled(data, part):
        link = folder / str(picture.label) / picture.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(picture.path.resolve())
    return folder
