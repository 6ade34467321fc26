"""The heat map shows what a score rests on."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.arrays import InputBatch
from app.pipeline.heat_map_picture import AGAINST, FOR, draw_heat_map
from app.pipeline.occlusion import CELLS, HeatMap, cover, map_importance

NOTICE = "Research use only."


def brightness_of(rows: slice, columns: slice) -> object:
    """What a model says whose score is the brightness of one place."""

    def ask(batch: InputBatch) -> NDArray[np.float64]:
        shares: NDArray[np.float64] = batch[:, rows, columns].mean(axis=(1, 2, 3)) / 255
        return shares

    return ask


@pytest.mark.parametrize("size", [(96, 96), (144, 144), (224, 160), (12, 13), (8, 8), (2, 5), (1, 1)], ids=str)
def test_every_pixel_is_covered_and_few_passes_are_needed(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (*size, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    batches = list(cover(pixels))
    assert {len(batch) for batch in batches} == {1}
    covered = np.concatenate(batches)
    assert len(covered) <= 121
    colour = pixels.mean(axis=(0, 1)).round()
    is_changed = (covered == colour).all(axis=3).any(axis=0)
    assert is_changed.all()
    cells = map_importance(pixels, 0.5, lambda batch: np.full(len(batch), 0.5))
    assert cells.shape == (min(CELLS, size[0]), min(CELLS, size[1]))
    assert not cells.any()


def test_map_is_hot_where_the_score_comes_from_and_cold_where_it_is_held_down() -> None:
    pixels = np.zeros((96, 96, 3), dtype=np.uint8)
    pixels[16:32, 64:80] = 255
    ask = brightness_of(slice(16, 32), slice(64, 80))
    cells = map_importance(pixels, 1.0, ask)
    rows, columns = np.nonzero(cells > cells.max() / 2)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(2, 8), (2, 9), (3, 8), (3, 9)}
    assert (cells >= 0).all()
    dark = map_importance(255 - pixels, 0.0, ask)
    assert np.unravel_index(dark.argmin(), dark.shape) in {(2, 8), (2, 9), (3, 8), (3, 9)}
    assert (dark <= 0).all()


def test_picture_of_a_map_has_its_colours_where_the_map_is_hot_and_its_notice() -> None:
    cells = np.zeros((CELLS, CELLS))
    cells[2, 2], cells[9, 9] = 0.4, -0.2
    heat_map = HeatMap("metastatic", 0.9, cells, np.full((96, 96, 3), 128, dtype=np.uint8))
    assert heat_map.limit == 0.4
    with Image.open(io.BytesIO(draw_heat_map(heat_map, NOTICE))) as picture:
        assert (picture.format, picture.width) == ("PNG", 384)
        assert picture.info["Comment"] == NOTICE
        hot, cold, other = (picture.getpixel((x, x)) for x in (80, 304, 190))
    assert hot[0] > hot[1] > hot[2]
    assert cold[2] > cold[0] > cold[1]
    assert other == (128, 128, 128)
    assert FOR != AGAINST


def test_map_without_any_change_is_drawn_too() -> None:
    heat_map = HeatMap("metastatic", 0.9, np.zeros((1, 1)), np.zeros((1, 3, 3), dtype=np.uint8))
    with Image.open(io.BytesIO(draw_heat_map(heat_map, NOTICE))) as picture:
        assert picture.getpixel((5, 5)) == (0, 0, 0)
