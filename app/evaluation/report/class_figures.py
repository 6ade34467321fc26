"""How well one class's probability tells its pictures from the others, and whether it means what it says."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.evaluation.calibration_fit import BINS, find_bins, measure_calibration_error
from app.evaluation.estimates import Estimate, estimate_auc, estimate_share
from app.evaluation.report.picture_table import AnswerTable

HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Curve:
    """How many pictures reach each threshold; the thresholds are all scores that occur, from high to low."""

    thresholds: list[float]
    true_positives: list[int]
    false_positives: list[int]

    @property
    def recalls(self) -> list[float]:
        """Share of the positives that reach each threshold."""
        return [hits / self.true_positives[-1] for hits in self.true_positives]

    @property
    def false_alarms(self) -> list[float]:
        """Share of the negatives that reach each threshold."""
        return [alarms / self.false_positives[-1] for alarms in self.false_positives]

    @property
    def precisions(self) -> list[float]:
        """Share of positives among the pictures that reach each threshold."""
        pairs = zip(self.true_positives, self.false_positives, strict=True)
        return [hits / (hits + alarms) for hits, alarms in pairs]

    def recall_at(self, false_alarms: float) -> float:
        """Largest share of the positives that is found with at most this share of false alarms."""
        pairs = zip(self.recalls, self.false_alarms, strict=True)
        return max((recall for recall, alarms in pairs if alarms <= false_alarms), default=0.0)

    def precision_at(self, recall: float) -> float:
        """Largest share of right answers where at least this share of the positives is found."""
        pairs = zip(self.precisions, self.recalls, strict=True)
        return max(precision for precision, found in pairs if found >= recall)

    @property
    def average_precision(self) -> float:
        """Area under the steps of the precision-recall curve."""
        return float(np.sum(np.diff(self.recalls, prepend=0) * self.precisions))


@dataclass(frozen=True)
class Bin:
    """Pictures with a similar score: its mean, and the share of them that are of the class; None of no pictures."""

    low: float
    high: float
    pictures: int
    mean_score: float | None
    share: Estimate | None


@dataclass(frozen=True)
class ClassFigures:
    """One class against the others.

    Attributes:
        class_name: the class whose probability is the score.
        others: name of the one other class, or `other classes`.
        prevalence: share of its pictures.
        auc: with DeLong's interval.
        average_precision: area under the precision-recall curve.
        curve: what both curves are drawn from.
        calibration_error: over the 15 `bins`.
        histogram, histogram_others: pictures of the class, and the others, in 20 bins of the score.
    """

    class_name: str
    others: str
    prevalence: float
    auc: Estimate
    average_precision: float
    curve: Curve
    calibration_error: float
    bins: list[Bin]
    histogram: list[int]
    histogram_others: list[int]


def measure_classes(table: AnswerTable) -> list[ClassFigures]:
    """Measure the positive class of two, or each of more against the rest; of every class there are two pictures."""
    classes, positive = table.spec.classes, table.spec.positive_class
    return [measure_class(table, index) for index, name in enumerate(classes) if positive in (None, name)]


def measure_class(table: AnswerTable, index: int) -> ClassFigures:
    """Measure the class of an index."""
    classes, scores, is_class = table.spec.classes, table.probabilities[:, index], table.labels == index
    curve = draw_curve(scores, is_class)
    return ClassFigures(
        class_name=classes[index],
        others=classes[1 - index] if len(classes) == 2 else "other classes",
        prevalence=float(is_class.mean()),
        auc=estimate_auc(table.probabilities, table.labels, [index]),
        average_precision=curve.average_precision,
        curve=curve,
        calibration_error=measure_calibration_error(table.probabilities, table.labels, index),
        bins=fill_bins(scores, is_class),
        histogram=count_scores(scores[is_class]),
        histogram_others=count_scores(scores[~is_class]),
    )


def draw_curve(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> Curve:
    """Count what reaches each score that occurs; equal scores are reached together. Takes [N]; both classes occur."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(is_positive[order])
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return Curve(ordered[last].tolist(), hits[last].tolist(), (last + 1 - hits[last]).tolist())


def fill_bins(scores: NDArray[np.float64], is_class: NDArray[np.bool_]) -> list[Bin]:
    """Sort pictures into 15 bins of equal width by their score."""
    bins = []
    found = find_bins(scores)
    for each in range(BINS):
        inside = found == each
        count = int(inside.sum())
        mean = float(scores[inside].mean()) if count else None
        share = estimate_share(int(is_class[inside].sum()), count) if count else None
        bins.append(Bin(each / BINS, (each + 1) / BINS, count, mean, share))
    return bins


def count_scores(scores: NDArray[np.float64]) -> list[int]:
    """Count scores, [N], in 20 bins of equal width."""
    return [int(count) for count in np.histogram(scores, HISTOGRAM_BINS, (0, 1))[0]]
