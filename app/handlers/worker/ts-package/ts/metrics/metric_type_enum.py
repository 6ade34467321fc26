"""Kinds of metrics."""

from enum import Enum


class MetricTypes(Enum):
    """How a metric's values add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
