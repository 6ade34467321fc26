"""`GET /metrics` for Prometheus: our own families and TorchServe's."""

import os
from collections.abc import Callable, Iterable
from functools import wraps

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from app.api.monitoring.handler_text import write_handler_metrics
from app.api.monitoring.torchserve_text import TorchServeMetrics
from app.api.request.auth import require
from app.api.request.services import services
from app.config.settings import MULTIPROCESS_VARIABLE
from app.metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""TorchServe's, whatever is asked for: its lines are no OpenMetrics."""


class Collected(Collector):
    """Families that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def make_exporter_blueprint(metrics: Metrics) -> Blueprint:
    """Make the blueprint; under gunicorn any worker answers with the sum of all, elsewhere with its own figures."""
    if MULTIPROCESS_VARIABLE in os.environ:
        exporter = GunicornInternalPrometheusMetrics.for_app_factory(
            export_defaults=False, path=None, registry=CollectorRegistry()
        )
    else:
        exporter = PrometheusMetrics.for_app_factory(export_defaults=False, path=None, registry=metrics.registry)
    torchserve = TorchServeMetrics()
    blueprint = Blueprint("exporter", __name__)

    @blueprint.get("/metrics")
    @open_on_loopback
    def metrics_page() -> ResponseReturnValue:
        families = list(exporter.registry.collect())
        wanted = frozenset(request.args.getlist("name[]"))
        ours = generate_latest(Collected(choose_families(families, wanted))).decode("utf-8")
        theirs = write_handler_metrics(services().follower.registry.archives.list_metrics(), wanted)
        return Response(ours + torchserve.write(families, wanted) + theirs, content_type=CONTENT_TYPE)

    return blueprint


def choose_families(families: Iterable[Metric], wanted: frozenset[str]) -> list[Metric]:
    """Return the families named: by their own name or by that of one of their lines. An empty set names all."""
    return [
        family
        for family in families
        if not wanted or wanted & {family.name, family.name + "_total", *(each.name for each in family.samples)}
    ]


def open_on_loopback(view: Callable[[], ResponseReturnValue]) -> Callable[[], ResponseReturnValue]:
    """Ask for no password where only this machine can reach the metrics address; elsewhere for any user's."""
    guarded = require("predict")(view)

    @wraps(view)
    def choose() -> ResponseReturnValue:
        settings = services().settings
        port = request.environ.get("SERVER_PORT")
        # A request's port is known, its address is not: every address of this port must be a loopback one.
        behind_port = [address for address in settings.addresses if str(address.port) == port]
        is_open = str(settings.metrics_address.port) == port and all(each.is_loopback for each in behind_port)
        return view() if is_open else guarded()

    return choose
