"""Writes metrics in TorchServe's text: a comma after the last label, a point in every number, no suffix at a counter.

Expressions of TorchServe's users depend on that, and no Python library writes it.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

HEAD = "# HELP {name} Torchserve prometheus {kind} metric with unit: {unit}\n# TYPE {name} {kind}\n"


class Line(NamedTuple):
    """One line: a name, the labels in TorchServe's order, and the number."""

    name: str
    labels: Sequence[tuple[str, str]]
    value: float


def write_family(name: str, kind: str, unit: str, lines: Iterable[Line]) -> str:
    """Write the head of a family and its lines."""
    return HEAD.format(name=name, kind=kind, unit=unit) + "".join(map(write_line, lines))


def write_line(line: Line) -> str:
    """Write a line."""
    labels = "".join(f'{name}="{escape(value)}",' for name, value in line.labels)
    return f"{line.name}{{{labels}}} {write_number(line.value)}\n"


def escape(value: str) -> str:
    """Write the value of a label so that it cannot end the label or the line."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def write_number(value: float) -> str:
    """Write a number as Java does: always with a point, and with an exponent from ten millions on."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(float(value))
    mantissa, _, exponent = f"{Decimal(repr(value)).normalize():E}".partition("E")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{int(exponent)}"
