"""From scores to a decision."""

import math
from dataclasses import dataclass

import numpy as np

from app.arrays import Probabilities, Scores
from app.errors import InferenceError, ManifestError
from app.manifest.model_specs import OutputSpec


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


PROBABILITY_SLACK = 1e-3
"""How far a network's own probabilities may lie outside 0 to 1, or their sum from 1: rounding, and no more."""


def to_probabilities(scores: Scores, spec: OutputSpec) -> Probabilities:
    """Apply the activation, unless the network ends in it.

    Args:
        scores: float32, [N, outputs].
        spec: activation, classes, and what the scores are.

    Returns:
        float64, [N, classes], rows sum to 1.

    Raises:
        InferenceError: wrong shape, or a score that is not finite, or no probability where it should be one.
    """
    if scores.ndim != 2 or scores.shape[1] != spec.outputs or not math.isfinite(scores.sum(dtype=np.float64)):
        raise InferenceError("The model returned no valid scores.")
    exact = scores.astype(np.float64)
    if spec.scores == "probabilities":
        return complete(exact)
    if spec.activation == "sigmoid":
        positive = np.exp(-np.logaddexp(0, -exact))
        return np.concatenate([1 - positive, positive], axis=1)
    exponentials = np.exp(exact - exact.max(axis=1, keepdims=True))
    probabilities: Probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def complete(exact: Probabilities) -> Probabilities:
    """Take probabilities as they are, float64 [N, outputs]: of a lone one add the other class, of several even the sum.

    Raises:
        InferenceError: they are none.
    """
    if not are_probabilities(exact):
        raise InferenceError("The model returned no valid scores.")
    bounded = np.clip(exact, 0, 1)
    if bounded.shape[1] == 1:
        return np.concatenate([1 - bounded, bounded], axis=1)
    probabilities: Probabilities = bounded / bounded.sum(axis=1, keepdims=True)
    return probabilities


def are_probabilities(exact: Probabilities) -> bool:
    """Whether all numbers, float64 [N, outputs], are from 0 to 1, and those of a row add up if they are several."""
    sums = exact.sum(axis=1)
    adds_up = exact.shape[1] == 1 or bool((np.abs(sums - 1) <= PROBABILITY_SLACK).all())
    return adds_up and bool(((exact >= -PROBABILITY_SLACK) & (exact <= 1 + PROBABILITY_SLACK)).all())


def check_scores(scores: Scores, spec: OutputSpec) -> None:
    """Refuse scores that are not what the manifest says, where a number can tell.

    Args:
        scores: float32, [N, outputs], of pictures of any kind.
        spec: of the manifest.

    Raises:
        ManifestError: the network ends in its activation and the manifest does not say so, or the other way round.
    """
    exact = scores.astype(np.float64)
    if scores.ndim != 2 or scores.shape[1] != spec.outputs or not np.isfinite(exact).all():
        return  # `to_probabilities` says so
    if spec.scores == "probabilities" and not are_probabilities(exact):
        raise ManifestError(
            f"output.scores says probabilities, but the network's lie from {exact.min():.3g} to {exact.max():.3g}"
            + ("" if spec.outputs == 1 else " or do not add up to 1")
        )
    if spec.scores == "logits" and spec.outputs > 1 and are_probabilities(exact):
        raise ManifestError('the network ends in a softmax of its own; say scores = "probabilities" in [output]')


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
