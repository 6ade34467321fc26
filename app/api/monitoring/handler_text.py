"""Writes the metrics that handlers add themselves in TorchServe's text."""

import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.api.monitoring.metric_lines import Line, write_family
from app.api.monitoring.torchserve_text import FAMILIES
from app.handlers.manager.handler_metrics import BUCKETS

OURS = "scancer_"


def write_handler_metrics(series: Iterable[Mapping[str, Any]], wanted: frozenset[str]) -> str:
    """Write the series of all handlers, as `app.handlers.manager.handler_metrics.Series` has them.

    A family that the server itself writes is left out, and so is a series of another kind than the first of its name.
    `wanted` names families; an empty set stands for all.
    """
    families: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in series:
        name = each["name"]
        if name not in FAMILIES and not name.startswith(OURS) and (not wanted or name in wanted):
            families[name].append(each)
    return "".join(
        write_family(name, own[0]["kind"], own[0]["unit"], merge_lines(own)) for name, own in sorted(families.items())
    )


def merge_lines(series: list[Mapping[str, Any]]) -> Iterable[Line]:
    """Return the lines of one family, one for all models and versions that have a series of the same labels.

    The line of a gauge has the last one's value, any other line the sum.
    """
    kind = series[0]["kind"]
    merged: dict[Any, Line] = {}
    for line in (line for each in series if each["kind"] == kind for line in list_lines(each)):
        key = line.name, tuple(line.labels)
        before = merged[key].value if key in merged and kind != "gauge" else 0.0
        merged[key] = line._replace(value=before + line.value)
    return merged.values()


def list_lines(series: Mapping[str, Any]) -> Iterator[Line]:
    """Yield the lines of one series."""
    name = series["name"]
    labels = [(label, value) for label, value in series["labels"] if label != "Hostname"]
    labels.append(("Hostname", socket.gethostname()))
    if series["kind"] != "histogram":
        yield Line(name, labels, series["value"])
        return
    for most, seen in zip((*map(str, BUCKETS), "+Inf"), (*series["buckets"], series["count"]), strict=True):
        yield Line(f"{name}_bucket", [*labels, ("le", most)], seen)
    yield Line(f"{name}_count", labels, series["count"])
    yield Line(f"{name}_sum", labels, series["value"])
