"""Sums the metrics that a handler adds itself over the processes of its model, also those that have ended.

A handler's process may send anything: names that Prometheus refuses, and series above a bound, are skipped.
"""

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}")
LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,99}")
KINDS = ("counter", "gauge", "histogram")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of a histogram's buckets; those of the Java library that TorchServe uses."""
MAX_SERIES, MAX_LABEL_LENGTH, MAX_LABELS = 1000, 200, 16


@dataclass
class Series:
    """One series. `value` is the sum of a counter or a histogram, the last value of a gauge. Of a histogram, `buckets`
    count the values that are not above each of `BUCKETS`, and `count` counts all.
    """

    name: str
    kind: str
    unit: str
    labels: tuple[tuple[str, str], ...]
    value: float = 0.0
    count: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))

    def add(self, values: list[float]) -> None:
        """Add values in the order in which they came."""
        for value in values:
            if self.kind == "histogram":
                self.count += 1
                self.buckets = [seen + (value <= most) for seen, most in zip(self.buckets, BUCKETS, strict=True)]
            self.value = value if self.kind == "gauge" else self.value + value


class HandlerMetrics:
    """The series of one model's handler."""

    def __init__(self) -> None:
        self._series: dict[tuple[Any, ...], Series] = {}

    def take(self, updates: Any) -> None:
        """Add what a process sent; updates that `MetricsStore.take` cannot have made are skipped."""
        for update in updates if isinstance(updates, list) else ():
            with suppress(TypeError, ValueError):
                (name, kind, unit, names, labels), values = update
                series = make_series(name, kind, unit, list(zip(names, labels, strict=True)))
                self._add(series, [float(value) for value in values])

    def _add(self, series: Series, values: list[float]) -> None:
        key = series.name, series.labels
        if all(math.isfinite(value) for value in values) and (key in self._series or len(self._series) < MAX_SERIES):
            known = self._series.setdefault(key, series)
            if known.kind == series.kind:
                known.add(values)

    def list_series(self) -> list[dict[str, Any]]:
        """Return the series, for another process."""
        return [vars(series) for series in self._series.values()]


def make_series(name: Any, kind: Any, unit: Any, labels: list[tuple[Any, Any]]) -> Series:
    """Make a series without values; raises `ValueError` or `TypeError` if Prometheus would refuse its names."""
    if not METRIC_NAME.fullmatch(name) or kind not in KINDS:
        raise ValueError("the metric has no name or no kind")
    if len(labels) > MAX_LABELS or len(dict(labels)) < len(labels):
        raise ValueError("the labels are too many, or two have one name")
    if not all(LABEL_NAME.fullmatch(label) for label, _ in labels):
        raise ValueError("a label has no name")
    told = tuple((label, str(value)[:MAX_LABEL_LENGTH]) for label, value in labels)
    return Series(name, kind, str(unit)[:MAX_LABEL_LENGTH].replace("\n", " "), told)
