"""From a picture to the array that a compiled network takes; the network normalizes it itself."""

import numpy as np
from PIL import Image

from app.arrays import RGBImage
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.decode import DecodedImage, decode
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.patience import Turn

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MAX_LONG_SIDES = 16
"""A picture whose longer side is at least this many shorter sides is not resized as a whole: a line of 16,384 pixels
would become a picture of a billion."""


def read_file(
    body: bytes, spec: InputSpec, limits: ImageLimits, turn: Turn | None = None
) -> tuple[DecodedImage, RGBImage]:
    """Decode a picture's file as a model wants it, and bring it to the model's size; raises as `decode` does. Requests,
    examples and labelled pictures all go this way, so that scores that are compared come from equal pixels.
    """
    image = decode_as(spec, body, limits, turn)
    return image, preprocess(image.pixels, spec)


def decode_as(spec: InputSpec, body: bytes, limits: ImageLimits, turn: Turn | None = None) -> DecodedImage:
    """Decode a picture's file as a model wants it; raises as `decode` does."""
    return decode(body, limits, spec.jpeg_min_size, turn, spec.is_turned)


def preprocess(image: Image.Image, spec: InputSpec) -> RGBImage:
    """Bring an RGB picture to the model's size: uint8, [height_px, width_px, 3], RGB, 0 to 255. With `short_side_px`
    the middle is cut out; without it the whole picture is squeezed. Pillow's filters antialias when they shrink. The
    plain ones of OpenCV and torch do not, and lead to other scores.
    """
    size = (spec.width_px, spec.height_px)
    if spec.short_side_px is not None:
        image = cut_middle(image, size, spec.short_side_px, FILTERS[spec.resize])
    elif image.size != size:
        image = image.resize(size, FILTERS[spec.resize])
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(spec.height_px, spec.width_px, 3)


def cut_middle(
    image: Image.Image, size: tuple[int, int], short_side_px: int, resample: Image.Resampling
) -> Image.Image:
    """Do as torchvision's `Resize(short_side_px)` and `CenterCrop(size)`. The longer side is rounded down, and a margin
    that ends in a half to the even number. `size` is width and height, at most `short_side_px`.
    """
    short, long = sorted(image.size)
    long_px = int(short_side_px * long / short)
    width, height = (short_side_px, long_px) if image.width <= image.height else (long_px, short_side_px)
    left, top = round((width - size[0]) / 2), round((height - size[1]) / 2)
    if long_px < MAX_LONG_SIDES * short_side_px:
        if image.size != (width, height):
            image = image.resize((width, height), resample)
        return image.crop((left, top, left + size[0], top + size[1]))
    x, y = image.width / width, image.height / height
    return image.resize(size, resample, (left * x, top * y, (left + size[0]) * x, (top + size[1]) * y))
