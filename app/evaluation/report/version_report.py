"""The report of a version: every figure in one document, before it becomes a page."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.config.settings import Settings
from app.engines.process_engine import runs_natively
from app.errors import CompiledModelError, EvaluationError
from app.evaluation.estimates import AucComparison, Estimate, choose_classes, compare_aucs, estimate_share
from app.evaluation.evaluation_report import Evaluation
from app.evaluation.labelled_folder import LabelledPicture
from app.evaluation.report.class_figures import ClassFigures, measure_classes
from app.evaluation.report.operating_table import OperatingRow, list_operating_rows
from app.evaluation.report.picture_table import AnswerTable, estimate_if_any, make_table
from app.evaluation.report.subgroups import GroupFigures, Grouping, measure_group, measure_groups
from app.evaluation.report.worst_mistakes import Mistake, find_worst
from app.evaluation.version_evaluation import Answer, Measured, evaluate_version
from app.manifest.model_manifest import INTENDED_USE, ModelManifest
from app.state.wanted import PlannedVersion

Show = Callable[[str], AbstractContextManager[Callable[[int], None]]]
"""Shows the progress of what it is told; what it yields is told how many pictures were done."""
MAX_CLASSES = 32
ALL, FITTING = "all pictures", "pictures that fit"
NATIVE = "the framework itself answers, so there is nothing in INT8"


@dataclass(frozen=True)
class Certainty:
    """What the possible classes of an answer are worth.

    Attributes:
        coverage: the share that was aimed at.
        data: the pictures that the limits were fitted on.
        covered: of all pictures and of each class, the share whose true class was among the possible ones.
        cannot_tell: of all pictures and of each class, the share that the answer is not sure about.
        right_if_told, right_if_not: share of right answers among those that were sure, and among the others.
    """

    coverage: float
    data: str
    covered: dict[str, Estimate]
    cannot_tell: dict[str, Estimate]
    right_if_told: Estimate | None
    right_if_not: Estimate | None


@dataclass(frozen=True)
class Refusals:
    """What the service would refuse as another kind of picture: the share of all and of each class, how many for
    which reason, and the figures of what is left.
    """

    data: str
    refused: dict[str, Estimate]
    reasons: dict[str, int]
    fitting: GroupFigures | None


@dataclass(frozen=True)
class Int8Figures:
    """The INT8 model on the same pictures.

    Attributes:
        metrics: as `models evaluate` measures them.
        auc: float32 first; the drop is what INT8 loses.
        decisions_changed: pictures that get another class.
        largest_change: of a probability.
        ms_f32, ms_int8: milliseconds of inference for one picture on one core, measured when the INT8 model was made.
    """

    metrics: dict[str, Estimate]
    auc: AucComparison
    decisions_changed: int
    largest_change: float
    ms_f32: float
    ms_int8: float


@dataclass(frozen=True)
class GroupTable:
    """The subgroups of one column."""

    column: str
    groups: list[GroupFigures]


@dataclass(frozen=True)
class VersionReport:
    """All that a report says. A part that a version has no figures for is None, and `absent` says why.

    Attributes:
        data: name of the folder of pictures.
        unreadable: how many pictures had which fault.
        answers: how often each class, by row, got each answer, by column.
    """

    notice: str
    title: str
    description: str
    intended_use: str
    licence: str
    data: str
    evaluation: Evaluation
    threshold_source: str | None
    unreadable: dict[str, int]
    answers: list[list[int]]
    classes: list[ClassFigures]
    operating: list[OperatingRow]
    certainty: Certainty | None
    refusals: Refusals | None
    groups: list[GroupTable]
    mistakes: list[Mistake]
    int8: Int8Figures | None
    absent: dict[str, str]


@dataclass(frozen=True)
class Reported:
    """A report, and what it was made of: what came of each picture in order, and the subgroups."""

    report: VersionReport
    measured: Measured
    groupings: Sequence[Grouping]
    manifest: ModelManifest


def report_version(
    planned: PlannedVersion,
    pictures: Sequence[LabelledPicture],
    groupings: Sequence[Grouping],
    settings: Settings,
    data: str,
    show: Show,
) -> Reported:
    """Show the pictures to a version, in float32 and in INT8 if that may be served, and work everything out.

    `data` is the name of their folder. Raises as `evaluate_version`, and `EvaluationError` for more than 32 classes.
    """
    manifest = planned.folder.read_manifest()
    require_few_classes(manifest)
    with show("float32") as advance:
        measured = evaluate_version(planned, pictures, replace(settings, precision="f32"), advance)
    int8, reason = measure_int8(planned, pictures, settings, measured, show)
    report = make_report(manifest, measured, groupings, data)
    absent = report.absent if int8 else report.absent | {"int8": reason}
    return Reported(replace(report, int8=int8, absent=absent), measured, groupings, manifest)


def require_few_classes(manifest: ModelManifest) -> None:
    """Raise `EvaluationError` for a model of too many classes."""
    if len(manifest.output.classes) > MAX_CLASSES:
        raise EvaluationError(f"only models of up to {MAX_CLASSES} classes have a report")


def make_report(manifest: ModelManifest, measured: Measured, groupings: Sequence[Grouping], data: str) -> VersionReport:
    """Work out all figures but those of INT8."""
    spec = manifest.output
    numbered = [(number, each) for number, each in enumerate(measured.answers, 1) if isinstance(each, Answer)]
    table = make_table([answer for _, answer in numbered], spec)
    absent = {}
    if table.possible is None:
        absent["certainty"] = "the version is not calibrated: run `models calibrate`"
    if table.fits is None:
        absent["refusals"] = "the version does not know which pictures it was made for: run `models fit`"
    return VersionReport(
        notice=INTENDED_USE,
        title=manifest.title,
        description=manifest.description,
        intended_use=manifest.intended_use,
        licence=manifest.licence,
        data=data,
        evaluation=measured.evaluation,
        threshold_source=spec.threshold_source,
        unreadable=count(each.reason for each in measured.lost),
        answers=table.count_answers(),
        classes=measure_classes(table),
        operating=list_operating_rows(table),
        certainty=measure_certainty(table),
        refusals=measure_refusals(table, [answer for _, answer in numbered], manifest),
        groups=[
            GroupTable(each.column, measure_groups(table, [each.values[number - 1] for number, _ in numbered]))
            for each in groupings
        ],
        mistakes=find_worst(numbered, spec),
        int8=None,
        absent=absent,
    )


def measure_certainty(table: AnswerTable) -> Certainty | None:
    """Measure what the possible classes are worth; None where nothing was calibrated."""
    calibration = table.spec.calibration
    if table.possible is None or calibration is None:
        return None
    rows = np.arange(len(table.labels))
    is_covered = table.possible[rows, table.labels]
    is_told = (table.possible.sum(axis=1) == 1) & table.possible[rows, table.decided]
    is_right = table.decided == table.labels
    return Certainty(
        calibration.coverage,
        calibration.data,
        share_by_class(table, is_covered),
        share_by_class(table, ~is_told),
        estimate_if_any(is_right[is_told]),
        estimate_if_any(is_right[~is_told]),
    )


def measure_refusals(table: AnswerTable, answers: Sequence[Answer], manifest: ModelManifest) -> Refusals | None:
    """Measure what would be refused; None where nothing is known of the pictures that fit."""
    if table.fits is None or manifest.fit is None:
        return None
    reasons = count(reason.partition(":")[0] for answer in answers if answer.fit for reason in answer.fit.reasons)
    fitting = measure_group(FITTING, table.select(table.fits)) if table.fits.any() else None
    return Refusals(manifest.fit.data, share_by_class(table, ~table.fits), reasons, fitting)


def share_by_class(table: AnswerTable, hits: NDArray[np.bool_]) -> dict[str, Estimate]:
    """Return the share of all pictures that are hits, bool [N], and that of each class's pictures."""
    shares = {ALL: estimate_share(int(hits.sum()), len(hits))}
    for index, name in enumerate(table.spec.classes):
        of_class = hits[table.labels == index]
        shares[name] = estimate_share(int(of_class.sum()), len(of_class))
    return shares


