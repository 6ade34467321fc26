"""Which parts of a picture a model's answer rests on: each part is covered in turn, and the change of the score noted.

Occlusion sensitivity (Zeiler and Fergus 2014, doi:10.1007/978-3-319-10590-1_53).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.arrays import InputBatch, RGBImage

CELLS = 12
"""Cells along each side of a map. Windows of 2x2 cells overlap by half: 121 of them."""


@dataclass(frozen=True)
class HeatMap:
    """Where a picture speaks for a class.

    Attributes:
        class_name: the class that is explained.
        score: its probability for the whole picture.
        cells: float64, [rows, columns]; how much the probability falls if the cell is covered, averaged over the
            windows that cover it. Negative: it rises.
        pixels: the picture as the model saw it.
    """

    class_name: str
    score: float
    cells: NDArray[np.float64]
    pixels: RGBImage

    @property
    def limit(self) -> float:
        """Largest change, either way; what the ends of the colour scale stand for."""
        return float(np.abs(self.cells).max())


def find_edges(side_px: int) -> NDArray[np.int64]:
    """Return where the cells of a side begin and end, in pixels."""
    return np.linspace(0, side_px, min(CELLS, side_px) + 1).round().astype(int)


def list_windows(height_px: int, width_px: int) -> list[tuple[slice, slice]]:
    """Return the windows, in rows and columns of cells: 2x2 cells each, as far as there are two."""
    rows, columns = (
        [slice(start, min(start + 2, cells)) for start in range(max(1, cells - 1))]
        for cells in (min(CELLS, height_px), min(CELLS, width_px))
    )
    return [(row, column) for row in rows for column in columns]


def cover(pixels: RGBImage) -> Iterator[InputBatch]:
    """Yield copies of a picture, each with one window in the picture's mean colour.

    One at a time is inferred, so that other callers' pictures come in between, every few ms.
    """
    height, width, _ = pixels.shape
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    tops, lefts = find_edges(height), find_edges(width)
    for row, column in list_windows(height, width):
        batch = pixels[np.newaxis].copy()
        batch[0, tops[row.start] : tops[row.stop], lefts[column.start] : lefts[column.stop]] = colour
        yield batch


def map_importance(
    pixels: RGBImage, score: float, ask: Callable[[InputBatch], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the cells of a `HeatMap`; `ask` returns the explained class's probability of each picture, float64 [N]."""
    height, width, _ = pixels.shape
    falls = score - np.concatenate([ask(batch) for batch in cover(pixels)])
    total = np.zeros((min(CELLS, height), min(CELLS, width)))
    count = np.zeros_like(total)
    for fall, window in zip(falls, list_windows(height, width), strict=True):
        total[window] += fall
        count[window] += 1
    return total / count
