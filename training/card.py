"""The figures of a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities
from app.engines.compiled.compile_report import read_report
from app.engines.compiled.int8_report import INT8_FOLDER, read_int8_report
from app.evaluation.calibration_fit import COVERAGE, cross_validate, measure_calibration_error
from app.evaluation.report.report_files import DOCUMENT_FILE, PAGE_FILE
from app.manifest.model_manifest import read_manifest
from app.pipeline.postprocess import undo_calibration

PREVALENCES = 0.02, 0.1, 0.5


def format_figures(folder: Path, measured: Mapping[str, dict[str, Any]], on_val: dict[str, Any]) -> str:
    """Write the card's part on figures.

    Args:
        folder: of the version, with its final manifest.
        measured: reports of `models evaluate`, by the words for their pictures; the main one first.
        on_val: the report on the pictures that calibration and threshold were fitted on.
    """
    output = read_manifest(folder).output
    rows = [
        f"Threshold: {output.threshold:.4f} on the probability of `{output.positive_class}`;",
        f"{output.threshold_source}.",
        "",
        "| measured on | AUC | sensitivity | specificity | calibration error | class among the possible ones |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for data, report in measured.items():
        probabilities, labels = read_answers(report)
        error = measure_calibration_error(probabilities, labels, 1)
        covered = measure_coverage(probabilities, labels, folder)
        figures = " | ".join(describe(each) for each in report["metrics"].values())
        rows.append(f"| {data} | {figures} | {error:.3f} | {covered} |")
    probabilities, labels = read_answers(on_val)
    corrected, share = cross_validate(undo_calibration(probabilities, output), labels, output)
    error = measure_calibration_error(corrected, labels, 1)
    rows += [
        "",
        "In brackets: 95 % intervals (AUC: DeLong; shares: Wilson) and the number of pictures.",
        f"The calibration error has 15 bins. Cross-validated on the validation part it is {error:.3f}, and the true",
        f"class is among the possible ones for {share:.1%}; {COVERAGE:.0%} is the aim, class by class.",
        "",
        *format_prevalences(next(iter(measured.values())), output.positive_class or ""),
        "",
        *format_int8(folder),
        "",
        f"Curves, thresholds, subgroups and mistakes: [{PAGE_FILE}]({PAGE_FILE}); the same for programs:",
        f"[{DOCUMENT_FILE}]({DOCUMENT_FILE}).",
    ]
    return "\n".join(rows)


def read_answers(report: dict[str, Any]) -> tuple[Probabilities, NDArray[np.int64]]:
    """Return the probabilities and labels of a report."""
    return np.array(report["probabilities"]), np.array(report["labels"])


def measure_coverage(probabilities: Probabilities, labels: NDArray[np.int64], folder: Path) -> str:
    """Say for which share of each class that class was among the possible ones."""
    output = read_manifest(folder).output
    assert output.calibration is not None, "the recipe has calibrated it"
    shares = [
        (probabilities[labels == index, index] >= least).mean()
        for index, least in enumerate(output.calibration.possible_from)
    ]
    return ", ".join(f"{name} {share:.1%}" for name, share in zip(output.classes, shares, strict=True))


def describe(figure: dict[str, Any]) -> str:
    """Write a figure with its interval and number."""
    value, low, high = (f"{round(figure[key], 4):.3f}" for key in ("value", "low", "high"))  # as the manifest has them
    return f"{value} ({low} to {high}; n = {figure['n']})"


def format_prevalences(report: dict[str, Any], positive_class: str) -> list[str]:
    """Say how often an answer is right where the class is rare or common."""
    sensitivity, specificity = (report["metrics"][name]["value"] for name in ("sensitivity", "specificity"))
    labels = np.array(report["labels"])
    rows = [
        f"These figures were measured where {labels.mean():.0%} of the pictures are {positive_class}. Elsewhere an",
        "answer is right more or less often:",
        "",
        f"| pictures that are {positive_class} | right of its {positive_class} answers | right of its other answers |",
        "| --- | --- | --- |",
    ]
    for prevalence in PREVALENCES:
        hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
        misses, rejections = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
        rows.append(f"| {prevalence:.0%} | {hits / (hits + alarms):.0%} | {rejections / (rejections + misses):.1%} |")
    return rows


def format_int8(folder: Path) -> list[str]:
    """Say what INT8 costs, if the folder has such a model."""
    if not (folder / INT8_FOLDER).exists():
        return ["There is no INT8 model."]
    manifest = read_manifest(folder)
    report = read_int8_report(folder, manifest, read_report(folder, manifest))
    verdict = f"It is not served: {report.refusal}." if report.refusal else "`SCANCER_PRECISION=int8` serves it."
    counts = ", ".join(f"{count} {name}" for name, count in report.measured_pictures.items())
    return [
        f"INT8: the AUC changes by {-report.auc_drop:+.4f} "
        f"({-report.auc_drop_high:+.4f} to {-report.auc_drop_low:+.4f}) on {counts}. {verdict}"
    ]
