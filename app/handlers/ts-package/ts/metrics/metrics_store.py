"""A handler's own metrics, gathered in its process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

MAX_SERIES = 1000
"""A handler that makes a label of each request's text must not fill the memory."""


@dataclass
class Metric:
    """A metric and its series: the sum of a counter, the last value of any other."""

    name: str
    metric_type: MetricTypes
    unit: str = ""
    dimension_names: Sequence[str] = ()
    series: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add_or_update(
        self,
        value: float,
        dimension_values: Sequence[str] = (),
        request_id: str = "",  # noqa: ARG002  # TorchServe's parameter
    ) -> None:
        """Take a value of the series with these labels."""
        labels = tuple(str(each) for each in dimension_values)
        if labels not in self.series and len(self.series) >= MAX_SERIES:
            return
        before = self.series.get(labels, 0.0) if self.metric_type is MetricTypes.COUNTER else 0.0
        self.series[labels] = before + float(value)

    def update(self, value: float) -> None:
        """Take a value of the series without labels."""
        self.add_or_update(value)


class MetricsStore:
    """What `context.metrics` is."""

    def __init__(self, request_ids: Mapping[int, str], model_name: str) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.cache: dict[tuple[str, MetricTypes], Metric] = {}

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str = "",
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> Metric:
        """Return the metric of this name and kind, made if need be."""
        key = metric_name, metric_type
        if key not in self.cache:
            self.cache[key] = Metric(metric_name, metric_type, unit, tuple(dimension_names))
        return self.cache[key]

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> Metric:
        """Return a metric; raises `KeyError` if there is none of this name and kind."""
        return self.cache[metric_name, metric_type]

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str = "",
        idx: Any = None,  # noqa: ARG002  # TorchServe's parameter
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Take a value of a metric of any kind."""
        labels = list(dimensions or ())
        metric = self.add_metric_to_cache(name, unit, [each.name for each in labels], metric_type)
        metric.add_or_update(value, [each.value for each in labels])

    def add_counter(
        self, name: str, value: float, idx: Any = None, dimensions: Iterable[Dimension] | None = None
    ) -> None:
        """Add to a counter."""
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "ms",
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Set a time, in milliseconds unless another unit is named."""
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "MB",
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Set a size, in megabytes unless another unit is named."""
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: Any = None,
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Set a percentage."""
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Iterable[Dimension] | None = None) -> None:
        """Count an error."""
        self.add_metric(name, value, "", None, dimensions)
