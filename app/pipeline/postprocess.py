"""From scores to a decision."""

import math
from dataclasses import dataclass

import numpy as np

from app.arrays import Probabilities, Scores
from app.errors import InferenceError
from app.manifest import OutputSpec


@dataclass(frozen=True)
class Decision:
    """The answer of the model for one picture.

    Attributes:
        class_name: the class decided for.
        confidence: its probability.
        probabilities: of every class, in the manifest's order.
    """

    class_name: str
    confidence: float
    probabilities: dict[str, float]


def to_probabilities(scores: Scores, spec: OutputSpec) -> Probabilities:
    """Apply the activation.

    Args:
        scores: float32, [N, outputs].
        spec: activation and classes.

    Returns:
        float64, [N, classes], rows sum to 1.

    Raises:
        InferenceError: wrong shape, or a score that is not finite.
    """
    if scores.ndim != 2 or scores.shape[1] != spec.outputs or not math.isfinite(scores.sum(dtype=np.float64)):
        raise InferenceError("The model returned no valid scores.")
    exact = scores.astype(np.float64)
    if spec.activation == "sigmoid":
        positive = np.exp(-np.logaddexp(0, -exact))
        return np.concatenate([1 - positive, positive], axis=1)
    exponentials = np.exp(exact - exact.max(axis=1, keepdims=True))
    probabilities: Probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def decide(probabilities: Probabilities, spec: OutputSpec) -> Decision:
    """Decide for one picture: by the threshold for two classes, by the largest probability for more.

    Args:
        probabilities: float64, [classes], one row of `to_probabilities`.
        spec: classes, positive class and threshold.
    """
    values = [float(value) for value in probabilities]
    if spec.positive_class is None or spec.threshold is None:
        index = max(range(len(values)), key=values.__getitem__)
    else:
        positive = spec.classes.index(spec.positive_class)
        index = positive if values[positive] >= spec.threshold else 1 - positive
    return Decision(spec.classes[index], values[index], dict(zip(spec.classes, values, strict=True)))
