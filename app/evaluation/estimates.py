"""Figures that were measured on pictures, each with its 95 % interval: shares, AUC, and the difference of two AUCs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities

NORMAL_QUANTILE = 1.959963984540054
"""97.5 % of the normal distribution lies below it: intervals of 95 %."""


@dataclass(frozen=True)
class Estimate:
    """A figure between 0 and 1 with its 95 % interval and the number of pictures it rests on."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class AucComparison:
    """AUC of two models on the same pictures; `drop` is the first less the second, with its 95 % interval."""

    first: float
    second: float
    drop: float
    drop_low: float
    drop_high: float

    @property
    def p_value(self) -> float:
        """Chance of a difference as large as this between models that are alike: DeLong's test, two-sided."""
        error = (self.drop_high - self.drop_low) / (2 * NORMAL_QUANTILE)
        if error == 0:
            return float(self.drop == 0)
        return math.erfc(abs(self.drop) / error / math.sqrt(2))


def estimate_share(hits: int, n: int) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share, doubt = hits / n, NORMAL_QUANTILE**2 / n
    centre = (share + doubt / 2) / (1 + doubt)
    half = NORMAL_QUANTILE * math.sqrt((share * (1 - share) + doubt / 4) / n) / (1 + doubt)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def choose_classes(classes: Sequence[str], positive: str | None) -> Sequence[int]:
    """Whose AUC counts: the positive class's of two, the mean over all of more."""
    return range(len(classes)) if positive is None else [classes.index(positive)]


def compare_aucs(
    first: Probabilities, second: Probabilities, labels: NDArray[np.int64], classes: Sequence[int]
) -> AucComparison:
    """Compare two models by their AUC.

    The interval is DeLong's for paired curves (DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595): it counts
    how far each picture pulls the difference, and so is narrow where the models rank the pictures alike.

    Args:
        first: probabilities of the one, float64, [N, classes].
        second: those of the other.
        labels: the true class of each picture; of every class at least two.
        classes: those whose one-against-the-rest AUC is averaged; see `choose_classes`.
    """
    (auc_first, pull_first), (auc_second, pull_second) = (
        average_auc(probabilities, labels, classes) for probabilities in (first, second)
    )
    half_width = NORMAL_QUANTILE * math.sqrt(((pull_first - pull_second) ** 2).sum())
    drop = auc_first - auc_second
    return AucComparison(auc_first, auc_second, drop, drop - half_width, drop + half_width)


def estimate_auc(probabilities: Probabilities, labels: NDArray[np.int64], classes: Sequence[int]) -> Estimate:
    """AUC of one model with DeLong's interval; the arguments are those of `compare_aucs`."""
    auc, pull = average_auc(probabilities, labels, classes)
    half_width = NORMAL_QUANTILE * math.sqrt((pull**2).sum())
    return Estimate(auc, max(0.0, auc - half_width), min(1.0, auc + half_width), len(labels))


def average_auc(
    probabilities: Probabilities, labels: NDArray[np.int64], classes: Sequence[int]
) -> tuple[float, NDArray[np.float64]]:
    """Mean of the one-against-the-rest AUC over `classes`, and the pull of each picture on it."""
    parts = [measure_auc(probabilities[:, index], labels == index) for index in classes]
    return float(np.mean([auc for auc, _ in parts])), np.mean([pull for _, pull in parts], axis=0)


def measure_auc(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> tuple[float, NDArray[np.float64]]:
    """Return the AUC, ties counted half, and each picture's pull: their squares sum to DeLong's variance."""
    positive, negative = scores[is_positive], scores[~is_positive]
    right_of_positive, right_of_negative = share_below(positive, negative), 1 - share_below(negative, positive)
    auc = float(right_of_positive.mean())
    pull = np.empty(len(scores))
    pull[is_positive] = (right_of_positive - auc) / math.sqrt(len(positive) * (len(positive) - 1))
    pull[~is_positive] = (right_of_negative - auc) / math.sqrt(len(negative) * (len(negative) - 1))
    return auc, pull


def share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each value, the share of the others that are smaller; equal ones count half."""
    ordered = np.sort(others)
    twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    share: NDArray[np.float64] = twice / (2 * len(others))
    return share
