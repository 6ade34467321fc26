"""Reads `NAME/{train,val,test}/{0,1}/FILE` and `NAME_manifest.csv` into arrays."""

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class LabelledImages:
    """One split of one or more data sets, decoded.

    Attributes:
        images: uint8, [N, H, W, 3], RGB, 0 to 255.
        labels: int64, [N]; 1 is the disease class.
        files: path of each image below the data folder, as it stands in the manifest.
        origins: str, [N]; where each image comes from, by the manifest's column `origin`; empty without one.
        diagnoses: str, [N]; by the manifest's column `dx`; empty without one.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    files: tuple[str, ...]
    origins: NDArray[np.str_]
    diagnoses: NDArray[np.str_]

    def select(self, keep: NDArray[np.bool_]) -> "LabelledImages":
        """Return the rows where `keep`, bool [N], is true."""
        files = tuple(file for file, kept in zip(self.files, keep, strict=True) if kept)
        return LabelledImages(self.images[keep], self.labels[keep], files, self.origins[keep], self.diagnoses[keep])


def read_split(data: Path, sets: Sequence[str], split: str, size_px: int) -> LabelledImages:
    """Read one split of the data sets `sets` below `data`, set after set, sorted by path.

    Args:
        data: folder that holds `NAME/` and `NAME_manifest.csv` of each set.
        sets: data sets, e.g. `pcam`. One that has no such split adds nothing.
        split: `train`, `val` or `test`.
        size_px: images are squeezed to this square with Pillow's antialiased bilinear filter, as the service does.

    Raises:
        FileNotFoundError: there is no image, or a class has none.
        KeyError: an image stands in no manifest.
    """
    paths = [path for name in sets for label in "01" for path in sorted((data / name / split / label).glob("*"))]
    labels = np.array([int(path.parent.name) for path in paths], dtype=np.int64)
    if len(set(labels.tolist())) != 2:
        raise FileNotFoundError(f"{split} of {', '.join(sets)} below {data} needs images in both 0/ and 1/")

    def read(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        if rgb.size != (size_px, size_px):
            rgb = rgb.resize((size_px, size_px), Image.Resampling.BILINEAR)
        return np.asarray(rgb)

    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(read, paths)))
    files = tuple(str(path.relative_to(data)) for path in paths)
    rows = {file: row for name in sets for file, row in read_manifest(data, name).items()}
    origins, diagnoses = (np.array([rows[file].get(column) or "" for file in files]) for column in ("origin", "dx"))
    return LabelledImages(images, labels, files, origins, diagnoses)


def read_manifest(data: Path, name: str) -> dict[str, dict[str, str]]:
    """Read `NAME_manifest.csv` beside the data: the row of each file, by its path."""
    with find_manifest(data, name).open(newline="") as handle:
        return {row["file"]: row for row in csv.DictReader(handle)}


def find_manifest(data: Path, name: str) -> Path:
    """Return the path of `NAME_manifest.csv`."""
    return data / f"{name}_manifest.csv"
