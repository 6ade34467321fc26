"""What may happen to a picture on its way without making it another kind."""

import io
from collections.abc import Callable
from functools import partial

from PIL import Image

from app.manifest.model_specs import InputSpec

Change = Callable[[Image.Image], Image.Image]


def keep(image: Image.Image) -> Image.Image:
    """Leave a picture as it is."""
    return image


def turn(image: Image.Image) -> Image.Image:
    """Turn a picture by a quarter."""
    return image.transpose(Image.Transpose.ROTATE_90)


def compress(image: Image.Image) -> Image.Image:
    """Send a picture through JPEG at quality 60."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def scale(image: Image.Image, factor: float) -> Image.Image:
    """Resize a picture."""
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def list_changes(spec: InputSpec) -> dict[str, Change]:
    """Return the changes by name; where a pixel has a size in micrometres, a resized picture is another kind."""
    changes: dict[str, Change] = {"as they are": keep, "turned": turn, "as JPEG 60": compress}
    if spec.um_per_px is None:
        changes |= {"at 0.7 of their size": partial(scale, factor=0.7), "twice as large": partial(scale, factor=2.0)}
    return changes
