"""A handler's own metrics: what is taken of them, how they add up, and the text that they become."""

import socket
from typing import Any

import pytest

from app.api.monitoring.torchserve_text import write_handler_metrics
from app.handlers.manager.handler_metrics import MAX_SERIES, HandlerMetrics

HOST = f'Hostname="{socket.gethostname()}",'
LABELS = (("ModelName", "Level"), ("m", "Model"))


def take(*updates: Any) -> list[dict[str, Any]]:
    metrics = HandlerMetrics()
    metrics.take(list(updates))
    return metrics.list_series()


def test_counters_add_up_gauges_are_replaced_and_histograms_sorted() -> None:
    metrics = HandlerMetrics()
    for _ in range(2):
        metrics.take([[["seen", "counter", "count", *LABELS], [2.0]], [["took", "gauge", "ms", *LABELS], [1.0, 7.0]]])
    metrics.take([[["size", "histogram", "MB", *LABELS], [0.3, 2.0]]])
    text = write_handler_metrics(metrics.list_series() * 2, frozenset())  # as if another model had the same labels
    model = f'ModelName="m",Level="Model",{HOST}'
    assert (
        f"# HELP seen Torchserve prometheus counter metric with unit: count\n# TYPE seen counter\nseen{{{model}}} 8.0\n"
        in text
    )
    assert f"took{{{model}}} 7.0\n" in text
    assert f'size_bucket{{{model}le="0.25",}} 0.0\n' in text
    assert f'size_bucket{{{model}le="0.5",}} 2.0\n' in text
    assert f'size_bucket{{{model}le="+Inf",}} 4.0\n' in text
    assert f"size_count{{{model}}} 4.0\nsize_sum{{{model}}} 4.6\n" in text
    assert write_handler_metrics(metrics.list_series(), frozenset({"took"})).startswith("# HELP took ")


@pytest.mark.parametrize(
    "update",
    [
        [["a b", "counter", "", [], []], [1.0]],
        [['a{x="y"} 1\nb', "counter", "", [], []], [1.0]],
        [["a", "summary", "", [], []], [1.0]],
        [["a", "counter", "", ["l"], []], [1.0]],
        [["a", "counter", "", ["l-l"], ["v"]], [1.0]],
        [["a", "counter", "", ["l", "l"], ["v", "w"]], [1.0]],
        [["a", "counter", "", [], []], [float("nan")]],
        [["a", "counter", "", [], []], ["x"]],
        [[1, "counter", "", [], []], [1.0]],
        "nonsense",
        None,
    ],
)
def test_what_is_no_metric_is_passed_over(update: Any) -> None:
    assert take(update) == []


def test_series_are_bounded_and_a_family_of_the_server_stays_its_own() -> None:
    assert len(take(*([["a", "counter", "", ["l"], [str(index)]], [1.0]] for index in range(2000)))) == MAX_SERIES
    theirs = take(*([[name, "gauge", "ms", *LABELS], [1.0]] for name in ("HandlerTime", "scancer_requests_total")))
    assert write_handler_metrics(theirs, frozenset()) == ""


def test_label_cannot_break_a_line() -> None:
    text = write_handler_metrics(take([["a", "counter", "u\nv", ["l"], ['x"}\n1']], [1.0]]), frozenset())
    assert text.splitlines()[0].endswith("unit: u v")
    assert text.splitlines()[2] == f'a{{l="x\\"}}\\n1",{HOST}}} 1.0'
    assert len(text.splitlines()) == 3
