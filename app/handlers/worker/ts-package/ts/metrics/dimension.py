"""A label of a metric."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dimension:
    """Name and value of a metric's label."""

    name: str
    value: str
