"""What each threshold of a model of two classes would mean, and each answer of a model of more."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.evaluation.estimates import Estimate, estimate_share
from app.evaluation.operating_points import threshold_at_sensitivity, threshold_at_specificity
from app.evaluation.report.picture_table import AnswerTable, estimate_if_any

PREVALENCES = 0.02, 0.1, 0.5
WANTED = 0.8, 0.9, 0.95, 0.99
OWN = "this version"


@dataclass(frozen=True)
class Expected:
    """Share of positive answers that are right where a share of all pictures, the prevalence, is positive.

    `low` and `high` follow from the limits of sensitivity and specificity. None: nothing is called positive.
    """

    prevalence: float
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class OperatingRow:
    """How good one way to decide is.

    Attributes:
        rule: the way, in words.
        threshold: None for the most probable of more than two classes.
        ppv, npv: share of the positive and of the negative answers that are right; None where no answer is so.
        expected: the PPV at other prevalences.
    """

    rule: str
    threshold: float | None
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate | None
    npv: Estimate | None
    expected: list[Expected]


def list_operating_rows(table: AnswerTable) -> list[OperatingRow]:
    """List the version's own threshold and those that reach a wanted share; of more than two classes, each class."""
    spec = table.spec
    if spec.positive_class is None or spec.threshold is None:
        return [
            measure_row(name, None, table.decided == index, table.labels == index)
            for index, name in enumerate(spec.classes)
        ]
    index = spec.classes.index(spec.positive_class)
    scores, is_positive = table.probabilities[:, index], table.labels == index
    rules = [(OWN, spec.threshold), *choose_thresholds(scores, is_positive)]
    return [measure_row(rule, threshold, scores >= threshold, is_positive) for rule, threshold in rules]


def choose_thresholds(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> Iterator[tuple[str, float]]:
    """Yield thresholds that reach a wanted sensitivity or specificity on these very pictures."""
    for share in WANTED:
        yield f"sensitivity of {100 * share:.0f} % or more", threshold_at_sensitivity(scores[is_positive], share)
    for share in WANTED:
        threshold = threshold_at_specificity(scores[~is_positive], share)
        if (scores[~is_positive] < threshold).mean() >= share:  # not where too many negatives have a score of 1
            yield f"specificity of {100 * share:.0f} % or more", threshold


def measure_row(
    rule: str, threshold: float | None, is_called: NDArray[np.bool_], is_positive: NDArray[np.bool_]
) -> OperatingRow:
    """Measure who is called positive against who is, both bool [N]; there are positives and negatives."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    sensitivity = estimate_share(int((is_called & is_positive).sum()), positives)
    specificity = estimate_share(int((~is_called & ~is_positive).sum()), negatives)
    return OperatingRow(
        rule,
        threshold,
        sensitivity,
        specificity,
        ppv=estimate_if_any(is_positive[is_called]),
        npv=estimate_if_any(~is_positive[~is_called]),
        expected=[expect(prevalence, sensitivity, specificity) for prevalence in PREVALENCES],
    )


def expect(prevalence: float, sensitivity: Estimate, specificity: Estimate) -> Expected:
    """Work out the PPV at a prevalence, by Bayes' rule."""
    return Expected(
        prevalence,
        work_out_ppv(prevalence, sensitivity.value, specificity.value),
        work_out_ppv(prevalence, sensitivity.low, specificity.low),
        work_out_ppv(prevalence, sensitivity.high, specificity.high),
    )


def work_out_ppv(prevalence: float, sensitivity: float, specificity: float) -> float | None:
    """Return the share of right answers among the positive ones; None where there are none."""
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return hits / (hits + alarms) if hits + alarms else None
