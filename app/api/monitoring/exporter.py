"""`GET /metrics` for Prometheus: our own families, TorchServe's, and those of handlers."""

from collections.abc import Callable, Iterable
from functools import wraps

from flask import request
from flask.typing import ResponseReturnValue
from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics

from app.api.monitoring.torchserve_text import TorchServeMetrics, write_handler_metrics
from app.api.request.auth import require
from app.api.request.services import facts, names_this_machine, services
from app.errors import ForbiddenError
from app.metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""TorchServe's, for every `Accept`: its lines are no OpenMetrics."""


class Exporter(PrometheusMetrics):  # type: ignore[misc]  # the package has no annotations
    """prometheus-flask-exporter's endpoint, with TorchServe's text behind ours.

    The package's own `generate_metrics` cannot choose families by name where several processes are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(None, export_defaults=False, registry=metrics.registry, metrics_decorator=open_on_loopback)
        self._metrics = metrics
        self._torchserve = TorchServeMetrics()

    def generate_metrics(
        self,
        accept_header: str | None = None,  # noqa: ARG002  # the package's signature
        names: Iterable[str] | None = None,
    ) -> tuple[str, str]:
        """Return text and content type; `names` are those of families or their lines, and none stands for all."""
        caller = facts().caller
        if caller is not None and caller.models:
            raise ForbiddenError("The metrics name every model, and the user may not ask every model.")
        families, wanted = self._metrics.collect(), frozenset(names or ())
        ours = generate_latest(Chosen(families, wanted)).decode("utf-8")
        theirs = write_handler_metrics(services().follower.registry.archives.pools.list_metrics(), wanted)
        return ours + self._torchserve.write(families, wanted) + theirs, CONTENT_TYPE


class Chosen(Collector):
    """Those families of which the family itself or one of its lines is named; all if no name is given."""

    def __init__(self, families: Iterable[Metric], names: frozenset[str]) -> None:
        self._families = families
        self._names = names

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        for family in self._families:
            lines = (sample.name for sample in family.samples)
            if not self._names or self._names & {family.name, family.name + "_total", *lines}:
                yield family


def open_on_loopback(view: Callable[[], ResponseReturnValue]) -> Callable[[], ResponseReturnValue]:
    """Ask for no password where only this machine can reach the metrics address; elsewhere for any user's.

    A trusted proxy leads others to the address of predictions or of management, so metrics are not open there.
    """
    guarded = require("predict")(view)

    @wraps(view)
    def choose() -> ResponseReturnValue:
        settings = services().settings
        port = request.environ.get("SERVER_PORT")
        # A request's port is known, its address is not: every address of this port must be a loopback one.
        behind_port = [address for address in settings.addresses if str(address.port) == port]
        is_open = str(settings.metrics_address.port) == port and all(each.is_loopback for each in behind_port)
        led_to = {settings.inference_address.port, settings.management_address.port} if settings.trusted_proxies else ()
        is_open = is_open and settings.metrics_address.port not in led_to
        # Another name leads here from a page of another site, by DNS rebinding.
        is_open = is_open and names_this_machine(request.environ)
        return view() if is_open else guarded()

    return choose
