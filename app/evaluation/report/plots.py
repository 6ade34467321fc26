"""Draws the figures of a report as SVG, which a page holds as they are: no script, no file, the text as text.

The same figures give the same bytes. matplotlib is imported here alone, and only when something is drawn.
"""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from app.errors import FrameworkMissingError
from app.evaluation.report.class_figures import HISTOGRAM_BINS, ClassFigures
from app.evaluation.report.operating_table import OperatingRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Becomes `currentColor`, so that axes and words are dark on a light page and light on a dark one."""
BLUE, ORANGE = "#2f7fd6", "#d4661a"
"""Both have a contrast of 3 and more against white and against the dark page."""
SIZE_INCHES = 4.6, 3.8
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
WITHOUT_FACTS = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""matplotlib writes none of them then."""


def require_matplotlib() -> None:
    """Raise `FrameworkMissingError` if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise FrameworkMissingError(
            "a report needs matplotlib, which is not installed: run `pip install -r requirements.txt`"
        ) from None


def draw(name: str, title: str, described: str, fill: Callable[["Axes"], None]) -> str:
    """Draw a figure and return its SVG element.

    Args:
        name: unique on the page; its ids begin with it.
        title: read out by a screen reader, as is `described`.
        described: what is seen, in a sentence.
        fill: draws into the axes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        fill(figure.add_subplot())
        figure.legend(loc="outside upper center", ncols=3, fontsize=9, handlelength=1.5, columnspacing=1)
        figure.savefig(buffer, format="svg", transparent=True, metadata=WITHOUT_FACTS)
    return embed(buffer.getvalue(), name, title, described)


def embed(document: str, name: str, title: str, described: str) -> str:
    """Turn a whole SVG document into an element of a page that has other figures."""
    svg = document[document.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)  # the page's own
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    words = f"<title>{escape(title)}</title><desc>{escape(described)}</desc>"
    return re.sub(r"<svg[^>]*>", lambda found: f'{found[0][:-1]} role="img">{words}', svg, count=1).strip()


def draw_shares(axes: "Axes", across: str, up: str) -> None:
    """Give axes that go from 0 to 1 their words and lines."""
    axes.set(xlabel=across, ylabel=up, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.grid(visible=True, color=INK, alpha=0.15, linewidth=0.6)


def draw_roc(name: str, figures: ClassFigures, own: OperatingRow | None) -> str:
    """Draw the ROC curve, with the point of the version's threshold."""
    curve = figures.curve

    def fill(axes: "Axes") -> None:
        draw_shares(axes, f"{figures.others} called {figures.class_name} (false alarms)", f"{figures.class_name} found")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="chance")
        axes.plot([0, *curve.false_alarms], [0, *curve.recalls], color=BLUE, label="this version")
        if own is not None:
            mark(axes, 1 - own.specificity.value, own.sensitivity.value, own)

    said = f"The curve rises from 0 to 1; the area below it is {figures.auc.value:.3f}."
    return draw(name, f"ROC curve of {figures.class_name}", said, fill)


def draw_precision_recall(name: str, figures: ClassFigures, own: OperatingRow | None) -> str:
    """Draw the precision-recall curve, with the point of the version's threshold."""
    curve = figures.curve

    def fill(axes: "Axes") -> None:
        draw_shares(axes, f"{figures.class_name} found (recall)", "answers that are right (precision)")
        axes.axhline(figures.prevalence, color=INK, linewidth=1, linestyle=":", label="chance")
        precisions = [curve.precisions[0], *curve.precisions]
        axes.plot([0, *curve.recalls], precisions, color=BLUE, drawstyle="steps-pre", label="this version")
        if own is not None and own.ppv is not None:
            mark(axes, own.sensitivity.value, own.ppv.value, own)

    said = f"The area below the curve, the average precision, is {figures.average_precision:.3f}."
    return draw(name, f"Precision-recall curve of {figures.class_name}", said, fill)


def mark(axes: "Axes", across: float, up: float, own: OperatingRow) -> None:
    """Mark the version's threshold on a curve."""
    axes.plot(across, up, "o", color=ORANGE, markersize=8, label=f"its threshold, {own.threshold:.3f}")


def draw_reliability(name: str, figures: ClassFigures) -> str:
    """Draw what is true against what was said, with 95 % intervals; the size of a dot says how many pictures it is."""
    filled = [(each.mean_score or 0.0, each.share, each.pictures) for each in figures.bins if each.share is not None]

    def fill(axes: "Axes") -> None:
        draw_shares(axes, "mean score of the pictures", f"share that is {figures.class_name}")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="scores that mean what they say")
        most = max(pictures for *_, pictures in filled)
        for said, share, pictures in filled:
            axes.plot([said, said], [share.low, share.high], color=BLUE, linewidth=1)
            axes.plot(said, share.value, "o", color=BLUE, markersize=4 + 6 * (pictures / most) ** 0.5)

    said = f"The expected calibration error is {figures.calibration_error:.3f}."
    return draw(name, f"Reliability of the score of {figures.class_name}", said, fill)


def draw_histogram(name: str, figures: ClassFigures, own: OperatingRow | None) -> str:
    """Draw how many pictures of the class, and of the others, have which score."""
    edges = [each / HISTOGRAM_BINS for each in range(HISTOGRAM_BINS + 1)]
    parts: Sequence[tuple[str, list[int], str]] = (
        (figures.others, figures.histogram_others, BLUE),
        (figures.class_name, figures.histogram, ORANGE),
    )

    def fill(axes: "Axes") -> None:
        for label, counts, colour in parts:
            axes.stairs(counts, edges, color=colour, fill=True, alpha=0.35)
            axes.stairs(counts, edges, color=colour, linewidth=1.5, label=label)
        if own is not None and own.threshold is not None:
            axes.axvline(own.threshold, color=INK, linestyle="--", linewidth=1, label=f"threshold, {own.threshold:.3f}")
        axes.set(xlabel=f"score: probability of {figures.class_name}", ylabel="pictures", xlim=(0, 1))

    said = f"Pictures by their score, those that are {figures.class_name} apart from those that are not."
    return draw(name, f"Scores by class, {figures.class_name}", said, fill)
