"""The metrics that handlers add themselves, summed over the processes of a model, also of those that have ended.

What a handler's process says is taken for no more than it is: names that Prometheus does not take, and more series
than anyone reads, are passed over.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

METRIC_NAME, LABEL_NAME = (
    re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}"),
    re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,99}"),
)
KINDS = ("counter", "gauge", "histogram")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Of a histogram; those of the Java library that TorchServe writes with."""
MAX_SERIES, MAX_LABEL_LENGTH, MAX_LABELS = 1000, 200, 16


@dataclass
class Series:
    """One series: the labels in the handler's order, and what was seen.

    Attributes:
        value: the sum of a counter, the last value of a gauge, the sum of a histogram.
        buckets: of a histogram, how many values were not above each of `BUCKETS`.
        count: of a histogram.
    """

    name: str
    kind: str
    unit: str
    labels: tuple[tuple[str, str], ...]
    value: float = 0.0
    count: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))

    def add(self, values: list[float]) -> None:
        """Take values in the order in which they came."""
        for value in values:
            if self.kind == "histogram":
                self.count += 1
                self.buckets = [seen + (value <= most) for seen, most in zip(self.buckets, BUCKETS, strict=True)]
            self.value = value if self.kind == "gauge" else self.value + value


class HandlerMetrics:
    """What the handler of one model has said."""

    def __init__(self) -> None:
        self._series: dict[tuple[Any, ...], Series] = {}

    def take(self, updates: Any) -> None:
        """Take what a process sent; what is none of `MetricsStore.take` is passed over."""
        if not isinstance(updates, list):
            return
        for update in updates:
            try:
                (name, kind, unit, names, labels), values = update
                series = make_series(name, kind, unit, list(zip(names, labels, strict=True)))
                numbers = [float(value) for value in values]
            except (TypeError, ValueError):
                continue
            if series is not None and all(math.isfinite(number) for number in numbers):
                self._add(series, numbers)

    def _add(self, series: Series, numbers: list[float]) -> None:
        key = series.name, series.labels
        if key not in self._series and len(self._series) >= MAX_SERIES:
            return
        known = self._series.setdefault(key, series)
        if known.kind == series.kind:
            known.add(numbers)

    def list_series(self) -> list[dict[str, Any]]:
        """Return the series, for another process."""
        return [vars(series) for series in self._series.values()]


def make_series(name: Any, kind: Any, unit: Any, labels: list[tuple[Any, Any]]) -> Series | None:
    """Return a series without values; None if Prometheus would not take its names."""
    if not METRIC_NAME.fullmatch(name) or kind not in KINDS or len(labels) > MAX_LABELS:
        return None
    if not all(LABEL_NAME.fullmatch(label) for label, _ in labels) or len(dict(labels)) < len(labels):
        return None
    told = tuple((label, str(value)[:MAX_LABEL_LENGTH]) for label, value in labels)
    return Series(name, kind, str(unit)[:MAX_LABEL_LENGTH].replace("\n", " "), told)
