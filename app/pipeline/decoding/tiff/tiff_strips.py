"""Checks where a TIFF says that its strips or tiles lie, as no decoder does: each has data of its own, none is left."""

import numpy as np
from numpy.typing import NDArray

from app.errors import DamagedImageError
from app.pipeline.decoding.image_format import LONG, count_rest
from app.pipeline.decoding.tiff import tiff_kinds as tag
from app.pipeline.decoding.tiff.tiff_directory import SIZES, Directory

STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 278, 279, 324, 325
HEADER_BYTES, RAW, SEPARATE, YCBCR = 8, 1, 2, 6
SHARED = (
    "The TIFF is damaged: the places of its strips or tiles overlap each other, or the file's own tables; send the "
    "original file."
)


def check_strips(directory: Directory) -> None:
    """Raise `DamagedImageError` for strips or tiles of one place, of a place where none can be, and for more of them
    than the size needs. Raises `ValueError` for a table that lies behind the file's end.
    """
    width, length = directory.number(tag.WIDTH), directory.number(tag.LENGTH)
    is_tiled, planes = TILE_OFFSETS in directory.fields, count_planes(directory)
    offsets = TILE_OFFSETS if is_tiled else STRIP_OFFSETS
    across, down = directory.number(tag.TILE_WIDTH, width), directory.number(tag.TILE_LENGTH, length)
    if not is_tiled:
        across, down = width, min(directory.number(ROWS_PER_STRIP, length), length)
    if min(width, length, across, down) < 1 or directory.fields.get(offsets, (0,))[0] not in SIZES:
        return  # Pillow and libtiff refuse it
    needed = -(-width // across) * -(-length // down) * planes
    if directory.count(offsets) > needed:
        raise DamagedImageError(LONG.format("TIFF"))
    starts = np.sort(read_array(directory, offsets))
    ends = starts + 1
    if directory.number(tag.COMPRESSION, RAW) == RAW and not is_tiled and directory.number(tag.PHOTOMETRIC) != YCBCR:
        ends = check_raw_strips(directory, starts, planes)
    at = directory.at
    is_shared = bool((starts[1:] < ends[:-1]).any()) or bool(((starts < at[1]) & (ends > at[0])).any())
    if is_shared or int(starts[0]) < HEADER_BYTES:
        raise DamagedImageError(SHARED)


def count_planes(directory: Directory) -> int:
    """Return how many planes the strips or tiles hold, one after the other."""
    return directory.number(tag.SAMPLES, 1) if directory.number(tag.PLANAR) == SEPARATE else 1


def check_raw_strips(directory: Directory, starts: NDArray[np.int64], planes: int) -> NDArray[np.int64]:
    """Return where uncompressed strips end at the earliest; raises `DamagedImageError` if a lone one goes on."""
    length, bits = directory.number(tag.LENGTH), directory.numbers(tag.BITS_PER_SAMPLE, (1,))
    samples = 1 if planes > 1 else directory.number(tag.SAMPLES, 1)
    row = (directory.number(tag.WIDTH) * bits[0] * samples + 7) // 8
    rows = min(directory.number(ROWS_PER_STRIP, length), length)
    last = length - (length - 1) // rows * rows  # the rows of the last strip of a plane
    said = directory.number(STRIP_BYTES)
    goes_on = said - row * length >= max(row, count_rest(row * length))
    if len(starts) == 1 and goes_on and int(starts[0]) + said <= len(directory.body):
        raise DamagedImageError(LONG.format("TIFF"))
    return starts + row * min(rows, last)


def read_array(directory: Directory, wanted: int) -> NDArray[np.int64]:
    """Return all numbers of a tag."""
    kind, values, at = directory.fields[wanted]
    numbers = np.frombuffer(directory.body, np.dtype(f"{directory.order}u{SIZES[kind]}"), values, at)
    return numbers.clip(0, np.iinfo(np.int64).max // 2).astype(np.int64)
