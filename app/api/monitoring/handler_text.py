"""The metrics that handlers add themselves, in the text that TorchServe writes them in; see `torchserve_metrics`."""

import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.api.monitoring.torchserve_text import FAMILIES, HEAD, Line, write_line
from app.handlers.manager.handler_metrics import BUCKETS

OURS = "scancer_"


def write_handler_metrics(series: Iterable[Mapping[str, Any]], wanted: frozenset[str]) -> str:
    """Return the text.

    Args:
        series: of all handlers, see `app.handlers.manager.handler_metrics.Series`.
        wanted: names of families; an empty set stands for all. A family that the server itself writes is the server's.
    """
    families: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in series:
        name = each["name"]
        is_first_of_kind = not families[name] or families[name][0]["kind"] == each["kind"]
        if name not in FAMILIES and not name.startswith(OURS) and (not wanted or name in wanted) and is_first_of_kind:
            families[name].append(each)
    return "".join(
        HEAD.format(name=name, kind=own[0]["kind"], unit=own[0]["unit"])
        + "".join(write_line(line) for line in merge_lines(own))
        for name, own in sorted(families.items())
        if own
    )


def merge_lines(series: Iterable[Mapping[str, Any]]) -> Iterator[Line]:
    """The lines of one family; where several models, or versions, have a series of the same labels there is one.

    Of a gauge that is the last one's value, of all else the sum.
    """
    merged: dict[Any, Line] = {}
    for each in series:
        for line in list_lines(each):
            key = line.name, tuple(line.labels)
            before = merged[key].value if key in merged and each["kind"] != "gauge" else 0.0
            merged[key] = line._replace(value=before + line.value)
    yield from merged.values()


def list_lines(series: Mapping[str, Any]) -> Iterator[Line]:
    """The lines of one series."""
    labels = [(name, value) for name, value in series["labels"] if name != "Hostname"]
    labels.append(("Hostname", socket.gethostname()))
    if series["kind"] != "histogram":
        yield Line(series["name"], labels, series["value"])
        return
    for most, seen in zip(map(str, BUCKETS), series["buckets"], strict=True):
        yield Line(f"{series['name']}_bucket", [*labels, ("le", most)], seen)
    yield Line(f"{series['name']}_bucket", [*labels, ("le", "+Inf")], series["count"])
    yield Line(f"{series['name']}_count", labels, series["count"])
    yield Line(f"{series['name']}_sum", labels, series["value"])
