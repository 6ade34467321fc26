"""From an RGB picture to the array the network was trained on; normalization is folded into the network itself."""

import numpy as np
from PIL import Image

from app.arrays import RGBImage
from app.manifest import InputSpec

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def preprocess(image: Image.Image, spec: InputSpec) -> RGBImage:
    """Bring a picture to the model's size.

    Args:
        image: mode RGB, any size.
        spec: target size and filter. The whole picture is squeezed to the size: nothing is cut off.

    Returns:
        uint8, [height_px, width_px, 3], RGB, 0 to 255.

    Note:
        Pillow's filters antialias when they shrink; OpenCV's and torch's plain ones do not and give other scores.
    """
    size = (spec.width_px, spec.height_px)
    if image.size != size:
        image = image.resize(size, FILTERS[spec.resize])
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(spec.height_px, spec.width_px, 3)
