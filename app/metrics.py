"""Every Prometheus collector, declared once.

Import this module only where an app is made: `prometheus_client` decides on its multi-process mode when it is first
imported.
"""

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from app.config.settings import METRICS_BEGINNING, MULTIPROCESS_VARIABLE
from app.histograms import DISTANCE_EDGES, SCORE_EDGES
from app.routes import is_prediction

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SCORES, DISTANCES = "scancer_score", "scancer_fit_distance"
SHADOWS, SHADOW_CHANGES = "scancer_shadow_total", "scancer_shadow_score_change"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
LATELY_S = 1.0
FAILED = "failed"
"""The one stage of a prediction that got no answer: the whole time of its request."""


def name_method(method: str) -> str:
    """Return an HTTP method by its name, or `other`: a caller may send any word as one."""
    return method if method in METHODS else "other"


@lru_cache(maxsize=4096)
def find_series(collector: MetricWrapperBase, *labels: str) -> Any:
    """Return the series of a collector with these labels; looking it up there anew costs more than counting."""
    return collector.labels(*labels)


Key = TypeVar("Key", bound=Hashable)
Labels = Mapping[str, str]


class Totals:
    """Sums over the series of the families that `Metrics.collect` returned."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def sum_by(self, name: str, find_key: Callable[[Labels], Key | None]) -> dict[Key, float]:
        """Sum a sample's values by the key that `find_key` makes from their labels; the key None skips a value."""
        sums: dict[Key, float] = defaultdict(float)
        for labels, value in self._samples[name]:
            key = find_key(labels)
            if key is not None:
                sums[key] += value
        return sums


def declare_drift(registry: CollectorRegistry) -> tuple[Histogram, Histogram]:
    """Declare what shows that other pictures come than before: scores, and distances to the training pictures."""
    labels = ("model", "version")
    distance = "How far a picture is from those that the model was trained on, refused ones too; 1 is the limit."
    return (
        Histogram(SCORES, "Score of an answer.", labels, buckets=SCORE_EDGES, registry=registry),
        Histogram(DISTANCES, distance, labels, buckets=DISTANCE_EDGES, registry=registry),
    )


def declare_shadow(registry: CollectorRegistry) -> tuple[Counter, Histogram]:
    """Declare what shows how a candidate's answers compare with the default version's."""
    labels = ("model", "version", "candidate")
    compared = "Pictures for a candidate, by how its answer compares: agrees, differs, refuses, dropped or fails."
    change = "Absolute difference between a candidate's score and the default version's."
    return (
        Counter(SHADOWS, compared, (*labels, "comparison"), registry=registry),
        Histogram(SHADOW_CHANGES, change, labels, buckets=SCORE_EDGES, registry=registry),
    )


def read_beginning(folder: str) -> float:
    """Return when counting began in a folder of the workers' metrics, seconds since 1970."""
    try:
        return Path(folder, METRICS_BEGINNING).stat().st_mtime
    except FileNotFoundError:  # gunicorn runs with a configuration of its own
        return Path(folder).stat().st_mtime


