"""Two versions on the same pictures, picture by picture: which one is better, and whether that may be chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.config.settings import Settings
from app.errors import EvaluationError
from app.evaluation.estimates import AucComparison, choose_classes, compare_aucs
from app.evaluation.labelled_folder import LabelledPicture
from app.evaluation.report.picture_table import AnswerTable, make_table
from app.evaluation.report.subgroups import Grouping
from app.evaluation.report.version_report import ALL, Show
from app.evaluation.version_evaluation import Answer, Measured, evaluate_version
from app.manifest.model_manifest import INTENDED_USE
from app.manifest.model_specs import OutputSpec
from app.state.wanted import PlannedVersion


@dataclass(frozen=True)
class Agreement:
    """How many pictures of a class both versions got right, only one of them, or neither.

    `p_value` is McNemar's, exact and two-sided: how likely a difference as large as this is between versions that are
    equally often right (McNemar 1947, doi:10.1007/BF02295996).
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float


@dataclass(frozen=True)
class GroupComparison:
    """Two versions on the pictures that have one value.

    Attributes:
        value: what the column says of them.
        pictures: how many of each class.
        auc: the first version's, the second's, and the first less the second; None where a class has too few pictures.
        decisions: by class; None of no pictures.
    """

    value: str
    pictures: dict[str, int]
    auc: AucComparison | None
    decisions: dict[str, Agreement | None]


@dataclass(frozen=True)
class ComparedColumn:
    """The subgroups of one column."""

    column: str
    groups: list[GroupComparison]


@dataclass(frozen=True)
class VersionComparison:
    """All that is said of two versions; `data` is the name of the pictures' folder, `unreadable` had no answer."""

    notice: str
    first: str
    second: str
    precisions: tuple[str, str]
    data: str
    unreadable: int
    whole: GroupComparison
    columns: list[ComparedColumn]


def compare_versions(
    planned: tuple[PlannedVersion, PlannedVersion],
    pictures: Sequence[LabelledPicture],
    groupings: Sequence[Grouping],
    settings: Settings,
    data: str,
    shows: tuple[Show, Show],
) -> tuple[VersionComparison, Measured]:
    """Show the pictures to two versions; return the comparison, and what came of the pictures in the first.

    Raises as `evaluate_version` does, and `EvaluationError` if the versions do not tell the same classes.
    """
    specs = [each.folder.read_manifest().output for each in planned]
    require_same_classes(*specs)
    measured = []
    for each, show in zip(planned, shows, strict=True):
        with show("") as advance:
            measured.append(evaluate_version(each, pictures, settings, advance))
    first, second = measured
    pairs = [
        (number, ours, theirs)
        for number, (ours, theirs) in enumerate(zip(first.answers, second.answers, strict=True))
        if isinstance(ours, Answer) and isinstance(theirs, Answer)
    ]
    tables = make_table([ours for _, ours, _ in pairs], specs[0]), make_table([each for *_, each in pairs], specs[1])
    columns = [
        ComparedColumn(each.column, compare_groups(*tables, [each.values[number] for number, *_ in pairs]))
        for each in groupings
    ]
    comparison = VersionComparison(
        notice=INTENDED_USE,
        first="/".join(planned[0].wanted.key),
        second="/".join(planned[1].wanted.key),
        precisions=(first.evaluation.precision, second.evaluation.precision),
        data=data,
        unreadable=len(pictures) - len(pairs),
        whole=compare_group(ALL, *tables),
        columns=columns,
    )
    return comparison, first


def require_same_classes(first: OutputSpec, second: OutputSpec) -> None:
    """Raise `EvaluationError` unless the answers of both versions mean the same."""
    if (first.classes, first.positive_class) != (second.classes, second.positive_class):
        raise EvaluationError("only versions of the same classes, in the same order, can be compared")


def compare_groups(first: AnswerTable, second: AnswerTable, values: Sequence[str]) -> list[GroupComparison]:
    """Compare on the pictures of each value, the most pictures first."""
    array = np.array(values, dtype=object)  # an array of texts would drop a NUL at the end
    rows = {value: array == value for value in sorted(set(values))}
    groups = [compare_group(value, first.select(each), second.select(each)) for value, each in rows.items()]
    return sorted(groups, key=lambda group: -sum(group.pictures.values()))


def compare_group(value: str, first: AnswerTable, second: AnswerTable) -> GroupComparison:
    """Compare two versions' answers to the same pictures."""
    counts, classes = first.count_classes(), first.spec.classes
    auc = None
    if min(counts.values()) > 1:
        indices = choose_classes(classes, first.spec.positive_class)
        auc = compare_aucs(first.probabilities, second.probabilities, first.labels, indices)
    rights = first.decided == first.labels, second.decided == second.labels
    decisions = {
        name: count_agreement(*(right[first.labels == index] for right in rights)) if counts[name] else None
        for index, name in enumerate(classes)
    }
    return GroupComparison(value, counts, auc, decisions)


def count_agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Agreement:
    """Count who was right on which picture, bool [N] each."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    return Agreement(both, only_first, only_second, neither, find_p_value(only_first, only_second))


def find_p_value(only_first: int, only_second: int) -> float:
    """Return McNemar's exact p-value."""
    differ = only_first + only_second
    tail = sum(math.comb(differ, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << differ))
