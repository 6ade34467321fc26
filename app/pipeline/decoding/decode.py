"""From bytes to an RGB picture, by a written rule. What the rule does not take is refused before a pixel is decoded;
some damage shows only while pixels are decoded.

`get_started/images.md` tells the rule to callers, and the answer's `input.conversions` says which steps were applied.
`decode` walks the way once; the format named by the first bytes answers what is its own (`image_format.py`).
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageFile, UnidentifiedImageError

from app.errors import BadRequestError, DamagedImageError, UnsupportedMediaError
from app.pipeline.decoding import bmp, png, webp
from app.pipeline.decoding.colour_profiles import IGNORED, Colours, ProfileError, find_colours
from app.pipeline.decoding.foreign_formats import name_foreign_format
from app.pipeline.decoding.image_format import BROKEN_HEADER, DAMAGE, UPRIGHT, ImageFormat
from app.pipeline.decoding.jpeg import jpeg_format
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import to_rgb
from app.pipeline.decoding.tiff import tiff_format
from app.pipeline.patience import Turn

FORMATS: tuple[type[ImageFormat], ...] = (png.Png, jpeg_format.Jpeg, tiff_format.Tiff, bmp.Bmp, webp.Webp)
ACCEPTED = ", ".join(each.name for each in FORMATS[:-1]) + f" or {FORMATS[-1].name}"
LONG_BYTES = 256 * 1024
"""Shorter files are decoded so quickly that `decode` does not ask meanwhile whether the caller still waits."""
# `ImageLimits` are checked before Pillow's limit, which would only warn.
Image.MAX_IMAGE_PIXELS = None
# The answer says what is wrong with a picture; Pillow need not log it too.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as `warnings.filters` holds it


@dataclass(frozen=True)
class DecodedImage:
    """A picture as understood: `pixels` in mode RGB, upright. `size` is the file's, upright, as `pixels` may be of a
    reduced scale; `mode` is the file's, in Pillow's names. `conversions` led to RGB, in order; plain 8-bit RGB has
    none. `warnings` say what of the file was ignored although it may change the pixels.
    """

    pixels: Image.Image
    size: tuple[int, int]
    format: str
    mode: str
    conversions: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class PatientFile(io.BytesIO):
    """A file in memory that can be read while its caller waits."""

    def __init__(self, body: bytes, turn: Turn) -> None:
        super().__init__(body)
        self._turn = turn

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on; raises `DeadlineError` if the caller no longer waits."""
        self._turn.check()
        return super().read(size)


def decode(
    body: bytes,
    limits: ImageLimits,
    jpeg_min_size: tuple[int, int] | None = None,
    turn: Turn | None = None,
    follows_metadata: bool = True,
) -> DecodedImage:
    """Decode one picture.

    Raises `DeadlineError`, `BadRequestError` for an empty body, `UnsupportedMediaError` for no picture or another
    format, `UnsupportedImageError` (too large, several frames, samples without a range), and `DamagedImageError`.

    Args:
        body: the file.
        limits: checked on the header, before any pixel is decoded.
        jpeg_min_size: width and height that a JPEG keeps at least when it is decoded at a reduced scale; None: never.
        turn: taken before any pixel is decoded, and asked meanwhile whether the caller still waits; None: do neither.
        follows_metadata: whether EXIF orientation and the colour profile are applied; a TIFF is always turned.
    """
    file_format = find_format(body)
    ignore_pillow_warnings()
    try:
        body = file_format.check_file(body, limits)
        is_turn_taken = turn is None or take_early(turn, file_format.read_size(body))
        with open_picture(body, file_format, turn) as image:
            limits.check(*image.size)
            file_format.check_header(image, limits)
            if turn is not None and not is_turn_taken:
                turn.take(*image.size)
            scale = 1 if jpeg_min_size is None else file_format.reduce_scale(image, jpeg_min_size)
            upright, orientation = file_format.load(image, body, follows_metadata)
            if turn is not None:
                turn.check_large()
            colours, warnings = read_colours(image, body, file_format) if follows_metadata else (None, ())
            pixels, steps = to_rgb(upright, file_format.read_sample_kind(image, body), colours)
    except DAMAGE as error:
        raise describe_damage(error) from error
    size, conversions = (pixels.width * scale, pixels.height * scale), (*describe_load(scale, orientation), *steps)
    return DecodedImage(pixels, size, file_format.name.upper(), upright.mode, conversions, warnings)


def open_picture(body: bytes, file_format: ImageFormat, turn: Turn | None) -> ImageFile.ImageFile:
    """Let Pillow read the header. Raises what Pillow raises, and `UnsupportedImageError` for kinds unknown to it."""
    file = io.BytesIO(body) if turn is None or len(body) < LONG_BYTES else PatientFile(body, turn)
    try:
        return Image.open(file, formats=(file_format.name,))
    except UnidentifiedImageError:
        file_format.refuse_rare_kind(body)
        raise


def read_colours(
    image: ImageFile.ImageFile, body: bytes, file_format: ImageFormat
) -> tuple[Colours | None, tuple[str, ...]]:
    """Return the colours of a picture's profile, None for those of sRGB, and warnings of what is ignored."""
    if "icc_profile" not in image.info:
        return None, file_format.read_warnings(image, body)
    try:
        return find_colours(image.info["icc_profile"], image), ()
    except ProfileError as error:
        return None, (IGNORED.format(error),)


def take_early(turn: Turn, size: tuple[int, int] | None) -> bool:
    """Take a turn before Pillow opens the file, if the size is known that it takes memory for; return whether it is."""
    if size is not None:
        turn.take(*size)
    return size is not None


def find_format(body: bytes) -> ImageFormat:
    """Name the format of a file by its first bytes; raises as `decode` does for an empty or foreign body."""
    if not body:
        raise BadRequestError("The body is empty; send one picture.")
    for file_format in FORMATS:
        if file_format.signature.match(body):
            return file_format()
    foreign = name_foreign_format(body)
    if foreign is None:
        raise UnsupportedMediaError(f"The body is not a {ACCEPTED} picture.")
    name, advice = foreign
    raise UnsupportedMediaError(f"The body is {name}, not a {ACCEPTED} picture; {advice}.")


def is_picture(body: bytes) -> bool:
    """Whether a body begins as a file of an accepted format does."""
    return any(each.signature.match(body) for each in FORMATS)


def ignore_pillow_warnings() -> None:
    """Keep Pillow from warning about broken metadata. All threads share the state of `warnings.catch_warnings`. Each
    call looks, because whoever sets filters later, such as a test runner, puts them first.
    """
    if warnings.filters[:1] != [PILLOW_FILTER]:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def describe_damage(error: Exception) -> DamagedImageError:
    """Make the answer to what a broken file raised."""
    if isinstance(error, UnidentifiedImageError):
        return DamagedImageError(BROKEN_HEADER)
    return DamagedImageError("The picture is truncated or damaged.")


def describe_load(scale: int, orientation: int) -> Iterator[str]:
    """Yield the conversions that were applied while the pixels were loaded."""
    if scale != 1:
        yield f"decoded at 1/{scale} of its size"
    if orientation != UPRIGHT:
        yield f"turned upright by EXIF orientation {orientation}"
