"""How a candidate's answers compare with those of the default version, by the counts of a server."""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Metric

from app.metrics import SHADOW_CHANGES, SHADOWS, Labels, Totals
from app.watch.shadowing import AGREES, COMPARISONS, DIFFERS, REFUSES


def describe_shadow(name: str, candidate: str, families: Iterable[Metric]) -> dict[str, Any]:
    """Describe the comparisons of a candidate.

    Returns:
        Each of `COMPARISONS` as a count; `n`, the pictures that the candidate was shown; `default`, the versions that
        it was compared with; `mean_change`, the mean absolute difference of the scores, None without any.
    """
    totals = Totals(families)

    def find(label: str) -> Callable[[Labels], str | None]:
        return lambda labels: labels[label] if (labels["model"], labels["candidate"]) == (name, candidate) else None

    counts, defaults = (totals.sum_by(SHADOWS, find(label)) for label in ("comparison", "version"))
    changes, pairs = (
        sum(totals.sum_by(f"{SHADOW_CHANGES}_{part}", find("candidate")).values()) for part in ("sum", "count")
    )
    told: dict[str, Any] = {each: round(counts.get(each, 0)) for each in COMPARISONS}
    told |= {"n": told[AGREES] + told[DIFFERS] + told[REFUSES], "default": ", ".join(sorted(defaults))}
    return told | {"mean_change": changes / pairs if pairs else None}
