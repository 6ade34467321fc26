"""A handler's own metrics, gathered in its process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

MAX_SERIES = 1000
"""A handler that makes a label of each request's text must not fill the memory."""
COUNTER, GAUGE = MetricTypes.COUNTER, MetricTypes.GAUGE
Dimensions = Iterable[Dimension] | None
Update = tuple[str, str, str, tuple[str, ...], tuple[str, ...]]
"""Name, kind and unit of a metric, and names and values of a series' labels."""


@dataclass
class Metric:
    """A metric, and what was said of its series since it was last told."""

    name: str
    metric_type: MetricTypes
    unit: str = ""
    dimension_names: Sequence[str] = ()
    pending: dict[Update, list[float]] = field(default_factory=dict)

    def add_or_update(
        self,
        value: float,
        dimension_values: Sequence[str] = (),
        request_id: str = "",  # noqa: ARG002  # TorchServe's parameter
    ) -> None:
        """Take a value of the series with these labels."""
        labels = tuple(str(each) for each in dimension_values)
        key = self.name, self.metric_type.value, self.unit, tuple(self.dimension_names), labels
        if key not in self.pending and len(self.pending) >= MAX_SERIES:
            return
        values = self.pending.setdefault(key, [])
        if self.metric_type is COUNTER:
            values[:] = [sum(values) + float(value)]
        elif self.metric_type is GAUGE:
            values[:] = [float(value)]
        elif len(values) < MAX_SERIES:
            values.append(float(value))

    def update(self, value: float) -> None:
        """Take a value of the series without labels."""
        self.add_or_update(value)


class MetricsStore:
    """What `context.metrics` is."""

    def __init__(self, request_ids: Mapping[int, str], model_name: str) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.cache: dict[tuple[str, MetricTypes], Metric] = {}
        self._pending: dict[Update, list[float]] = {}

    def take(self) -> list[tuple[Update, list[float]]]:
        """Return what was said since the last time: sums of counters, last values of gauges, all of histograms."""
        taken = list(self._pending.items())
        self._pending.clear()
        return taken

    def add_metric_to_cache(
        self, metric_name: str, unit: str = "", dimension_names: Sequence[str] = (), metric_type: MetricTypes = COUNTER
    ) -> Metric:
        """Return the metric of this name and kind, made if need be."""
        key = metric_name, metric_type
        if key not in self.cache:
            self.cache[key] = Metric(metric_name, metric_type, unit, tuple(dimension_names), self._pending)
        return self.cache[key]

    def get_metric(self, metric_name: str, metric_type: MetricTypes = COUNTER) -> Metric:
        """Return a metric; raises `KeyError` if there is none of this name and kind."""
        return self.cache[metric_name, metric_type]

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str = "",
        idx: Any = None,  # noqa: ARG002  # TorchServe's parameter
        dimensions: Dimensions = None,
        metric_type: MetricTypes = COUNTER,
    ) -> None:
        """Take a value of a metric of any kind."""
        self._take(name, value, unit, dimensions, metric_type, is_of_model=bool(self.request_ids))

    def _take(
        self, name: str, value: float, unit: str, dimensions: Dimensions, kind: MetricTypes, is_of_model: bool
    ) -> None:
        """Take a value, with the labels that every metric has where the handler gives none."""
        labels = list(dimensions or ())
        names = {each.name for each in labels}
        if is_of_model and "ModelName" not in names:
            labels.append(Dimension("ModelName", self.model_name))
        if "Level" not in names:
            labels.append(Dimension("Level", "Model" if is_of_model else "Error"))
        metric = self.add_metric_to_cache(name, unit, [each.name for each in labels], kind)
        metric.add_or_update(value, [each.value for each in labels])

    def add_counter(self, name: str, value: float, idx: Any = None, dimensions: Dimensions = None) -> None:
        """Add to a counter."""
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "ms",
        dimensions: Dimensions = None,
        metric_type: MetricTypes = GAUGE,
    ) -> None:
        """Set a time, in milliseconds unless another unit is named."""
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "MB",
        dimensions: Dimensions = None,
        metric_type: MetricTypes = GAUGE,
    ) -> None:
        """Set a size, in megabytes unless another unit is named."""
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self, name: str, value: float, idx: Any = None, dimensions: Dimensions = None, metric_type: MetricTypes = GAUGE
    ) -> None:
        """Set a percentage."""
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Dimensions = None) -> None:
        """Count an error."""
        self._take(name, value, "", dimensions, COUNTER, is_of_model=False)
