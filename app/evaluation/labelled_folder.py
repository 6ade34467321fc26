"""A folder of pictures whose sub-folders say their class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from app.arrays import InputBatch
from app.errors import PicturesError, RequestError
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.preprocess import decode_as, preprocess

MIN_PICTURES = 3
"""Of each class: one to calibrate with, and the two that a variance needs."""
MAX_CALIBRATION_PICTURES = 300
CALIBRATION_SHARE = 1 / 3
"""At most this part of each class calibrates; the others measure."""


T = TypeVar("T")


@dataclass(frozen=True)
class LabelledPicture:
    """A picture's file and the index of its class."""

    path: Path
    label: int

    @property
    def name(self) -> str:
        """Class folder and file; bytes that are no UTF-8 are written as escapes."""
        return os.fsencode(f"{self.path.parent.name}/{self.path.name}").decode("utf-8", "backslashreplace")


def find_pictures(folder: Path, classes: Sequence[str]) -> list[LabelledPicture]:
    """Find the pictures of every class, sorted by class and name; hidden files are passed over.

    The folder holds one sub-folder a class, all named by class or all by index: `0`, `1` and so on, in the order of
    `classes`. Raises `PicturesError` if it is no such folder, or holds fewer than three pictures of a class.
    """
    try:
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise PicturesError(f"{folder} cannot be read: {error.strerror}") from error
    by_index = [str(index) for index in range(len(classes))]
    names = next((names for names in (list(classes), by_index) if sorted(names) == found), None)
    if names is None:
        raise PicturesError(
            f"{folder} must hold the sub-folders {', '.join(classes)} (or {', '.join(by_index)}) and no others; "
            f"it holds {', '.join(found) or 'none'}"
        )
    return [picture for label, name in enumerate(names) for picture in list_class(folder / name, label)]


def list_class(folder: Path, label: int) -> list[LabelledPicture]:
    """The pictures of one class, sorted by name."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        if not path.is_file():
            raise PicturesError(f"{folder.name}/{path.name} is not a file; pictures must lie in {folder.name} itself")
    if len(paths) < MIN_PICTURES:
        raise PicturesError(f"{folder.name} holds {len(paths)} pictures; at least {MIN_PICTURES} are needed")
    return [LabelledPicture(path, label) for path in paths]


def split_pictures(pictures: Sequence[LabelledPicture]) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Split by a seeded draw within each class: those that calibrate, about 300 in all, and those that measure."""
    share = min(CALIBRATION_SHARE, MAX_CALIBRATION_PICTURES / len(pictures))
    random = np.random.default_rng(0)
    calibration, measured = [], []
    for label in sorted({picture.label for picture in pictures}):
        of_class = [picture for picture in pictures if picture.label == label]
        order = random.permutation(len(of_class))
        cut = max(1, int(len(of_class) * share))
        calibration += [of_class[index] for index in order[:cut]]
        measured += [of_class[index] for index in order[cut:]]
    return calibration, measured


def draw(items: Sequence[T], most: int) -> list[T]:
    """Draw items in a seeded order, no more than `most`."""
    return [items[index] for index in np.random.default_rng(0).permutation(len(items))[:most]]


def read_picture(path: Path, spec: InputSpec, limits: ImageLimits) -> InputBatch:
    """Read a picture as the service would: uint8, [1, H, W, 3]; raises `PicturesError` with class folder and file."""
    return preprocess(read_image(path, spec, limits), spec)[np.newaxis]


def read_image(path: Path, spec: InputSpec, limits: ImageLimits) -> Image.Image:
    """Decode a picture as the service would, RGB; raises `PicturesError` with class folder and file."""
    name = f"{path.parent.name}/{path.name}"
    try:
        return decode_as(spec, path.read_bytes(), limits).pixels
    except RequestError as error:
        raise PicturesError(f"{name}: {error.message}") from error
    except OSError as error:
        raise PicturesError(f"{name} cannot be read: {error.strerror}") from error
