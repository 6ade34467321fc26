"""Reads `NAME/{train,val,test}/{0,1}/FILE` into arrays."""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set, decoded.

    Attributes:
        images: uint8, [N, H, W, 3], RGB, 0 to 255.
        labels: int64, [N]; 1 is the disease class.
        files: path of each image below the data folder, as it stands in the manifest.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    files: tuple[str, ...]

    def select(self, keep: NDArray[np.bool_]) -> "LabelledImages":
        """Return the rows where `keep`, bool [N], is true."""
        files = tuple(file for file, kept in zip(self.files, keep, strict=True) if kept)
        return LabelledImages(self.images[keep], self.labels[keep], files)


def read_split(data: Path, name: str, split: str, size_px: int) -> LabelledImages:
    """Read one split of the data set `name` below `data`, sorted by path.

    Args:
        data: folder that holds `name/`.
        name: data set, e.g. `pcam`.
        split: `train`, `val` or `test`.
        size_px: images are squeezed to this square with Pillow's antialiased bilinear filter, as the service does.

    Raises:
        FileNotFoundError: a class folder of the split is missing or empty.
    """
    paths = [path for label in ("0", "1") for path in sorted((data / name / split / label).iterdir())]
    labels = np.array([int(path.parent.name) for path in paths], dtype=np.int64)
    if len(set(labels.tolist())) != 2:
        raise FileNotFoundError(f"{data / name / split} needs images in both 0/ and 1/")

    def read(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        if rgb.size != (size_px, size_px):
            rgb = rgb.resize((size_px, size_px), Image.Resampling.BILINEAR)
        return np.asarray(rgb)

    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(read, paths)))
    return LabelledImages(images, labels, tuple(str(path.relative_to(data)) for path in paths))


def read_manifest(data: Path, name: str) -> dict[str, dict[str, str]]:
    """Read `NAME_manifest.csv` beside the data: the row of each file, by its path."""
    with (data / f"{name}_manifest.csv").open(newline="") as handle:
        return {row["file"]: row for row in csv.DictReader(handle)}
