"""What `decode` asks of a format. The answers here suit a plain format: 8-bit samples, one frame, EXIF orientation."""

import re
import struct
import zlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFile

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import SampleKind

DAMAGE = (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, KeyError, TypeError, zlib.error)
"""Errors that Pillow and the formats raise for broken files. Tests that cut files and flip bytes meet the first four;
the others stand in the source of Pillow's readers."""
BROKEN_HEADER = "The picture's header is damaged."
SEVERAL_FRAMES = "The file holds several frames or pages; send one picture."
NOT_TAKEN = "This kind of picture is not taken: {}. Export it as 8-bit RGB, in PNG or TIFF."
LONG = "The {} is damaged: its pixel data go on behind the size that its header says; send the original file."
REST_SHARE, REST_BYTES = 32, 64
"""So much of the pixel data may lie behind the last pixel, since some programs leave a rest: a 32nd, or 64 bytes."""
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
    """A file format. `decode` makes an object for each file, and calls its methods in the order in which they stand.

    Each method may raise an error of `DAMAGE` for a broken file, and `UnsupportedImageError` or `DamagedImageError` to
    refuse it. A new format is one file with a subclass and one entry in `decode.FORMATS`. Pillow and answers know it by
    its `name` in capitals; `signature` matches the first bytes of each of its files, and of no other format.
    """

    name: ClassVar[str]
    signature: ClassVar[re.Pattern[bytes]]

    def check_file(self, body: bytes, limits: ImageLimits) -> bytes:
        """Check what Pillow skips, and what costs too much once Pillow opens the file; return what Pillow reads."""
        return body

    def refuse_rare_kind(self, body: bytes) -> None:
        """Raise `UnsupportedImageError`, with the kind's name, if Pillow cannot open a file whose header is sound."""

    def read_size(self, body: bytes) -> tuple[int, int] | None:
        """Return width and height in pixels if Pillow takes memory for them once it opens the file; None if not."""
        return None

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Check an opened file before its pixels are decoded; `decode` has checked its size."""
        if getattr(image, "is_animated", False):
            raise UnsupportedImageError(SEVERAL_FRAMES)

    def reduce_scale(self, image: ImageFile.ImageFile, min_size: tuple[int, int]) -> int:
        """Prepare decoding at a reduced scale that keeps `min_size`; return what divides each side, 1 for full size."""
        return 1

    def load(self, image: ImageFile.ImageFile, body: bytes, follows_metadata: bool) -> tuple[Image.Image, int]:
        """Decode and check the pixels, and turn them upright if metadata count; also return the EXIF orientation, or
        `UPRIGHT`.
        """
        image.load()
        return turn_upright(image, follows_metadata)

    def read_warnings(self, image: ImageFile.ImageFile, body: bytes) -> tuple[str, ...]:
        """Return what the file says of its colours that is ignored, besides a profile."""
        return ()

    def read_sample_kind(self, image: ImageFile.ImageFile, body: bytes) -> SampleKind:
        """Return how the file stores its samples."""
        return SampleKind()


def check_palette(image: Image.Image, colours: int) -> None:
    """Raise `DamagedImageError` if a pixel of a loaded palette picture has a colour that is not in its palette."""
    if image.mode == "P" and int(np.asarray(image).max()) >= colours:
        raise DamagedImageError("The picture is damaged: its palette lacks a colour that a pixel has.")


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, whatever its type; `UPRIGHT` if the EXIF block is absent or broken, which spoils no
    picture.
    """
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
        if isinstance(orientation, (bytes, tuple)):  # of type BYTE, or several
            orientation = next(iter(orientation), UPRIGHT)
        return int(orientation) if orientation in TURNS else UPRIGHT
    except DAMAGE:
        return UPRIGHT


def turn_upright(image: Image.Image, follows_metadata: bool) -> tuple[Image.Image, int]:
    """Turn a loaded picture by its EXIF orientation if `follows_metadata`; returns it as `ImageFormat.load` does."""
    orientation = read_orientation(image) if follows_metadata else UPRIGHT
    return turn(image, orientation), orientation


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Return a loaded picture turned upright, and close the one that was given; an upright one comes back as it is."""
    if orientation == UPRIGHT:
        return image
    turned = image.transpose(TURNS[orientation])
    image.close()  # 100 MB for 25 million pixels
    return turned


def describe_samples(
    kind: str, colours: str, samples: int, bits: Sequence[int], number_format: str = "unsigned"
) -> str:
    """Name a kind of file by what its samples are; `bits` are those of each sample, or of all."""
    sizes = "-".join(str(size) for size in bits) if len(set(bits)) > 1 else str(bits[0])
    return f"{kind}, {colours}, {samples} x {sizes} bits, {number_format}"


def count_rest(length: int) -> int:
    """Return how many of so many bytes of pixel data may lie behind the last pixel."""
    return max(length // REST_SHARE, REST_BYTES)
