"""How often a version was right, by the truths that came later."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from app.evaluation.estimates import estimate_share
from app.manifest.model_specs import OutputSpec
from app.state.outcome import Outcome


def count_outcomes(outcomes: Sequence[Outcome], spec: OutputSpec) -> dict[str, Any]:
    """Count answers by class and truth, and work out sensitivity and specificity, or accuracy, where there are any.

    Returns:
        `n`, `answers` (by truth, then by answered class), and each figure with its 95 % interval and its own n.
    """
    pairs = Counter((each.truth, each.class_name) for each in outcomes)
    table = {truth: {name: pairs[truth, name] for name in spec.classes} for truth in spec.classes}
    told: dict[str, Any] = {"n": len(outcomes), "answers": table}
    positive = spec.positive_class
    if positive is None:
        told |= describe("accuracy", sum(table[name][name] for name in spec.classes), len(outcomes))
        return told
    (negative,) = set(spec.classes) - {positive}
    for figure, name in (("sensitivity", positive), ("specificity", negative)):
        told |= describe(figure, table[name][name], sum(table[name].values()))
    return told


def describe(figure: str, hits: int, n: int) -> dict[str, Any]:
    """Describe a share; nothing where there is no picture."""
    return {figure: asdict(estimate_share(hits, n))} if n else {}
