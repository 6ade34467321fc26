"""`GET /metrics` for Prometheus."""

import os
from collections.abc import Callable
from functools import wraps

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from app.api.auth import require
from app.api.context import services
from app.config import MULTIPROCESS_VARIABLE
from app.metrics import Metrics


def make_exporter_blueprint(metrics: Metrics) -> Blueprint:
    """Make the blueprint; under gunicorn any worker answers with the sum of all, elsewhere with its own figures."""
    kind = GunicornInternalPrometheusMetrics if MULTIPROCESS_VARIABLE in os.environ else PrometheusMetrics
    exporter = kind.for_app_factory(export_defaults=False, path=None, registry=metrics.registry)
    blueprint = Blueprint("exporter", __name__)

    @blueprint.get("/metrics")
    @open_on_loopback
    def metrics_page() -> ResponseReturnValue:
        # Without the exporter's filter `name[]`: in multi-process mode it filters before there is anything to filter.
        text, content_type = exporter.generate_metrics(request.headers.get("Accept"))
        return Response(text, content_type=content_type)

    return blueprint


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
