"""From a network's scores to probabilities that mean what they say, and from those to a decision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities, Scores
from app.errors import InferenceError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import OutputSpec


@dataclass(frozen=True)
class Decision:
    """The model's decision for one picture.

    Attributes:
        class_name: the class decided for.
        confidence: its probability.
        probabilities: of each class, in the order of the manifest's.
        possible_classes: those that cannot be ruled out, see `Calibration`; None where nothing was fitted.
    """

    class_name: str
    confidence: float
    probabilities: dict[str, float]
    possible_classes: tuple[str, ...] | None = None

    @property
    def cannot_tell(self) -> bool:
        """Whether the class decided for is not the only possible one."""
        return self.possible_classes is not None and self.possible_classes != (self.class_name,)


LEAST_PROBABILITY = 1e-300
LEAST_FLOAT32 = 2.0**-24
"""What stands for 0: a network that makes probabilities itself rounds those near 1 to 1 in float32."""
PROBABILITY_SLACK = 1e-3
"""How far a network's own probabilities may lie outside 0 to 1, and their sum from 1. Rounding stays within this."""


def split_distances(scores: Scores, manifest: ModelManifest) -> tuple[Scores, list[float | None]]:
    """Take apart what an engine returns, float32 [N, outputs + 1]: scores, and distances to the training pictures.
    Where a model tells no distance, it returns scores alone.
    """
    if not manifest.tells_distance or scores.ndim != 2:
        return scores, [None] * len(scores)
    return scores[:, :-1], [float(distance) for distance in scores[:, -1]]


def require_finite(distances: Sequence[float | None]) -> None:
    """Raise `InferenceError` if a distance is no number: what a model's fit says then means nothing."""
    if not all(distance is None or math.isfinite(distance) for distance in distances):
        raise InferenceError("The model returned no valid distance to its training pictures.")


def to_probabilities(scores: Scores, spec: OutputSpec) -> Probabilities:
    """Turn scores into calibrated probabilities, as `apply_activation` does and raises."""
    return calibrate(apply_activation(scores, spec), spec)


def calibrate(probabilities: Probabilities, spec: OutputSpec) -> Probabilities:
    """Correct probabilities, float64 [N, classes]; those of a model without a calibration stay as they are."""
    if spec.calibration is None:
        return probabilities
    return to_shares(to_logarithms(probabilities, spec) / spec.calibration.temperature + spec.calibration.offsets)


def undo_calibration(probabilities: Probabilities, spec: OutputSpec) -> Probabilities:
    """Return what was corrected, float64 [N, classes]."""
    if spec.calibration is None:
        return probabilities
    logarithms = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return to_shares((logarithms - spec.calibration.offsets) * spec.calibration.temperature)


def to_logarithms(probabilities: Probabilities, spec: OutputSpec) -> NDArray[np.float64]:
    """Logarithms of probabilities, float64 [N, classes]; 0, which has none, counts as the least one that there is."""
    least = LEAST_FLOAT32 if spec.scores == "probabilities" else LEAST_PROBABILITY
    return np.log(np.maximum(probabilities, least))


def to_shares(logits: NDArray[np.float64]) -> Probabilities:
    """Softmax of float64 [N, classes]."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def apply_activation(scores: Scores, spec: OutputSpec) -> Probabilities:
    """Turn float32 [N, outputs] into float64 [N, classes], 0 to 1, each row sums to 1. Raises `InferenceError` for a
    wrong shape, or scores that are not finite or no probabilities.
    """
    if scores.ndim != 2 or scores.shape[1] != spec.outputs or not math.isfinite(scores.sum(dtype=np.float64)):
        raise InferenceError("The model returned no valid scores.")
    exact = scores.astype(np.float64)
    if spec.scores == "probabilities":
        return complete(exact)
    if spec.activation == "sigmoid":
        both = np.concatenate([exact, -exact], axis=1)
        shares: Probabilities = np.exp(-np.logaddexp(0, both))
        return shares
    return to_shares(exact)


def complete(exact: Probabilities) -> Probabilities:
    """Add the class that the network leaves out, or bring the sum to exactly 1. Takes float64 [N, outputs], one output
    being the positive class; returns float64 [N, classes]. Raises `InferenceError` for what is no probability.
    """
    if not are_probabilities(exact):
        raise InferenceError("The model returned no valid scores.")
    bounded = np.clip(exact, 0, 1)
    if bounded.shape[1] == 1:
        return np.concatenate([1 - bounded, bounded], axis=1)
    probabilities: Probabilities = bounded / bounded.sum(axis=1, keepdims=True)
    return probabilities


def are_probabilities(exact: Probabilities) -> bool:
    """Return whether all numbers, float64 [N, outputs], lie from 0 to 1, and rows of several numbers sum to 1."""
    sums = exact.sum(axis=1)
    adds_up = exact.shape[1] == 1 or bool((np.abs(sums - 1) <= PROBABILITY_SLACK).all())
    return adds_up and bool(((exact >= -PROBABILITY_SLACK) & (exact <= 1 + PROBABILITY_SLACK)).all())


def decide(probabilities: Probabilities, spec: OutputSpec) -> Decision:
    """Decide by the threshold if there is one, else for the most probable class; takes a row of `to_probabilities`."""
    values = [float(value) for value in probabilities]
    if spec.positive_class is None or spec.threshold is None:
        index = max(range(len(values)), key=values.__getitem__)
    else:
        positive = spec.classes.index(spec.positive_class)
        index = positive if values[positive] >= spec.threshold else 1 - positive
    return Decision(
        spec.classes[index], values[index], dict(zip(spec.classes, values, strict=True)), find_possible(values, spec)
    )


def find_possible(values: list[float], spec: OutputSpec) -> tuple[str, ...] | None:
    """Return the classes that are probable enough to be possible; None where nothing was fitted."""
    if spec.calibration is None:
        return None
    limits = zip(spec.classes, values, spec.calibration.possible_from, strict=True)
    return tuple(name for name, value, least in limits if value >= least)
