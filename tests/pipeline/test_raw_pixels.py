"""Normalized values become the pixels that they were made of, or are refused."""

from dataclasses import replace

import numpy as np
import pytest

from app.errors import BadRequestError, UnsupportedImageError
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.raw_pixels import PIXEL_TOLERANCE, denormalize, wrap_pixels
from app.pipeline.patience import Turn

SCALES = {
    "ours": ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    "ImageNet's": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "one": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}
EVERY_PIXEL = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)


def make_spec(scale: str) -> InputSpec:
    mean, std = SCALES[scale]
    return InputSpec(16, 16, "bilinear", mean, std, None)


def normalize(pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Normalize as PyTorch's users do: scale to 0 to 1 first, in float32."""
    mean, std = (np.array(values, dtype=np.float32) / np.float32(255) for values in (spec.mean, spec.std))
    return ((pixels.astype(np.float32) / np.float32(255)) - mean) / std


@pytest.mark.parametrize("scale", SCALES)
def test_every_pixel_value_comes_back(scale: str) -> None:
    spec = make_spec(scale)
    assert np.array_equal(denormalize(normalize(EVERY_PIXEL, spec), spec), EVERY_PIXEL)


def test_values_in_the_order_of_a_bgr_network_become_rgb() -> None:
    spec = replace(make_spec("ImageNet's"), channel_order="BGR")
    values = normalize(EVERY_PIXEL[..., ::-1], spec)
    assert np.array_equal(denormalize(values, spec), EVERY_PIXEL)
    with pytest.raises(BadRequestError, match="in the order BGR"):
        denormalize(normalize(EVERY_PIXEL, spec)[..., ::-1], spec)


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_off_by_less_than_the_tolerance_is_taken_and_by_more_refused(scale: str) -> None:
    spec = make_spec(scale)
    sound = normalize(EVERY_PIXEL, spec)
    for share, is_taken in ((0.8, True), (1.2, False)):
        moved = sound.copy()
        moved[0, 3, 5, 1] += share * PIXEL_TOLERANCE / spec.std[1]
        if is_taken:
            assert np.array_equal(denormalize(moved, spec), EVERY_PIXEL)
        else:
            with pytest.raises(BadRequestError, match="whole pixels"):
                denormalize(moved, spec)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, (256 - 127) / 128, (-1 - 127) / 128])
def test_one_value_that_is_no_pixel_refuses_the_tensor(value: float) -> None:
    spec = make_spec("ours")
    values = normalize(EVERY_PIXEL, spec)
    values[0, 15, 15, 2] = value
    with pytest.raises(BadRequestError):
        denormalize(values, spec)


def test_another_normalization_is_refused() -> None:
    spec = make_spec("ours")
    for other in (normalize(EVERY_PIXEL, make_spec("ImageNet's")), EVERY_PIXEL / np.float32(255), EVERY_PIXEL):
        with pytest.raises(BadRequestError):
            denormalize(other.astype(np.float32), spec)


def test_pixels_over_the_limits_are_refused_as_files_are() -> None:
    limits = ImageLimits(max_pixels=100, max_side_px=50)
    assert wrap_pixels(np.zeros((10, 10, 3), np.uint8), limits, Turn()).size == (10, 10)
    for shape in ((11, 10, 3), (1, 51, 3)):
        with pytest.raises(UnsupportedImageError):
            wrap_pixels(np.zeros(shape, np.uint8), limits, Turn())
