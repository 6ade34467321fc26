"""Writes a report: `report.html` for people, `report.json` for programs, and `pictures.csv` with all pictures."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.errors import EvaluationError
from app.evaluation.estimates import Estimate
from app.evaluation.report import plots
from app.evaluation.report.operating_table import Expected
from app.evaluation.report.subgroups import Grouping
from app.evaluation.report.version_comparison import VersionComparison
from app.evaluation.report.version_report import Reported, VersionReport
from app.evaluation.version_evaluation import Answer, Unreadable
from app.manifest.model_specs import OutputSpec
from app.processes.atomic import write_file
from app.repository.model_folder import FIGURES_FILE

PAGE_FILE, DOCUMENT_FILE, PICTURES_FILE = "report.html", FIGURES_FILE, "pictures.csv"
COMPARISON_PAGE_FILE, COMPARISON_DOCUMENT_FILE = "comparison.html", "comparison.json"
NONE = "–"
DIGITS = 6
"""Significant ones: what lies beyond differs from one processor to the next."""


def write_report(folder: Path, reported: Reported, images: Mapping[int, str]) -> None:
    """Write the three files; `images` are the worst mistakes by number. Raises `EvaluationError` if it cannot."""
    texts = {
        PAGE_FILE: render_report(reported.report, images),
        DOCUMENT_FILE: format_document(describe_report(reported.report)),
        PICTURES_FILE: format_pictures(reported.measured.answers, reported.groupings, reported.manifest.output),
    }
    write_texts(folder, texts)


def write_comparison(folder: Path, comparison: VersionComparison) -> None:
    """Write the two files of a comparison; raises `EvaluationError` if it cannot."""
    texts = {
        COMPARISON_PAGE_FILE: render("comparison.html", report=comparison),
        COMPARISON_DOCUMENT_FILE: format_document(describe_comparison(comparison)),
    }
    write_texts(folder, texts)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files into a folder, which is made if need be; raises `EvaluationError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_file(folder / name, text)
    except OSError as error:
        raise EvaluationError(f"the report cannot be written: {error.strerror}") from error


def describe_report(report: VersionReport) -> dict[str, Any]:
    """Turn a report into JSON's types, without its date and without what `pictures.csv` has."""
    document = asdict(report)
    for key in ("date", "labels", "probabilities"):
        del document["evaluation"][key]
    return document


def describe_comparison(comparison: VersionComparison) -> dict[str, Any]:
    """Turn a comparison into JSON's types, with the p-values of the AUCs."""
    document = asdict(comparison)
    groups = [comparison.whole, *(group for column in comparison.columns for group in column.groups)]
    written = [document["whole"], *(group for column in document["columns"] for group in column["groups"])]
    for group, each in zip(groups, written, strict=True):
        if group.auc is not None:
            each["auc"]["p_value"] = group.auc.p_value
    return document


def format_document(document: Mapping[str, Any]) -> str:
    """Write JSON with rounded numbers."""
    return json.dumps(round_numbers(document), indent=1, ensure_ascii=False) + "\n"


def round_numbers(value: Any) -> Any:
    """Round all fractions in lists and objects to six significant digits."""
    if isinstance(value, Mapping):
        return {key: round_numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [round_numbers(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def format_pictures(answers: Sequence[Answer | Unreadable], groupings: Sequence[Grouping], spec: OutputSpec) -> str:
    """Write a row for each picture, also for one that could not be read, in the order of their numbers."""
    header = ["number", "file", "class", "answer", "right", *(f"probability of {name}" for name in spec.classes)]
    header += ["possible", "cannot_tell", "fits", "distance", "reasons", "sha256", "error"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*header, *(each.column for each in groupings)])
    for number, each in enumerate(answers, 1):
        told = describe_answer(each, spec) if isinstance(each, Answer) else [""] * (len(header) - 4) + [each.reason]
        values = (grouping.values[number - 1] for grouping in groupings)
        writer.writerow([number, each.picture.name, spec.classes[each.picture.label], *told, *values])
    return stream.getvalue()


def describe_answer(answer: Answer, spec: OutputSpec) -> list[object]:
    """Return the cells of an answer, from `answer` to `error`."""
    decision, fit = answer.decision, answer.fit
    is_right = decision.class_name == spec.classes[answer.picture.label]
    possible = decision.possible_classes
    return [
        decision.class_name,
        write_truth(is_right),
        *(f"{value:.{DIGITS}g}" for value in answer.probabilities),
        "" if possible is None else " ".join(possible),
        "" if possible is None else write_truth(decision.cannot_tell),
        "" if fit is None else write_truth(fit.fits),
        "" if fit is None or fit.distance is None else f"{fit.distance:.3f}",
        "" if fit is None else "; ".join(fit.reasons),
        answer.sha256,
        "",
    ]


def write_truth(value: bool) -> str:
    """Write `true` or `false`."""
    return str(value).lower()


def render_report(report: VersionReport, images: Mapping[int, str]) -> str:
    """Make the page. Raises `FrameworkMissingError` without matplotlib."""
    plots.require_matplotlib()
    own = None if report.evaluation.positive_class is None else report.operating[0]
    drawings = [
        {
            "roc": plots.draw_roc(f"roc{index}", figures, own),
            "precision_recall": plots.draw_precision_recall(f"recall{index}", figures, own),
            "reliability": plots.draw_reliability(f"reliability{index}", figures),
            "histogram": plots.draw_histogram(f"scores{index}", figures, own),
        }
        for index, figures in enumerate(report.classes)
    ]
    return render("report.html", report=report, drawings=drawings, images=images)


def render(template: str, **context: object) -> str:
    """Fill a template."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"figure": write_figure, "of_100": write_of_100, "percent": write_percent}
    return environment.get_template(template).render(**context)


def write_figure(figure: Estimate | None) -> str:
    """Write a figure with its 95 % interval."""
    return NONE if figure is None else f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def write_of_100(figure: Estimate | Expected) -> str:
    """Write a share as so many of 100, with its interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return NONE
    return f"{100 * figure.value:.0f} ({100 * figure.low:.0f} to {100 * figure.high:.0f})"


def write_percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.3g} %"
