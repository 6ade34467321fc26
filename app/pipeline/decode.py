"""From bytes to an RGB picture, by a written rule; anything else is refused before a pixel is decoded.

The rule (`get_started/images.md` says it for callers; the answer's `input.conversions` says what was applied):

- PNG, JPEG, TIFF, BMP and WebP, told by content. One frame. Size within the limits, checked on the header.
- EXIF orientation is applied. ICC profiles are ignored.
- Grey is repeated into R, G and B. Palettes are looked up. CMYK and YCbCr are converted by Pillow's formulas.
- 16-bit samples are scaled to 8 bits. 32-bit and floating-point samples are refused: their range is not defined.
- Transparency is composited over white, the colour of empty glass.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from app.errors import BadRequestError, DamagedImageError, UnsupportedImageError, UnsupportedMediaError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
ACCEPTED = "PNG, JPEG, TIFF, BMP or WebP"
# The first bytes of each format: a file that starts so and cannot be opened is damaged, not foreign.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM", b"RIFF")
# What Pillow's decoders raise on broken files; found by cutting and flipping bytes (tests/pipeline/test_decode.py).
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
ORIENTATION_TAG = 0x0112  # Exif 2.32, table 4
BITS_PER_SAMPLE_TAG = 258  # TIFF 6.0, section 8
PNG_BIT_DEPTH_OFFSET = 24  # PNG, IHDR: signature 8, length 4, type 4, width 4, height 4
# Our own limits stand before Pillow's, which would warn rather than refuse.
Image.MAX_IMAGE_PIXELS = None


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
        format: PNG, JPEG, TIFF, BMP or WEBP.
        mode: the file's own pixel mode, in Pillow's names.
        conversions: what was done to reach RGB, in order; empty for plain 8-bit RGB.
    """

    pixels: Image.Image
    format: str
    mode: str
    conversions: tuple[str, ...]


def decode(body: bytes, limits: ImageLimits) -> DecodedImage:
    """Decode one picture.

    Args:
        body: the file.
        limits: checked on the header, before any pixel is decoded.

    Raises:
        BadRequestError: the body is empty.
        UnsupportedMediaError: not a picture, or of another format.
        UnsupportedImageError: too large, several frames, or samples without a defined range.
        DamagedImageError: truncated or damaged.
    """
    if not body:
        raise BadRequestError("The body is empty; send one picture.")
    check_webp(body, limits)
    try:
        # A truncated TIFF directory only warns in Pillow; `load` below raises where pixels are missing.
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            limits.check(*image.size)
            check_frames(image)
            check_png(image, body)
            image.load()
            return to_rgb(image, body)
    except UnidentifiedImageError:
        if body.startswith(SIGNATURES) and not (body.startswith(b"RIFF") and body[8:12] != b"WEBP"):
            raise DamagedImageError("The picture is damaged: its header cannot be read.") from None
        raise UnsupportedMediaError(f"The body is not a {ACCEPTED} picture.") from None
    except DAMAGE as error:
        raise DamagedImageError("The picture is truncated or damaged.") from error


def check_webp(body: bytes, limits: ImageLimits) -> None:
    """Refuse an oversized or animated WebP by its header: Pillow allocates the whole canvas on opening one."""
    if body[:4] != b"RIFF" or body[8:12] != b"WEBP" or len(body) < 30:
        return
    kind = body[12:16]
    if kind == b"VP8X":
        limits.check(1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little"))
        if body[20] & 0x02:
            raise several_frames()
    elif kind == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        limits.check(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[26:30])
        limits.check(width & 0x3FFF, height & 0x3FFF)


def check_frames(image: Image.Image) -> None:
    """Refuse animations and multi-page files; of a phone's multi-picture JPEG (MPO) the first, main one is taken."""
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise several_frames()


def several_frames() -> UnsupportedImageError:
    """Make the error for a file of several frames."""
    return UnsupportedImageError("The file holds several frames or pages; send one picture.")


def check_png(image: Image.Image, body: bytes) -> None:
    """Check a PNG's checksums: Pillow skips those of the pixel data, and would return other pixels."""
    if image.format == "PNG":
        with Image.open(io.BytesIO(body), formats=("PNG",)) as copy:
            copy.verify()


def to_rgb(image: Image.Image, body: bytes) -> DecodedImage:
    """Turn a loaded picture upright and into RGB, noting each step."""
    mode, conversions = image.mode, []
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    upright = ImageOps.exif_transpose(image) if orientation in range(2, 9) else image
    if upright is not image:
        conversions.append(f"turned upright by EXIF orientation {orientation}")
    if mode.startswith("I;16"):
        upright = scale_16_bit(upright)
        conversions.append("16-bit grey scaled to 8-bit RGB")
    elif mode in ("I", "F"):
        raise UnsupportedImageError("32-bit and floating-point samples are not taken: their range is not defined.")
    elif bits_per_sample(image, body) == 16:
        conversions.append("16-bit samples scaled to 8-bit")
    if upright.has_transparency_data or upright.mode in ("La", "RGBa"):
        upright = composite_over_white(upright)
        conversions.append(f"{mode} composited over white")
    elif upright.mode != "RGB":
        upright = upright.convert("RGB")
        conversions.append(f"{mode} converted to RGB")
    name = "JPEG" if image.format == "MPO" else str(image.format)
    return DecodedImage(upright, name, mode, tuple(conversions))


def scale_16_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8-bit RGB: 65535 becomes 255, not cut."""
    samples = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def bits_per_sample(image: Image.Image, body: bytes) -> int:
    """Bits of one sample as the file stores it; Pillow itself brings 16-bit RGB to 8."""
    if image.format == "PNG":
        return body[PNG_BIT_DEPTH_OFFSET]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(BITS_PER_SAMPLE_TAG, (8,))))  # type: ignore[attr-defined]  # TIFF only
    return 8


def composite_over_white(image: Image.Image) -> Image.Image:
    """Lay a picture with transparency over white."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