class Metrics:
    """The collectors of one app. Labels take values from closed sets only: no raw path, method or model name."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._made = time.time()
        self._collecting, self._collected_s, self._lately = threading.Lock(), -math.inf, list[Metric]()
        count, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        measure = partial(Histogram, buckets=SECONDS, registry=registry)
        self.requests = count(
            "scancer_requests_total",
            "HTTP requests by route rule, method, status, model and version.",
            ("rule", "method", "status", "model", "version"),
        )
        self.request_seconds = measure(
            "scancer_request_seconds", "Whole time of an HTTP request in the worker, by route rule.", ("rule",)
        )
        self.predictions = count(
            "scancer_predictions_total", "Predictions by model, version and class.", ("model", "version", "class")
        )
        self.scores, self.distances = declare_drift(registry)
        self.prediction_seconds = measure(
            "scancer_prediction_seconds",
            "Time of one prediction request by route rule and stage: decode, queue, inference, whole; or else failed.",
            ("rule", "model", "version", "stage"),
        )
        self.model_state = gauge(
            "scancer_model_state",
            "Workers in which the model version is in this state.",
            ("model", "version", "state"),
            multiprocess_mode="livesum",
        )
        self.model_load_seconds = gauge(
            "scancer_model_load_seconds",
            "Time that loading the model version took in the worker in which it took longest.",
            ("model", "version"),
            multiprocess_mode="livemax",
        )
        self.failed_logins = count(
            "scancer_failed_logins_total", "Logins that failed, by reason: wrong, or limited.", ("reason",)
        )
        self.shadows, self.shadow_changes = declare_shadow(registry)
        self.refused = count("scancer_refused_total", "Requests and connections turned away, by reason.", ("reason",))

    def count_request(self, rule: str, method: str, status: int, model: str, version: str, seconds: float) -> None:
        """Count one answered HTTP request."""
        find_series(self.requests, rule, name_method(method), str(status), model, version).inc()
        find_series(self.request_seconds, rule).observe(seconds)

    def observe_prediction(self, rule: str, model: str, version: str, stages: dict[str, float]) -> None:
        """Record where the time of one prediction request went, in seconds by stage."""
        for stage, seconds in stages.items():
            find_series(self.prediction_seconds, rule, model, version, stage).observe(seconds)

    def count_prediction(self, model: str, version: str, class_name: str) -> None:
        """Count one picture that got a class."""
        find_series(self.predictions, model, version, class_name).inc()

    def observe_score(self, model: str, version: str, score: float) -> None:
        """Record the score of one answer."""
        find_series(self.scores, model, version).observe(score)

    def observe_distance(self, model: str, version: str, distance: float) -> None:
        """Record how far one picture is from those that the model was trained on."""
        find_series(self.distances, model, version).observe(distance)

    def count_shadow(self, model: str, version: str, candidate: str, comparison: str) -> None:
        """Count one picture that was for a candidate too."""
        find_series(self.shadows, model, version, candidate, comparison).inc()

    def observe_shadow(self, model: str, version: str, candidate: str, change: float) -> None:
        """Record how far a candidate's score is from the default version's."""
        find_series(self.shadow_changes, model, version, candidate).observe(change)

    def count_refusal(self, reason: str) -> None:
        """Count one request that was turned away."""
        find_series(self.refused, reason).inc()

    def count_failed_login(self, reason: str) -> None:
        """Count one login with a wrong name or password, or one that was not tried."""
        find_series(self.failed_logins, reason).inc()

    def count_failure(self, rule: str, method: str, model: str, version: str, seconds: float) -> None:
        """Record how long a request took that was answered by an error, if it asked a model for something."""
        if is_prediction(rule, method):
            self.observe_prediction(rule, model, version, {FAILED: seconds})

    def collect(self) -> list[Metric]:
        """Return every family: summed over the workers of the server, or this process's own outside a server."""
        if MULTIPROCESS_VARIABLE not in os.environ:
            return list(self.registry.collect())
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]  # it has no annotations
        return list(every.collect())

    def collect_lately(self) -> list[Metric]:
        """Return what `collect` returned within the last second: to sum up the files of many workers is dear."""
        with self._collecting:
            if time.monotonic() - self._collected_s > LATELY_S:
                self._lately, self._collected_s = self.collect(), time.monotonic()
            return self._lately

    @property
    def since(self) -> float:
        """When counting began, seconds since 1970."""
        folder = os.environ.get(MULTIPROCESS_VARIABLE)
        return self._made if folder is None else read_beginning(folder)

    def show_state(self, model: str, version: str, state: str, states: Iterable[str]) -> None:
        """Set the state of a model version in this worker; `states` are all there are."""
        for other in states:
            self.model_state.labels(model, version, other).set(int(other == state))

    def show_load(self, model: str, version: str, seconds: float) -> None:
        """Set how long loading a model version took in this worker."""
        self.model_load_seconds.labels(model, version).set(seconds)
