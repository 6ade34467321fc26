"""The plots on a model's page: the curves of its report, `report.json` in its folder, for a template to draw."""

import json
import stat
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from app.config.settings import MIB
from app.errors import OutOfBoundsError
from app.manifest.bounds import COUNT, COUNTED, SHARE, Bound, read_number, read_whole
from app.manifest.model_manifest import ModelManifest
from app.processes.plain_files import read_plain
from app.repository.model_folder import FIGURES_FILE, ModelFolder

MAX_REPORT_BYTES = 4 * MIB
MAX_BINS = 100
MOST_CLASSES = 8
"""Of a model with more classes, a page shows the first ones; the report itself has all."""
STEP = 0.008
"""How far apart the points of a curve are at least, as a share of the plot's side: at most 250 are left."""
ROUNDED = 1e-5
"""By how much a report's threshold may differ from the model's: a report has six digits."""
FALSE_ALARMS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""For which shares of false alarms a page tells in numbers how many are found."""


class Share(NamedTuple):
    """A share with its 95 % interval, each from 0 to 1."""

    value: float
    low: float
    high: float


class Dot(NamedTuple):
    """The pictures of similar scores: their mean score, and the share of them that is of the class."""

    mean_score: float
    share: Share
    pictures: int


class Plot(NamedTuple):
    """One class against the others.

    Attributes:
        curve: share of false alarms and share of the class that is found, by falling thresholds.
        found: for each of `FALSE_ALARMS`, the share that is found.
        own: the point of the version's threshold; None of more than two classes.
        dots: what is true by what was said, by rising scores.
    """

    class_name: str
    others: str
    auc: Share
    curve: list[tuple[float, float]]
    found: list[tuple[float, float]]
    own: tuple[float, float] | None
    dots: list[Dot]
    calibration_error: float


class Plots(NamedTuple):
    """What a page shows of a report; `left_out` counts the classes that are in the report alone."""

    data: str
    shown: list[Plot]
    left_out: int


class Measured(NamedTuple):
    """Which state of a version a report is of; `calibration` names the pictures on which it was calibrated."""

    name: str
    version: str
    classes: tuple[str, ...]
    positive_class: str | None
    threshold: float | None
    calibration: str | None


def find_plots(folder: ModelFolder, manifest: ModelManifest | None) -> Plots | None:
    """Return the plots of a version; None without a report, or with one that is of the version as it was before."""
    path = folder.path / FIGURES_FILE
    try:
        status = path.lstat()
        if manifest is None or not stat.S_ISREG(status.st_mode) or status.st_size > MAX_REPORT_BYTES:
            return None
        found = read_report(path, (status.st_mtime_ns, status.st_size))
    except OSError:
        return None
    return found[1] if found is not None and is_of_version(found[0], manifest) else None


@lru_cache(maxsize=64)
def read_report(path: Path, _state: tuple[int, int]) -> tuple[Measured, Plots] | None:
    """Read a report; `_state` is when it was changed and its size in bytes. None for what is no report.

    Raises `OSError` if it cannot be read, which is not remembered: it may pass.
    """
    try:
        report = json.loads(read_plain(path))
        measured, classes = read_measured(report), report["classes"]
        own = None if measured.positive_class is None else read_own(report["operating"][0])
        shown = [read_plot(each, own) for each in classes[:MOST_CLASSES]]
        return measured, Plots(str(report["data"]), shown, len(classes) - len(shown))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OutOfBoundsError):
        return None


def read_measured(report: Any) -> Measured:
    """Read what a report was measured on."""
    evaluation, certainty = report["evaluation"], report["certainty"]
    own = (evaluation["model"], evaluation["version"], tuple(evaluation["pictures"]), evaluation["positive_class"])
    threshold = None if evaluation["threshold"] is None else bound(evaluation["threshold"])
    return Measured(*own, threshold, None if certainty is None else certainty["data"])


def is_of_version(measured: Measured, manifest: ModelManifest) -> bool:
    """Whether what decides a version's answers, so far as a report says it, is as it was when the report was made."""
    output = manifest.output
    calibration = output.calibration.data if output.calibration else None
    own = Measured(
        manifest.name, manifest.version, output.classes, output.positive_class, measured.threshold, calibration
    )
    if measured != own or measured.threshold is None or output.threshold is None:
        return measured == own and measured.threshold == output.threshold
    return abs(measured.threshold - output.threshold) < ROUNDED


def read_own(row: Any) -> tuple[float, float]:
    """Read the point of the version's own threshold."""
    return 1 - read_share(row["specificity"]).value, read_share(row["sensitivity"]).value


def read_plot(figures: Any, own: tuple[float, float] | None) -> Plot:
    """Read the figures of a class."""
    curve = read_curve(figures["curve"])
    most = [max((found for alarms, found in curve if alarms <= share), default=0.0) for share in FALSE_ALARMS]
    bins = [each for each in figures["bins"][:MAX_BINS] if each["pictures"]]
    return Plot(
        str(figures["class_name"]),
        str(figures["others"]),
        read_share(figures["auc"]),
        thin_out(curve),
        list(zip(FALSE_ALARMS, most, strict=True)),
        own,
        [Dot(bound(each["mean_score"]), read_share(each["share"]), count(each["pictures"])) for each in bins],
        bound(figures["calibration_error"]),
    )


def read_share(figure: Any) -> Share:
    """Read a figure with its interval."""
    return Share(*(bound(figure[key]) for key in Share._fields))


def bound(value: object) -> float:
    """Read a number from 0 to 1."""
    return read_number("a share", value, SHARE)


def count(value: object, most: Bound = COUNT) -> int:
    """Read how many pictures something is."""
    return read_whole("pictures", value, most)


def read_curve(counts: Any) -> list[tuple[float, float]]:
    """Read a curve from how many reach each threshold, and let it begin at 0."""
    alarms, hits = counts["false_positives"], counts["true_positives"]
    most_alarms, most_hits = count(alarms[-1]), count(hits[-1])
    pairs = zip(alarms, hits, strict=True)
    points = [(count(alarm, COUNTED) / most_alarms, count(hit, COUNTED) / most_hits) for alarm, hit in pairs]
    if any(max(point) > 1 for point in points):
        raise ValueError("a point lies outside")
    return [(0.0, 0.0), *points]


def thin_out(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out points that lie close to the one before; the last stays."""
    kept = [curve[0]]
    for point in curve[1:]:
        if abs(point[0] - kept[-1][0]) + abs(point[1] - kept[-1][1]) >= STEP:
            kept.append(point)
    return [*kept, curve[-1]] if kept[-1] != curve[-1] else kept
