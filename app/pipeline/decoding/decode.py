"""From bytes to an RGB picture, by a written rule; anything else is refused before a pixel is decoded.

The rule (`get_started/images.md` says it for callers; the answer's `input.conversions` says what was applied):

- PNG, JPEG, TIFF, BMP and WebP, told by content. One frame. Size within the limits, checked on the header.
- EXIF orientation is applied. ICC profiles are ignored.
- Grey is repeated into R, G and B. Palettes are looked up. CMYK, YCbCr and LAB are converted by Pillow's formulas.
- 16-bit samples are scaled to 8 bits: grey by rounding, colour by its high byte. Signed, 32-bit and floating-point
  samples are refused: their range is not defined.
- Transparency is composited over white, the colour of empty glass.
- A JPEG much larger than the model's input is decoded at a reduced scale where the model's manifest allows it.
"""

import io
import logging
import re
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL import WebPImagePlugin as _WebPImagePlugin  # noqa: F401  # else Pillow imports all of its 40 formats

from app.errors import BadRequestError, DamagedImageError, UnsupportedImageError, UnsupportedMediaError
from app.pipeline.decoding import samples
from app.pipeline.decoding.integrity import (
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    PNG_SIZE_OFFSET,
    check_jpeg,
    check_png,
    check_png_rows,
)
from app.pipeline.patience import Turn

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
ACCEPTED = "PNG, JPEG, TIFF, BMP or WebP"
# How each format begins; for BMP also the lengths that its second header may have.
SIGNATURE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)
# What broken files raise in Pillow and here. The first four were met by cutting and flipping bytes
# (tests/pipeline/test_decode.py); the others stand in the source of Pillow's readers.
DAMAGE = (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, KeyError, TypeError, zlib.error)
ORIENTATION_TAG = 0x0112  # Exif 2.32, table 4; there too, what turns a picture of each orientation upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UPRIGHT, SIDEWAYS = 1, (5, 6, 7, 8)
JPEG_SCALES = (8, 4, 2)
LONG_BYTES = 256 * 1024
"""Shorter files are decoded so quickly that nobody need ask meanwhile whether their caller still waits."""
TILE_WIDTH_TAG, TILE_LENGTH_TAG, SAMPLE_FORMAT_TAG = 322, 323, 339  # TIFF 6.0, sections 15 and 19
UNSIGNED = 1
# Our own limits stand before Pillow's, which would warn rather than refuse.
Image.MAX_IMAGE_PIXELS = None
# Pillow's own reader of uncompressed TIFFs leaves missing strips black, and takes 300 MB for a 1 MB table of strips.
TiffImagePlugin.READ_LIBTIFF = True
# The answer says what is wrong with a picture; Pillow need not log it too.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as `warnings.filters` holds it


@dataclass(frozen=True)
class ImageLimits:
    """The largest picture that is taken."""

    max_pixels: int
    max_side_px: int

    def check(self, width_px: int, height_px: int) -> None:
        """Raise `UnsupportedImageError` for a picture over the limits."""
        if width_px * height_px > self.max_pixels or max(width_px, height_px) > self.max_side_px:
            raise UnsupportedImageError(
                f"The picture has {width_px} x {height_px} pixels; at most {self.max_pixels} in all and "
                f"{self.max_side_px} on a side are taken."
            )


@dataclass(frozen=True)
class DecodedImage:
    """A picture as understood.

    Attributes:
        pixels: in mode RGB, upright.
        size: width and height of the file's picture, upright; `pixels` may be of a reduced scale.
        format: PNG, JPEG, TIFF, BMP or WEBP.
        mode: the file's own pixel mode, in Pillow's names.
        conversions: what was done to reach RGB, in order; empty for plain 8-bit RGB.
    """

    pixels: Image.Image
    size: tuple[int, int]
    format: str
    mode: str
    conversions: tuple[str, ...]


