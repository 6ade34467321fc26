"""Writes metrics in TorchServe's text: TorchServe's own, from the counts of `app/metrics.py`, and those of handlers.

A gauge of a time is the mean since this worker was last asked, where TorchServe shows the last request's time. The mean
costs a prediction nothing, and one slow request between two scrapes still shows.
"""

import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import Metric

from app.api.monitoring.host_figures import HostFigures
from app.api.monitoring.metric_lines import Line, write_family
from app.handlers.manager.handler_metrics import BUCKETS
from app.metrics import Labels, Totals
from app.routes import is_prediction

FAMILIES = {
    "Requests2XX": ("counter", "Count"),
    "Requests4XX": ("counter", "Count"),
    "Requests5XX": ("counter", "Count"),
    "ts_inference_requests_total": ("counter", "Count"),
    "ts_inference_latency_microseconds": ("counter", "Microseconds"),
    "ts_queue_latency_microseconds": ("counter", "Microseconds"),
    "QueueTime": ("gauge", "Milliseconds"),
    "WorkerThreadTime": ("gauge", "Milliseconds"),
    "WorkerLoadTime": ("gauge", "Milliseconds"),
    "CPUUtilization": ("gauge", "Percent"),
    "MemoryUsed": ("gauge", "Megabytes"),
    "MemoryAvailable": ("gauge", "Megabytes"),
    "MemoryUtilization": ("gauge", "Percent"),
    "DiskUsage": ("gauge", "Gigabytes"),
    "DiskAvailable": ("gauge", "Gigabytes"),
    "DiskUtilization": ("gauge", "Percent"),
    "HandlerTime": ("gauge", "ms"),
    "PredictionTime": ("gauge", "ms"),
}
"""Those of TorchServe's families that mean something here: name, kind and unit."""

DEFAULT = "default"
MS_PER_S, US_PER_S = 1e3, 1e6
ALL_MODELS = ""


def name_version(labels: Labels) -> str:
    """Return the version that a request's URL named, or TorchServe's word if it named none."""
    return labels["version"] if "<version>" in labels["rule"] else DEFAULT


def find_inference(labels: Labels) -> tuple[str, str] | None:
    """Return model and version of a series of `scancer_requests_total`; None unless it counts predictions."""
    is_one = labels["model"] and is_prediction(labels["rule"], labels["method"])
    return (labels["model"], name_version(labels)) if is_one else None


