"""The report of an evaluation: `<instance>/evaluations/<name>/<version>.json`, the last one of each version."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities
from app.errors import EvaluationError
from app.evaluation.estimates import AucComparison, Estimate, choose_classes, compare_aucs, estimate_auc
from app.processes.atomic import write_file
from app.state.wanted import Key


@dataclass(frozen=True)
class Evaluation:
    """How good a version was on which pictures.

    Attributes:
        date: ISO 8601.
        model_sha256: of all that decides its answers; see `identify_model`.
        precision: of the compiled model that answered: `float32` or `int8`.
        data_sha256: of the pictures that were counted and of their classes; see `identify_data`.
        pictures: how many of each class were counted, classes in the manifest's order.
        unreadable: how many others could not be read.
        positive_class, threshold: the operating point that was measured; None for more than two classes.
        labels: class of each picture, in the order of the contents' hashes: pictures of two reports with one
            `data_sha256` pair up.
        probabilities: [pictures, classes], in the same order.
    """

    model: str
    version: str
    date: str
    model_sha256: str
    precision: str
    data_sha256: str
    pictures: dict[str, int]
    unreadable: int
    positive_class: str | None
    threshold: float | None
    metrics: dict[str, Estimate]
    labels: list[int]
    probabilities: list[list[float]]

    def arrays(self) -> tuple[Probabilities, NDArray[np.int64]]:
        """Probabilities and labels."""
        return np.array(self.probabilities, dtype=np.float64), np.array(self.labels, dtype=np.int64)


def find_reports(instance: Path, name: str) -> Path:
    """The folder of the reports of a model's versions."""
    return instance / "evaluations" / name


def write_evaluation(instance: Path, evaluation: Evaluation) -> None:
    """Write a report in the place of an earlier one, or raise `EvaluationError`."""
    reports = find_reports(instance, evaluation.model)
    try:
        reports.mkdir(parents=True, exist_ok=True)
        write_file(reports / f"{evaluation.version}.json", json.dumps(asdict(evaluation), indent=2) + "\n")
    except OSError as error:
        raise EvaluationError(f"the report cannot be written: {error.strerror}") from error


def read_evaluation(instance: Path, key: Key) -> Evaluation:
    """Read the report of a version; raises `EvaluationError` if there is none, or none that can be read."""
    name, version = key
    try:
        document = json.loads((find_reports(instance, name) / f"{version}.json").read_text(encoding="utf-8"))
        metrics = {name: Estimate(**each) for name, each in document.pop("metrics").items()}
        evaluation = Evaluation(**document, metrics=metrics)
        check(evaluation, key)
    except FileNotFoundError:
        raise EvaluationError("there is no report of it: run `flask models evaluate` first") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvaluationError(f"the report cannot be read ({type(error).__name__}): evaluate it again") from error
    return evaluation


def check(evaluation: Evaluation, key: Key) -> None:
    """Raise `ValueError` unless the parts of a report agree, so that a damaged one does not choose a model."""
    probabilities, labels = evaluation.arrays()
    counts = [int((labels == index).sum()) for index in range(len(evaluation.pictures))]
    if (evaluation.model, evaluation.version) != key or list(evaluation.pictures.values()) != counts or min(counts) < 2:
        raise ValueError(key)
    if probabilities.shape != (sum(counts), len(counts)) or not np.isfinite(probabilities).all():
        raise ValueError(probabilities.shape)
    auc = estimate_auc(probabilities, labels, choose_classes(list(evaluation.pictures), evaluation.positive_class))
    if not math.isclose(auc.value, evaluation.metrics["auc"].value, abs_tol=1e-9):
        raise ValueError(auc.value)


def compare_evaluations(first: Evaluation, second: Evaluation) -> AucComparison:
    """Compare the AUC of two versions on the same pictures; raises `EvaluationError` where they are not the same."""
    if first.data_sha256 != second.data_sha256:
        raise EvaluationError(
            f"the reports of {first.version} and {second.version} are of different pictures "
            f"({describe_data(first)}; {describe_data(second)})"
        )
    (ours, labels), (theirs, _) = first.arrays(), second.arrays()
    return compare_aucs(ours, theirs, labels, choose_classes(list(first.pictures), first.positive_class))


def describe_data(evaluation: Evaluation) -> str:
    """The pictures of a report, in words."""
    counts = ", ".join(f"{count} {name}" for name, count in evaluation.pictures.items())
    return f"{counts}; data {evaluation.data_sha256[:12]}"
