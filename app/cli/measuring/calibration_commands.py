"""`flask models calibrate|set-threshold`: makes a version's numbers mean what they say, on labelled pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import tomlkit

from app.api.request.services import services
from app.cli.audit_command import record
from app.cli.measuring.evaluation_commands import describe, measure_version
from app.cli.model_choice import FOLDER, find_classifier, models_commands
from app.errors import EvaluationError, PicturesError, SignatureError
from app.evaluation.calibration_fit import (
    MAX_CLASSES,
    MIN_PICTURES,
    cross_validate,
    fit_calibration,
    measure_calibration_error,
)
from app.evaluation.estimates import Estimate
from app.evaluation.evaluation_report import Evaluation
from app.evaluation.operating_points import measure_point, threshold_at_sensitivity, threshold_at_specificity
from app.manifest.manifest_editing import edit_manifest
from app.manifest.model_manifest import MANIFEST_FILE, ModelManifest
from app.manifest.model_specs import OutputSpec
from app.pipeline.postprocess import calibrate, undo_calibration
from app.processes.locks import hold_lock
from app.repository.signing import SIGNATURE_FILE
from app.state.wanted import PlannedVersion

DIGITS = 6
RELOAD = "a running server answers so after a reload (get_started/evaluate.md)"
SHARE = click.FloatRange(0, 1, min_open=True)


@models_commands.command("calibrate")
@click.argument("version", metavar="NAME/VERSION")
@click.option("--data", type=FOLDER, required=True, help="Folder of labelled pictures, as for `models evaluate`.")
def calibrate_model(version: str, data: Path) -> None:
    """Make a version's probabilities mean what they say.

    The command shows the pictures to the version, fits a correction of its probabilities, and the limits from which a
    class is possible, and writes both into its model.toml. Of two classes, decisions and AUC stay what they are: the
    threshold is corrected too. Use pictures that the model was not trained on, as many of each class as in practice.
    """
    with hold_version(version) as planned:
        manifest = planned.folder.read_manifest()
        if len(manifest.output.classes) > MAX_CLASSES:
            raise EvaluationError(f"only models of up to {MAX_CLASSES} classes can be calibrated")
        evaluation = measure_version(planned, data)
        if min(evaluation.pictures.values()) < MIN_PICTURES:
            raise PicturesError(f"{data.name} must hold at least {MIN_PICTURES} readable pictures of each class")
        probabilities, labels = evaluation.arrays()
        raw = undo_calibration(probabilities, manifest.output)
        fitted = fit_calibration(raw, labels, manifest.output, describe_pictures(data, evaluation))
        corrected, covered = cross_validate(raw, labels, fitted)
        threshold = correct_threshold(manifest.output, fitted)
        edit_manifest(planned.folder.path, lambda document: put_calibration(document, fitted, threshold))
        index = find_positive(manifest)
        before, after = (measure_calibration_error(each, labels, index) for each in (probabilities, corrected))
        click.echo(f"expected calibration error of {manifest.output.classes[index]}: {before:.3f}, now {after:.3f}")
        click.echo(f"the true class is among the possible ones for {covered:.1%} of the pictures")
        click.echo("both by five fits, each measured on the fifth of the pictures that it had not seen")
        click.echo(f"{version} is calibrated; {RELOAD}")


def correct_threshold(before: OutputSpec, fitted: OutputSpec) -> float | None:
    """Return the threshold that decides with a new calibration as the old one did before; raises `EvaluationError`."""
    if before.threshold is None or before.threshold in (0, 1):
        return before.threshold
    index = before.classes.index(before.positive_class or "")
    row = np.full((1, 2), 1 - before.threshold)
    row[0, index] = before.threshold
    threshold = float(calibrate(undo_calibration(row, before), fitted)[0, index])
    if threshold in (0, 1):
        raise EvaluationError(f"the threshold {before.threshold} would become {threshold:g}: choose another one first")
    return threshold


@models_commands.command("set-threshold")
@click.argument("version", metavar="NAME/VERSION")
@click.option("--sensitivity", type=SHARE, help="Least share of the positive pictures to be found.")
@click.option("--specificity", type=SHARE, help="Least share of the negative pictures to be called so.")
@click.option("--value", type=click.FloatRange(0, 1), help="The threshold itself.")
@click.option("--data", type=FOLDER, help="Folder of labelled pictures, as for `models evaluate`.")
def set_threshold(
    version: str, sensitivity: float | None, specificity: float | None, value: float | None, data: Path | None
) -> None:
    """Choose the score from which a version answers its positive class.

    Give one of --sensitivity, --specificity and --value. The command writes the threshold, where it comes from, and
    the sensitivity and specificity that it has on the pictures of --data, into the version's model.toml. Without --data
    a --value has no such figures, and earlier ones are removed.
    """
    if [sensitivity, specificity, value].count(None) != 2:
        raise click.UsageError("give one of --sensitivity, --specificity and --value")
    if data is None and value is None:
        raise click.UsageError("--sensitivity and --specificity need --data")
    with hold_version(version) as planned:
        manifest = planned.folder.read_manifest()
        if manifest.output.positive_class is None:
            raise EvaluationError("only a model of two classes has a threshold")
        point = Chosen(value or 0.0, "set by hand", "", {})
        if data is not None:
            point = choose_point(manifest, measure_version(planned, data), data, sensitivity, specificity, value)
        edit_manifest(planned.folder.path, lambda document: put_threshold(document, point))
        for name, figure in point.figures.items():
            click.echo(f"{name} {describe(figure)}")
        click.echo(f"{version} answers {manifest.output.positive_class} from {point.threshold:g}; {RELOAD}")


@dataclass(frozen=True)
class Chosen:
    """A threshold, where it comes from, and its figures on `pictures`; without pictures it has none."""

    threshold: float
    source: str
    pictures: str
    figures: dict[str, Estimate]


def choose_point(
    manifest: ModelManifest,
    evaluation: Evaluation,
    data: Path,
    sensitivity: float | None,
    specificity: float | None,
    value: float | None,
) -> Chosen:
    """Choose the threshold as one of the three says, and measure it."""
    pictures = describe_pictures(data, evaluation)
    probabilities, labels = evaluation.arrays()
    index = find_positive(manifest)
    scores, is_positive = probabilities[:, index], labels == index
    source, rule = "set by hand", ""
    if sensitivity is not None:
        value, rule = threshold_at_sensitivity(scores[is_positive], sensitivity), f"sensitivity of {sensitivity:.4g}"
    elif specificity is not None:
        value, rule = threshold_at_specificity(scores[~is_positive], specificity), f"specificity of {specificity:.4g}"
    assert value is not None, "one of the three is given"
    if (sensitivity, specificity) != (None, None):
        source = f"{rule} or more on {pictures}"
    point = measure_point(value, scores, is_positive)
    if point.sensitivity.value < (sensitivity or 0) or point.specificity.value < (specificity or 0):
        raise EvaluationError(f"no threshold has a {rule} on {pictures}")
    return Chosen(value, source, pictures, {"sensitivity": point.sensitivity, "specificity": point.specificity})


@contextmanager
def hold_version(label: str) -> Iterator[PlannedVersion]:
    """Find the version of NAME/VERSION, and keep other commands from changing its manifest meanwhile; raises as
    `find_editable`.
    """
    planned = find_editable(label)
    with hold_lock(services().settings.instance / f"edit-{planned.folder.name}-{planned.folder.version}.lock"):
        manifest = planned.folder.path / MANIFEST_FILE
        before = manifest.read_bytes()
        yield planned
        if manifest.read_bytes() != before:
            record("model.toml changed", label)


def find_editable(label: str) -> PlannedVersion:
    """Find the version of NAME/VERSION; raises EvaluationError for an archive, SignatureError for a signed one."""
    planned = find_classifier(label)
    if (planned.folder.path / SIGNATURE_FILE).exists():
        raise SignatureError(
            f"{label} is signed, and its model.toml would change: remove {SIGNATURE_FILE}, and sign it again afterwards"
        )
    return planned


def find_positive(manifest: ModelManifest) -> int:
    """Return the index of the class that figures speak of: the positive one; of more than two classes the last."""
    classes, positive = manifest.output.classes, manifest.output.positive_class
    return len(classes) - 1 if positive is None else classes.index(positive)


def describe_pictures(data: Path, evaluation: Evaluation) -> str:
    """Name the pictures by their folder and numbers."""
    counts = ", ".join(f"{count} {name}" for name, count in evaluation.pictures.items())
    return f"{data.resolve().name} ({counts})"


def put_calibration(document: tomlkit.TOMLDocument, fitted: OutputSpec, threshold: float | None) -> None:
    """Write `[calibration]` and the threshold; figures of more than two classes, which decide otherwise now, go."""
    assert fitted.calibration is not None, "it was fitted"
    document.pop("reference", None)  # the scores are others now
    table: Any = document.setdefault("calibration", tomlkit.table())
    for key, value in asdict(fitted.calibration).items():
        table[key] = list(value) if isinstance(value, tuple) else value
    if threshold is not None:
        output: Any = document["output"]
        output["threshold"] = threshold
    else:
        document.pop("metrics", None)


def put_threshold(document: tomlkit.TOMLDocument, point: Chosen) -> None:
    """Write the threshold with its source, and its figures in the place of those of another threshold."""
    output: Any = document["output"]
    output["threshold"], output["threshold_source"] = point.threshold, point.source
    metrics: Any = document.setdefault("metrics", tomlkit.table(is_super_table=True))
    for name in ("sensitivity", "specificity"):
        if name not in point.figures:
            metrics.pop(name, None)
            continue
        table = metrics.setdefault(name, tomlkit.table())
        for key, value in asdict(point.figures[name]).items():
            table[key] = round(value, DIGITS)
        table["data"] = point.pictures
