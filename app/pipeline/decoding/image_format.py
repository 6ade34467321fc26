"""What `decode` asks of a format. The answers here suit a plain format: 8-bit samples, one frame, EXIF orientation."""

import re
import struct
import zlib
from typing import ClassVar

from PIL import Image, ImageFile

from app.errors import UnsupportedImageError
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import SampleKind

DAMAGE = (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, KeyError, TypeError, zlib.error)
"""Errors that Pillow and the formats raise for broken files. Tests that cut files and flip bytes meet the first four;
the others stand in the source of Pillow's readers."""
SEVERAL_FRAMES = "The file holds several frames or pages; send one picture."
ORIENTATION_TAG = 0x0112  # Exif 2.32, table 4
UPRIGHT, SIDEWAYS = 1, (5, 6, 7, 8)
# Exif 2.32, table 4: the turn that brings a picture of each orientation upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFormat:
    """A file format. `decode` calls the methods in the order in which they stand here.

    Each method may raise an error of `DAMAGE` for a broken file, and `UnsupportedImageError` or `DamagedImageError` to
    refuse it. A new format is one file with a subclass and one entry in `decode.FORMATS`. Pillow and answers know it by
    its `name` in capitals; `signature` matches the first bytes of each of its files, and of no other format.
    """

    name: ClassVar[str]
    signature: ClassVar[re.Pattern[bytes]]

    def check_file(self, body: bytes, limits: ImageLimits) -> None:
        """Check what Pillow skips, and what costs too much once Pillow opens the file."""

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Check an opened file before its pixels are decoded; `decode` has checked its size."""
        if getattr(image, "is_animated", False):
            raise UnsupportedImageError(SEVERAL_FRAMES)

    def reduce_scale(self, image: ImageFile.ImageFile, min_size: tuple[int, int]) -> int:
        """Prepare decoding at a reduced scale that keeps `min_size`; return what divides each side, 1 for full size."""
        return 1

    def load(self, image: ImageFile.ImageFile, body: bytes, is_turned: bool) -> tuple[Image.Image, int]:
        """Decode and check the pixels, and turn them if `is_turned`; also return the EXIF orientation, or `UPRIGHT`."""
        image.load()
        return turn_upright(image, is_turned)

    def read_sample_kind(self, image: ImageFile.ImageFile, body: bytes) -> SampleKind:
        """Return how the file stores its samples."""
        return SampleKind()


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; `UPRIGHT` if the EXIF block is absent or broken, which spoils no picture."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
        return int(orientation) if orientation in TURNS else UPRIGHT
    except DAMAGE:
        return UPRIGHT


def turn_upright(image: Image.Image, is_turned: bool) -> tuple[Image.Image, int]:
    """Turn a loaded picture by its EXIF orientation if `is_turned`; returns it as `ImageFormat.load` does."""
    orientation = read_orientation(image) if is_turned else UPRIGHT
    return (image if orientation == UPRIGHT else image.transpose(TURNS[orientation])), orientation
