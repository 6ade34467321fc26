"""The answers of a version as arrays, one row a picture: what all figures of a report are worked out from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities
from app.evaluation.estimates import Estimate, choose_classes, estimate_auc, estimate_share
from app.evaluation.version_evaluation import Answer
from app.manifest.model_specs import OutputSpec


@dataclass(frozen=True)
class AnswerTable:
    """Answers to pictures whose class is known.

    Attributes:
        spec: the meaning of the model's output.
        labels: index of the true class, int64 [N].
        decided: index of the class that was answered, int64 [N].
        probabilities: float64 [N, classes].
        possible: which classes cannot be ruled out, bool [N, classes]; None where nothing was calibrated.
        fits: whether a picture is of the model's kind, bool [N]; None where nothing is known of that.
    """

    spec: OutputSpec
    labels: NDArray[np.int64]
    decided: NDArray[np.int64]
    probabilities: Probabilities
    possible: NDArray[np.bool_] | None
    fits: NDArray[np.bool_] | None

    def select(self, rows: NDArray[np.bool_]) -> "AnswerTable":
        """Return the answers to some of the pictures; `rows` is bool [N]."""
        possible = None if self.possible is None else self.possible[rows]
        fits = None if self.fits is None else self.fits[rows]
        return AnswerTable(self.spec, self.labels[rows], self.decided[rows], self.probabilities[rows], possible, fits)

    def count_classes(self) -> dict[str, int]:
        """Return how many pictures there are of each class."""
        return {name: int((self.labels == index).sum()) for index, name in enumerate(self.spec.classes)}

    def count_answers(self) -> list[list[int]]:
        """Return how often each class, by row, got each answer, by column."""
        classes = range(len(self.spec.classes))
        return [[int(((self.labels == row) & (self.decided == column)).sum()) for column in classes] for row in classes]

    def measure_auc(self) -> Estimate | None:
        """AUC as `models evaluate` measures it; None where a class has fewer than two pictures, so that none exists."""
        if min(self.count_classes().values()) < 2:
            return None
        classes = choose_classes(self.spec.classes, self.spec.positive_class)
        return estimate_auc(self.probabilities, self.labels, classes)

    def measure_decisions(self) -> dict[str, Estimate | None]:
        """Sensitivity and specificity, or the accuracy of more than two classes; None where no picture tells it."""
        is_right = self.decided == self.labels
        if self.spec.positive_class is None:
            return {"accuracy": estimate_if_any(is_right)}
        is_positive = self.labels == self.spec.classes.index(self.spec.positive_class)
        return {
            "sensitivity": estimate_if_any(is_right[is_positive]),
            "specificity": estimate_if_any(is_right[~is_positive]),
        }


def make_table(answers: Sequence[Answer], spec: OutputSpec) -> AnswerTable:
    """Make the table of at least one answer."""
    decisions = [answer.decision for answer in answers]
    possible, fits = None, None
    if spec.calibration is not None:
        possible = np.array([[name in (each.possible_classes or ()) for name in spec.classes] for each in decisions])
    if all(answer.fit is not None for answer in answers):
        fits = np.array([answer.fit is not None and answer.fit.fits for answer in answers])
    return AnswerTable(
        spec,
        np.array([answer.picture.label for answer in answers], dtype=np.int64),
        np.array([spec.classes.index(each.class_name) for each in decisions], dtype=np.int64),
        np.array([answer.probabilities for answer in answers], dtype=np.float64),
        possible,
        fits,
    )


def estimate_if_any(hits: NDArray[np.bool_]) -> Estimate | None:
    """Return the share of pictures that are hits, bool [N]; None of no pictures."""
    return estimate_share(int(hits.sum()), len(hits)) if len(hits) else None
