"""Samples become 8-bit RGB: deep grey is scaled, transparency is laid over white, other modes are converted."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.pipeline.decoding.colour_profiles import Colours

STRIP_PIXELS = 1_000_000
"""Converted at a time."""


@dataclass(frozen=True)
class SampleKind:
    """How a file stores its samples. Pillow scales 16-bit colour to 8 bits, and inverts 8-bit grey where 0 means white;
    to 16-bit grey it does neither. `steps` are conversions that were done while the pixels were read.
    """

    bits: int = 8
    is_white_zero: bool = False
    steps: tuple[str, ...] = ()


def to_rgb(image: Image.Image, kind: SampleKind, colours: Colours | None = None) -> tuple[Image.Image, list[str]]:
    """Bring a loaded picture of any mode to 8-bit RGB, from `colours` if they are not sRGB's; also return the steps in
    order, none for plain RGB. A large one is converted in strips: the steps between would take four times its memory.
    """
    width, height = image.size
    if (image.mode == "RGB" and colours is None) or width * height <= STRIP_PIXELS:
        return convert(image, kind, colours)
    rows, rgb = max(1, STRIP_PIXELS // width), Image.new("RGB", image.size)
    for top in range(0, height, rows):
        strip, steps = convert(image.crop((0, top, width, min(top + rows, height))), kind, colours)
        rgb.paste(strip, (0, top))
    return rgb, steps


def convert(image: Image.Image, kind: SampleKind, colours: Colours | None) -> tuple[Image.Image, list[str]]:
    """Do as `to_rgb` at once."""
    mode, steps = image.mode, [*kind.steps]
    if mode.startswith("I;16"):
        image = scale_to_8_bits(image, 2**kind.bits - 1, kind.is_white_zero)
        steps.append(f"{kind.bits}-bit grey scaled to 8-bit RGB")
    elif kind.bits == 16:
        steps.append("16-bit samples scaled to 8-bit")
    if colours is not None:
        image = colours.apply(image)
        steps.append(f"{mode} converted to sRGB by its colour profile")
    if image.has_transparency_data:
        image = composite_over_white(image)
        steps.append(f"{mode} composited over white")
    elif image.mode != "RGB":
        image = image.convert("RGB")
        steps.append(f"{mode} converted to RGB")
    return image, steps


def scale_to_8_bits(image: Image.Image, largest: int, white_is_zero: bool) -> Image.Image:
    """Scale grey, mode I;16 or I;16B, to 8-bit RGB: `largest` becomes 255, smaller values are scaled and rounded."""
    samples = np.asarray(image).astype(np.uint32)
    scaled = (samples * 255 + largest // 2) // largest
    return Image.fromarray((255 - scaled if white_is_zero else scaled).astype(np.uint8)).convert("RGB")


def composite_over_white(image: Image.Image) -> Image.Image:
    """Lay a picture with transparency over white; returns it in mode RGB."""
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
