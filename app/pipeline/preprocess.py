"""From an RGB picture to the array the network was trained on; normalization is folded into the network itself."""

import numpy as np
from PIL import Image

from app.arrays import RGBImage
from app.manifest.model_specs import InputSpec

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


MAX_LONG_SIDES = 16
"""A picture this many times as long as it is wide, or longer, is not resized as a whole: a line of 16,384 pixels would
become one of a billion."""


def preprocess(image: Image.Image, spec: InputSpec) -> RGBImage:
    """Bring a picture to the model's size.

    Args:
        image: mode RGB, any size.
        spec: target size and filter. The whole picture is squeezed to the size, and nothing is cut off, unless there is
            a length for the shorter side.

    Returns:
        uint8, [height_px, width_px, 3], RGB, 0 to 255.

    Note:
        Pillow's filters antialias when they shrink; OpenCV's and torch's plain ones do not and give other scores.
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
    """Resize a picture by its shorter side and cut out its middle, by the rules of torchvision's transforms.

    They are `Resize(short_side_px)` and `CenterCrop(size)`: the longer side is rounded down, the margins to the nearest
    even number where they are a half.

    Args:
        image: mode RGB, any size.
        size: width and height of the result; at most `short_side_px`.
        short_side_px: what the shorter side becomes.
        resample: the filter.
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
