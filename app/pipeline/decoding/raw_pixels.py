"""Pictures that arrive as arrays of numbers instead of files."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.arrays import InputBatch, RGBImage
from app.errors import BadRequestError
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.decode import DecodedImage
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.patience import Turn

PIXEL_TOLERANCE = 0.1
"""How far a denormalized value may lie from a whole pixel, on the scale 0 to 255. Rounding in float32 moves a value by
less than 1e-4. Another normalization, or a picture resized in floating point, moves it by up to 0.5."""


def wrap_pixels(pixels: RGBImage, limits: ImageLimits, turn: Turn) -> DecodedImage:
    """Treat uint8 [H, W, 3], RGB, 0 to 255, as a decoded picture. Raises `UnsupportedImageError` over the limits,
    `DeadlineError` if a large picture waits too long for its turn.
    """
    height_px, width_px, _ = pixels.shape
    limits.check(width_px, height_px)
    turn.take(width_px, height_px)
    return DecodedImage(Image.fromarray(pixels), (width_px, height_px), "raw", "RGB", ())


def denormalize(values: NDArray[np.float32], spec: InputSpec) -> InputBatch:
    """Turn float32 [..., 3], (pixel - mean) / std, in the network's channel order, into uint8, RGB, 0 to 255.

    Raises `BadRequestError` if a value comes from no whole pixel, or the model cuts its input out of whole pictures.
    """
    if spec.short_side_px is not None:
        raise BadRequestError("This model takes whole pictures, as UINT8 or BYTES; FP32 values are not taken.")
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values * np.array(spec.std, dtype=np.float32) + np.array(spec.mean, dtype=np.float32)
        pixels = np.rint(scaled)
        # Every comparison with NaN is false.
        is_sound = (abs(scaled - pixels) <= PIXEL_TOLERANCE) & (pixels >= 0) & (pixels <= 255)
    if not is_sound.all():
        raise BadRequestError(
            f"FP32 values must be (pixel - mean) / std of whole pixels, 0 to 255, within {PIXEL_TOLERANCE} of a pixel, "
            f"in the order {spec.channel_order}, with mean {list(spec.mean)} and std {list(spec.std)}; "
            "send other pictures as UINT8 or BYTES."
        )
    whole = pixels.astype(np.uint8)
    return np.ascontiguousarray(whole[..., ::-1]) if spec.channel_order == "BGR" else whole
