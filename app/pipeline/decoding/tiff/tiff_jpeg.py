"""Checks the JPEGs in a TIFF, one a strip or tile: libtiff, too, fills up what is missing with grey."""

import io

from PIL import Image

from app.errors import UnsupportedImageError
from app.pipeline.decoding.jpeg.jpeg_scans import check_scans, load_scans
from app.pipeline.decoding.jpeg.jpeg_segments import read_structure
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.tiff.tiff_directory import Directory
from app.pipeline.decoding.tiff.tiff_kinds import COMPRESSION
from app.pipeline.decoding.tiff.tiff_strips import STRIP_BYTES, STRIP_OFFSETS, TILE_BYTES, TILE_OFFSETS, read_array

JPEG, TABLES, START_BYTES, SCALE = 7, 347, 2, 8
MAX_JPEGS = 8192  # 0.1 ms each; tiles have 240 pixels on a side or more, strips 8 rows or more


def check_jpegs(directory: Directory, limits: ImageLimits) -> None:
    """Decode each strip or tile at an eighth of its size, which takes a part of the time. Raises as `load_scans`, and
    `UnsupportedImageError` for too many or too large ones.
    """
    if directory.number(COMPRESSION) != JPEG:
        return
    is_tiled = TILE_OFFSETS in directory.fields
    starts = read_array(directory, TILE_OFFSETS if is_tiled else STRIP_OFFSETS).tolist()
    lengths = read_array(directory, TILE_BYTES if is_tiled else STRIP_BYTES).tolist()
    if len(starts) > MAX_JPEGS:
        raise UnsupportedImageError(f"The TIFF has more than {MAX_JPEGS} JPEGs, one a strip or tile; export it as PNG.")
    tables = directory.text(TABLES)[:-START_BYTES]  # without the marker of its end, which would be the picture's
    for start, length in zip(starts, lengths, strict=True):
        data = directory.body[start : start + length]
        body = tables + data[START_BYTES:] if tables else data
        structure = read_structure(body)
        limits.check(structure.frame.width, structure.frame.height, "A JPEG in the TIFF")
        check_scans(body, structure)
        with Image.open(io.BytesIO(body), formats=("JPEG",)) as image:
            image.draft(None, (image.width // SCALE, image.height // SCALE))
            load_scans(image, body, structure)