class RecentMeans:
    """Means over the values that came since the last call; a mean stays as it was while none comes.

    Thread safety: `update` may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, ...]] = {}
        self._means: dict[str, tuple[float, ...]] = {}

    def update(self, totals: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
        """Take totals, each a count and sums, and return the means of the sums."""
        with self._lock:
            for key, (count, *sums) in totals.items():
                earlier_count, *earlier = self._seen.get(key, (0.0,) * (len(sums) + 1))
                if count > earlier_count:
                    came = count - earlier_count
                    self._means[key] = tuple((now - then) / came for now, then in zip(sums, earlier, strict=True))
                    self._seen[key] = (count, *sums)
            return dict(self._means)


class TorchServeMetrics:
    """Writes TorchServe's families.

    Thread safety: `write` may be called from any thread.
    """

    def __init__(self) -> None:
        self._host = HostFigures()
        self._recent = RecentMeans()
        self._hostname = socket.gethostname()
        self._host_labels = [("Level", "Host"), ("Hostname", self._hostname)]

    def write(self, families: Iterable[Metric], wanted: frozenset[str]) -> str:
        """Write the counts of all workers; `wanted` names families, and an empty set stands for all."""
        lines: dict[str, list[Line]] = defaultdict(list)
        for line in self._list_lines(Totals(families)):
            lines[line.name].append(line)
        return "".join(
            write_family(name, kind, unit, lines[name])
            for name, (kind, unit) in FAMILIES.items()
            if not wanted or name in wanted
        )

    def _list_lines(self, totals: Totals) -> Iterator[Line]:
        yield from self._list_answers(totals)
        yield from self._list_inferences(totals)
        yield from self._list_times(totals)
        yield from self._list_loads(totals)
        for name, value in self._host.read().items():
            yield Line(name, self._host_labels, value)

    def _list_answers(self, totals: Totals) -> Iterator[Line]:
        """Yield the answers of all three ports by the first figure of their status.

        Refusals that were answered 503 before they reached the application are not among the requests.
        """
        answers = totals.sum_by("scancer_requests_total", lambda labels: labels["status"][0])
        refused = totals.sum_by("scancer_refused_total", lambda labels: labels["reason"])
        turned_away = refused.get("overload", 0.0) + refused.get("uploads", 0.0)
        for figure, more in (("2", 0.0), ("4", 0.0), ("5", turned_away)):
            yield Line(f"Requests{figure}XX", self._host_labels, answers.get(figure, 0.0) + more)

    def _list_inferences(self, totals: Totals) -> Iterator[Line]:
        """Yield counts and sums of times for every known model, also before its first request."""
        known = totals.sum_by("scancer_model_state", lambda labels: (labels["model"], DEFAULT))
        requests = dict.fromkeys(known, 0.0) | totals.sum_by("scancer_requests_total", find_inference)
        seconds = totals.sum_by(
            "scancer_prediction_seconds_sum", lambda labels: (labels["model"], name_version(labels), labels["stage"])
        )
        for (model, version), count in sorted(requests.items()):
            labels = [("model_name", model), ("model_version", version), ("hostname", self._hostname)]
            whole, queue = (seconds.get((model, version, stage), 0.0) for stage in ("whole", "queue"))
            yield Line("ts_inference_requests_total", labels, count)
            yield Line("ts_inference_latency_microseconds", labels, whole * US_PER_S)
            yield Line("ts_queue_latency_microseconds", labels, queue * US_PER_S)

    def _list_times(self, totals: Totals) -> Iterator[Line]:
        """Yield means of recent times: queue and server for all models together, the model's own for each."""
        means = self._recent.update(sum_stages(totals))
        for model, (whole, queue, own) in sorted(means.items()):
            labels = [("ModelName", model), ("Level", "Model"), ("Hostname", self._hostname)]
            if model == ALL_MODELS:
                yield Line("QueueTime", self._host_labels, queue * MS_PER_S)
                yield Line("WorkerThreadTime", self._host_labels, max(0.0, whole - queue - own) * MS_PER_S)
            else:
                yield Line("HandlerTime", labels, own * MS_PER_S)
                yield Line("PredictionTime", labels, (whole - queue) * MS_PER_S)

    def _list_loads(self, totals: Totals) -> Iterator[Line]:
        """Yield how long each model took to load, in the slowest worker."""
        loads = totals.sum_by("scancer_model_load_seconds", lambda labels: (labels["model"], labels["version"]))
        for (model, version), seconds in sorted(loads.items()):
            labels = [("WorkerName", f"W-9000-{model}_{version}"), *self._host_labels]
            yield Line("WorkerLoadTime", labels, seconds * MS_PER_S)


def sum_stages(totals: Totals) -> dict[str, tuple[float, ...]]:
    """Return for each model, and for all: predictions, and their seconds in all, in the queue, and in the model."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    counts = totals.sum_by("scancer_prediction_seconds_count", lambda labels: (labels["model"], labels["stage"]))
    seconds = totals.sum_by("scancer_prediction_seconds_sum", lambda labels: (labels["model"], labels["stage"]))
    places = {"whole": 1, "queue": 2, "decode": 3, "inference": 3}
    for (model, stage), value in seconds.items():
        for key in (model, ALL_MODELS) if stage in places else ():
            sums[key][places[stage]] += value
            sums[key][0] += counts[model, stage] if stage == "whole" else 0.0
    return {key: tuple(values) for key, values in sums.items()}


def write_handler_metrics(series: Iterable[Mapping[str, Any]], wanted: frozenset[str]) -> str:
    """Write the series of all handlers, as `app.handlers.manager.handler_metrics.Series` has them.

    A family of the server itself is left out, and a series of another kind than the first of its name.
    """
    families: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in series:
        name = each["name"]
        if name not in FAMILIES and not name.startswith("scancer_") and (not wanted or name in wanted):
            families[name].append(each)
    return "".join(
        write_family(name, own[0]["kind"], own[0]["unit"], merge_lines(own)) for name, own in sorted(families.items())
    )


def merge_lines(series: list[Mapping[str, Any]]) -> Iterable[Line]:
    """Return one line for all series of the same labels: the last value of a gauge, the sum of anything else."""
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
