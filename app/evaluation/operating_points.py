"""Chooses the threshold of a model of two classes on labelled pictures, and says how good the decision at it is."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.evaluation.estimates import Estimate, estimate_share

STEPS = 1_000_000


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the probability of the positive class, and the shares of positives and negatives it gets right."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate


def threshold_at_sensitivity(of_positives: NDArray[np.float64], share: float) -> float:
    """Return the highest threshold, of 6 decimals, that `share` of the positives' scores, float64 [N], reach."""
    wanted = max(1, count_wanted(share, len(of_positives)))
    return float(np.floor(np.sort(of_positives)[-wanted] * STEPS) / STEPS)  # rounded down, so that it is reached


def threshold_at_specificity(of_negatives: NDArray[np.float64], share: float) -> float:
    """Return the lowest threshold, of 6 decimals, that `share` of the negatives' scores, float64 [N], miss."""
    wanted = max(1, count_wanted(share, len(of_negatives)))
    score = float(np.sort(of_negatives)[wanted - 1])
    threshold = float((np.floor(score * STEPS) + 1) / STEPS)
    return min(1.0, threshold if threshold > score else threshold + 1 / STEPS)


def count_wanted(share: float, count: int) -> int:
    """Return how many of `count` are at least `share` of them; rounding of decimal shares is no reason for one more."""
    return math.ceil(share * count - 1e-9)


def measure_point(threshold: float, scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> OperatingPoint:
    """Measure the decision at a threshold; of each class there is at least one picture."""
    is_called = scores >= threshold
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    return OperatingPoint(
        threshold,
        estimate_share(int((is_called & is_positive).sum()), positives),
        estimate_share(int((~is_called & ~is_positive).sum()), negatives),
    )