def count(words: Iterable[str]) -> dict[str, int]:
    """Count equal words, the most frequent first."""
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def measure_int8(
    planned: PlannedVersion,
    pictures: Sequence[LabelledPicture],
    settings: Settings,
    f32: Measured,
    show: Show,
) -> tuple[Int8Figures | None, str]:
    """Measure the INT8 model, or return why there are no figures of it."""
    manifest, folder = planned.folder.read_manifest(), planned.folder
    if runs_natively(manifest):
        return None, NATIVE
    try:
        stored = folder.read_int8_report(manifest, folder.read_report(manifest))
    except CompiledModelError as error:
        return None, error.message
    if stored.refusal:
        return None, f"the INT8 model is not served: {stored.refusal}"
    with show("INT8") as advance:
        int8 = evaluate_version(planned, pictures, replace(settings, precision="int8"), advance)
    spec = manifest.output
    ours, theirs = (make_table(measured.read, spec) for measured in (f32, int8))
    indices = choose_classes(spec.classes, spec.positive_class)
    return Int8Figures(
        int8.evaluation.metrics,
        compare_aucs(ours.probabilities, theirs.probabilities, ours.labels, indices),
        int((ours.decided != theirs.decided).sum()),
        float(np.abs(ours.probabilities - theirs.probabilities).max()),
        stored.ms_f32,
        stored.ms_int8,
    ), ""
