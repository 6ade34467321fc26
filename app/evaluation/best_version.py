"""Which version of a model is the best, by the reports of their evaluations on the same pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.config.settings import Settings
from app.errors import EvaluationError, ModelFolderError
from app.evaluation.estimates import AucComparison
from app.evaluation.evaluation_report import Evaluation, compare_evaluations, read_evaluation
from app.evaluation.version_evaluation import identify_model
from app.registry.model_loader import ModelLoader
from app.state.wanted import PlannedVersion


@dataclass(frozen=True)
class Lead:
    """By how much the best version is ahead of another one; `drop` is the difference."""

    best: Evaluation
    other: Evaluation
    difference: AucComparison


def rank(evaluations: list[Evaluation], current: str) -> list[Evaluation]:
    """From the best AUC down; of equal ones the present default first, then the later in the list."""
    from_new_to_old = evaluations[::-1]
    return sorted(from_new_to_old, key=lambda each: (-each.metrics["auc"].value, each.version != current))


def choose_best(
    versions: Mapping[str, PlannedVersion], current: str, settings: Settings
) -> tuple[Evaluation, list[Lead]]:
    """Choose the version with the best AUC, and return its report and its lead over each other, the next best first.

    `versions` are all of a model, from old to new; `current` is the default now. Raises `EvaluationError` if a version
    has no report, or was changed since, or if the reports are of different pictures.
    """
    evaluations = [read_valid(planned, settings) for planned in versions.values()]
    best, *others = rank(evaluations, current)
    try:
        return best, [Lead(best, other, compare_evaluations(best, other)) for other in others]
    except EvaluationError as error:
        raise EvaluationError(f"{error.message}: evaluate all versions on one folder") from None


def read_valid(planned: PlannedVersion, settings: Settings) -> Evaluation:
    """Read the report of a version; raises `EvaluationError` unless it is of the version as it is now."""
    place = planned.folder.label
    try:
        manifest = planned.folder.read_manifest()
        evaluation = read_evaluation(settings.instance, planned.wanted.key)
        model_sha256 = identify_model(planned.folder, manifest, ModelLoader(settings))
    except (EvaluationError, ModelFolderError) as error:
        raise EvaluationError(f"{place}: {error.message}") from error
    if evaluation.model_sha256 != model_sha256:
        raise EvaluationError(f"{place} was changed since its report of {evaluation.date}: evaluate it again")
    return evaluation
