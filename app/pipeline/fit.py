"""Whether a picture is of the kind that a model was made for: by its looks, and by its distance to the training's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.arrays import RGBImage
from app.manifest.fit_spec import FitSpec

LIMIT = 1.0
DISTANCE_DIGITS = 3
WHITE = 250
STEP = 4
"""Every fourth row and column is looked at."""
WORDS = {
    "brightness": ("too dark", "too bright"),
    "contrast": ("almost of one colour", "too rich in contrast"),
    "sharpness": ("blurred or enlarged", "noisy, or drawn"),
    "colour": ("grey, where colour is expected", "too colourful"),
    "glare": ("nowhere white", "overexposed"),
}
"""What a picture is whose look lies below or above what the model knows."""
UNLIKE = "the network sees something unlike the pictures that it was trained on"
UNCHECKED = {"fits": None, "reasons": ["nothing was checked: the model folder does not say which pictures it knows"]}


@dataclass(frozen=True)
class Fit:
    """Whether a picture fits: it does if there is no reason against it.

    Attributes:
        distance: to the training pictures, as a share of the allowed one; None where the network does not tell it.
        reasons: in words.
    """

    distance: float | None
    reasons: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the model's answer means something."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Return the field `fit` of an answer."""
        document: dict[str, Any] = {"fits": self.fits}
        if self.distance is not None:
            document |= {"distance": round(self.distance, DISTANCE_DIGITS), "limit": LIMIT}
        return document | {"reasons": list(self.reasons)}


def judge(
    looks: Mapping[str, float], size: tuple[int, int], wanted: tuple[int, int], distance: float | None, spec: FitSpec
) -> Fit:
    """Judge a picture by its looks and distance, and by its width and height; `wanted` are those of the network."""
    reasons = []
    if min(size) < spec.least_side_px:
        reasons.append(f"too small: {size[0]}x{size[1]} pixels, where the shorter side needs {spec.least_side_px}")
    shape = size[0] * wanted[1] / (size[1] * wanted[0])
    if max(shape, 1 / shape) > spec.longest_shape:
        reasons.append(f"squeezed: it is {max(shape, 1 / shape):.2g} times as long as the network's input")
    for name, value in looks.items():
        low, high = spec.looks[name]
        if not low <= value <= high:
            words = WORDS[name][0] if value < low else WORDS[name][1]
            reasons.append(f"{words}: its {name} is {value:.3g}, where {low:.3g} to {high:.3g} is known")
    if distance is not None and distance > LIMIT:
        reasons.append(UNLIKE)
    return Fit(distance, tuple(reasons))


def measure_looks(pixels: RGBImage) -> dict[str, float]:
    """Measure a picture at the network's size, uint8 [H, W, 3].

    Returns:
        brightness: mean of green, 0 to 255.
        contrast: standard deviation of green.
        sharpness: mean second difference of neighbours in green, by the mean difference over four pixels; a blurred
            picture has no fine structure beside its coarse one.
        colour: mean of a pixel's largest channel less its smallest.
        glare: share of pixels whose green is above 250.
    """
    rows = pixels[::STEP, :, 1].astype(np.int16)
    columns = pixels[:, ::STEP, 1].T.astype(np.int16, order="C")
    fine, coarse = np.add(measure_steps(rows), measure_steps(columns))
    few = pixels[:: 2 * STEP, ::2]
    return {
        "brightness": float(rows.mean()),
        "contrast": float(rows.std()),
        "sharpness": float(fine / (coarse + 2)),
        "colour": float((few.max(axis=2) - few.min(axis=2)).mean()),
        "glare": float(np.count_nonzero(rows > WHITE) / rows.size),
    }


def measure_steps(lines: NDArray[np.int16]) -> tuple[float, float]:
    """Return the mean second difference of neighbours, and the mean difference over four, along lines, [lines, N]."""
    fine = 2 * lines[:, 1:-1] - lines[:, :-2] - lines[:, 2:]
    coarse = lines[:, STEP:] - lines[:, :-STEP]
    return mean_size(fine), mean_size(coarse)


def mean_size(steps: NDArray[np.int16]) -> float:
    """Mean of the numbers without their signs; 0 of none."""
    return float(np.abs(steps).sum(dtype=np.int64) / max(steps.size, 1))
