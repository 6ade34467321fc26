"""Pictures that come as numbers rather than as files."""

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
"""How far a normalized value may be from one that a whole pixel gives, on the scale 0 to 255. Rounding in float32 moves
it by less than 1e-4; another normalization, or a picture resized in floating point, misses by up to a half."""


def wrap_pixels(pixels: RGBImage, limits: ImageLimits, turn: Turn) -> DecodedImage:
    """Take pixels for a decoded picture.

    Args:
        pixels: uint8, [H, W, 3], RGB, 0 to 255, of any size.
        limits: as for files.
        turn: taken before the pixels are copied.

    Raises:
        UnsupportedImageError: over the limits.
        DeadlineError: the caller waits no longer.
    """
    height_px, width_px, _ = pixels.shape
    limits.check(width_px, height_px)
    turn.take(width_px, height_px)
    return DecodedImage(Image.fromarray(pixels), (width_px, height_px), "raw", "RGB", ())


def denormalize(values: NDArray[np.float32], spec: InputSpec) -> InputBatch:
    """Turn what a network is fed back into pixels, which is what a compiled model takes.

    Args:
        values: float32, [N, H, W, 3], RGB, (pixel - mean) / std.
        spec: mean and std.

    Returns:
        uint8, [N, H, W, 3], RGB, 0 to 255.

    Raises:
        BadRequestError: a value is not one that a pixel gives. Rounding it would answer for another picture. Or the
            model cuts its input out of whole pictures, and these values are what is cut out already.
    """
    if spec.short_side_px is not None:
        raise BadRequestError("This model takes whole pictures, as UINT8 or BYTES; FP32 values are not taken.")
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values * np.array(spec.std, dtype=np.float32) + np.array(spec.mean, dtype=np.float32)
        pixels = np.rint(scaled)
        # Of a NaN every comparison is false.
        is_sound = (abs(scaled - pixels) <= PIXEL_TOLERANCE) & (pixels >= 0) & (pixels <= 255)
    if not is_sound.all():
        raise BadRequestError(
            f"FP32 values must be (pixel - mean) / std of whole pixels, 0 to 255, within {PIXEL_TOLERANCE} of a pixel, "
            f"with mean {list(spec.mean)} and std {list(spec.std)}; send other pictures as UINT8 or BYTES."
        )
    return pixels.astype(np.uint8)
