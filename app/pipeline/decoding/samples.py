"""Samples of pictures: how many bits they have, and how grey, colour and transparency become 8-bit RGB."""

import numpy as np
from PIL import Image, TiffImagePlugin

from app.errors import UnsupportedImageError
from app.pipeline.decoding.integrity import PNG_BIT_DEPTH_OFFSET

BITS_PER_SAMPLE_TAG, PHOTOMETRIC_TAG = 258, 262  # TIFF 6.0, section 8
WHITE_IS_ZERO = 0


def bits_per_sample(image: Image.Image, body: bytes) -> int:
    """Bits of one sample as the file stores it; Pillow itself brings 16-bit RGB to 8."""
    if image.format == "PNG":
        return body[PNG_BIT_DEPTH_OFFSET]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(BITS_PER_SAMPLE_TAG, (8,))))
    return 8


def is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white: Pillow turns 8-bit grey of this kind round, but not 16-bit grey."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    return bool(image.tag_v2.get(PHOTOMETRIC_TAG, WHITE_IS_ZERO) == WHITE_IS_ZERO)


def scale_colour_key(image: Image.Image, bits: int) -> None:
    """Scale a PNG's transparent grey as Pillow scales the pixels, which it then compares with it."""
    key = image.info.get("transparency")
    if image.mode == "L" and key is not None:
        image.info["transparency"] = key * 255 // (2**bits - 1)
    elif bits == 16 and key is not None:
        raise UnsupportedImageError("16-bit samples with a transparent colour are not taken; send an alpha channel.")


def scale_to_8_bits(image: Image.Image, largest: int, white_is_zero: bool) -> Image.Image:
    """Scale grey to 8-bit RGB: the largest value becomes 255; it is not cut."""
    samples = np.asarray(image).astype(np.uint32)
    scaled = (samples * 255 + largest // 2) // largest
    return Image.fromarray((255 - scaled if white_is_zero else scaled).astype(np.uint8)).convert("RGB")


def composite_over_white(image: Image.Image) -> Image.Image:
    """Lay a picture with transparency over white."""
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