class PatientFile(io.BytesIO):
    """A file in memory that is read for as long as its caller waits."""

    def __init__(self, body: bytes, turn: Turn) -> None:
        super().__init__(body)
        self._turn = turn

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on, or raise `DeadlineError`."""
        self._turn.check()
        return super().read(size)


def decode(
    body: bytes,
    limits: ImageLimits,
    jpeg_min_size: tuple[int, int] | None = None,
    turn: Turn | None = None,
    is_turned: bool = True,
) -> DecodedImage:
    """Decode one picture.

    Args:
        body: the file.
        limits: checked on the header, before any pixel is decoded.
        jpeg_min_size: width and height that a JPEG must keep where it is decoded at a reduced scale; None: never.
        turn: taken before any pixel is decoded, and asked meanwhile whether the caller still waits; None: nobody else
            decodes, and nobody waits.
        is_turned: whether the orientation that EXIF tells is applied.

    Raises:
        DeadlineError: the caller waits no longer.
        BadRequestError: the body is empty.
        UnsupportedMediaError: not a picture, or of another format.
        UnsupportedImageError: too large, several frames, or samples without a defined range.
        DamagedImageError: truncated or damaged.
    """
    if not body:
        raise BadRequestError("The body is empty; send one picture.")
    if not SIGNATURE.match(body):
        raise UnsupportedMediaError(f"The body is not a {ACCEPTED} picture.")
    ignore_pillow_warnings()
    try:
        check_body(body, limits)
        file = io.BytesIO(body) if turn is None or len(body) < LONG_BYTES else PatientFile(body, turn)
        with Image.open(file, formats=FORMATS) as image:
            check_header(image, limits)
            if turn is not None:
                turn.take(*image.size)
            scale = reduce_scale(image, jpeg_min_size)
            upright, orientation = load(image, is_turned)
            if image.format == "PNG":
                check_png_rows(image, body)
            return to_rgb(upright, image, samples.bits_per_sample(image, body), orientation, scale)
    except UnidentifiedImageError as error:
        raise DamagedImageError("The picture's header is damaged, or of a kind that is not taken.") from error
    except DAMAGE as error:
        raise DamagedImageError("The picture is truncated or damaged.") from error


def ignore_pillow_warnings() -> None:
    """Keep Pillow from warning of broken metadata that it can do without.

    `warnings.catch_warnings` would not do, since threads share it. Looked at on every call: whoever sets filters later,
    a test runner for one, comes before this one.
    """
    if warnings.filters[:1] != [PILLOW_FILTER]:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def check_body(body: bytes, limits: ImageLimits) -> None:
    """Check what Pillow skips, or pays dearly for when it opens the file."""
    if body.startswith(PNG_SIGNATURE):
        limits.check(*struct.unpack_from(">II", body, PNG_SIZE_OFFSET))
        check_png(body)
    elif body.startswith(JPEG_SIGNATURE):
        check_jpeg(body)
    elif body.startswith(b"RIFF"):
        check_webp(body[:30].ljust(30, b"\0"), limits)


def check_webp(header: bytes, limits: ImageLimits) -> None:
    """Refuse an oversized or animated WebP: Pillow allocates the whole canvas on opening one."""
    kind = header[8:16]
    if kind == b"WEBPVP8X":
        limits.check(1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little"))
        if header[20] & 0x02:
            raise several_frames()
    elif kind == b"WEBPVP8L":
        bits = int.from_bytes(header[21:25], "little")
        limits.check(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", header, 26)
        limits.check(width & 0x3FFF, height & 0x3FFF)


def check_header(image: ImageFile.ImageFile, limits: ImageLimits) -> None:
    """Refuse an opened file by its header: its size, frames, samples, or what it would cost.

    Of a phone's multi-picture JPEG (MPO) the first, main picture is taken.
    """
    limits.check(*image.size)
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise several_frames()
    signed = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        limits.check(int(image.tag_v2.get(TILE_WIDTH_TAG, 1)), int(image.tag_v2.get(TILE_LENGTH_TAG, 1)))
        signed = max(image.tag_v2.get(SAMPLE_FORMAT_TAG, (UNSIGNED,))) != UNSIGNED
    if image.mode in ("I", "F") or signed:
        raise UnsupportedImageError(
            "Signed, 32-bit and floating-point samples are not taken: their range is not defined."
        )
    if image.mode in ("P", "PA") and image.palette is None:
        raise DamagedImageError("The picture is damaged: it has no palette.")
    if image.tile and image.tile[0].codec_name == "bmp_rle":  # Pillow takes 0.25 s a megabyte for it
        raise UnsupportedImageError("Run-length encoded BMP files are not taken.")


def several_frames() -> UnsupportedImageError:
    """Make the error for a file of several frames."""
    return UnsupportedImageError("The file holds several frames or pages; send one picture.")


def reduce_scale(image: ImageFile.ImageFile, min_size: tuple[int, int] | None) -> int:
    """Have a JPEG decoded at a half, a quarter or an eighth where it divides evenly and stays large enough.

    The inverse transform of a JPEG's blocks can give fewer pixels for a fraction of the time; they are the means of
    those left out, but for rounding.

    Returns:
        By how much each side was divided.
    """
    if min_size is None or image.format not in ("JPEG", "MPO"):
        return 1
    if read_orientation(image) in SIDEWAYS:
        min_size = min_size[::-1]
    sides = list(zip(image.size, min_size, strict=True))
    for scale in JPEG_SCALES:
        if all(side % scale == 0 and side // scale >= least for side, least in sides):
            image.draft(None, (image.width // scale, image.height // scale))
            return scale
    return 1


def load(image: ImageFile.ImageFile, is_turned: bool) -> tuple[Image.Image, int]:
    """Decode the pixels; return them upright, if they are to be turned, and the orientation they were turned from."""
    if image.format == "TIFF":  # Pillow turns these itself, and forgets that it did
        orientation = read_orientation(image)
        image.load()
        return image, orientation
    image.load()
    orientation = read_orientation(image) if is_turned else UPRIGHT
    return (image if orientation == UPRIGHT else image.transpose(TURNS[orientation])), orientation


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; a broken EXIF block says nothing of it, and does not make a picture unfit."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
        return int(orientation) if orientation in TURNS else UPRIGHT
    except DAMAGE:
        return UPRIGHT


def to_rgb(upright: Image.Image, image: Image.Image, bits: int, orientation: int, scale: int) -> DecodedImage:
    """Bring an upright picture to RGB, noting each step.

    Args:
        upright: the pixels.
        image: the file they are from.
        bits: bits of one sample, as the file stores it.
        orientation: the one the pixels were turned from.
        scale: by which each side was divided.
    """
    mode, conversions = image.mode, []
    if scale != 1:
        conversions.append(f"decoded at 1/{scale} of its size")
    if orientation != UPRIGHT:
        conversions.append(f"turned upright by EXIF orientation {orientation}")
    samples.scale_colour_key(upright, bits)
    if mode.startswith("I;16"):
        upright = samples.scale_to_8_bits(upright, 2**bits - 1, samples.is_white_zero(image))
        conversions.append(f"{bits}-bit grey scaled to 8-bit RGB")
    elif bits == 16:
        conversions.append("16-bit samples scaled to 8-bit")
    if upright.has_transparency_data:
        upright = samples.composite_over_white(upright)
        conversions.append(f"{mode} composited over white")
    elif upright.mode != "RGB":
        upright = upright.convert("RGB")
        conversions.append(f"{mode} converted to RGB")
    name = "JPEG" if image.format == "MPO" else str(image.format)
    size = (upright.width * scale, upright.height * scale)
    return DecodedImage(upright, size, name, mode, tuple(conversions))
