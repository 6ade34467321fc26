"""Which part of the API each address serves: inference on 8080, models on 8081, metrics on 8082.

One gunicorn listens on all three; the port a request came in by tells which. A port of none of the three (a test, the
development server, a Unix socket) serves everything.
"""

from enum import Enum, auto
from functools import lru_cache

from flask import Flask, request
from flask.globals import request_ctx
from werkzeug.exceptions import MethodNotAllowed

from app.config.settings import Settings
from app.errors import ResourceNotFoundError


class Surface(Enum):
    """A part of the API with an address of its own."""

    INFERENCE = auto()
    MANAGEMENT = auto()
    METRICS = auto()


BLUEPRINT_SURFACES = {
    "predictions": {Surface.INFERENCE},
    "explanations": {Surface.INFERENCE},
    "open_inference": {Surface.INFERENCE},
    "open_models": {Surface.INFERENCE, Surface.MANAGEMENT},
    "open_configuration": {Surface.INFERENCE, Surface.MANAGEMENT},
    "open_statistics": {Surface.INFERENCE, Surface.MANAGEMENT},
    "open_repository": {Surface.INFERENCE, Surface.MANAGEMENT},
    "models": {Surface.INFERENCE, Surface.MANAGEMENT},
    "management": {Surface.MANAGEMENT},
    "description": {Surface.INFERENCE, Surface.MANAGEMENT},
    "health": {Surface.INFERENCE, Surface.MANAGEMENT, Surface.METRICS},
    "exporter": {Surface.METRICS},
}
"""Where each blueprint is served; one that is not named here is served nowhere."""


@lru_cache(maxsize=16)
def find_blueprints(settings: Settings, port: str) -> frozenset[str]:
    """Return the blueprints served on a port: of one surface, or several where addresses are the same; else all."""
    ports = {
        Surface.INFERENCE: settings.inference_address.port,
        Surface.MANAGEMENT: settings.management_address.port,
        Surface.METRICS: settings.metrics_address.port,
    }
    served = {surface for surface, its_port in ports.items() if str(its_port) == port} or set(Surface)
    return frozenset(name for name, surfaces in BLUEPRINT_SURFACES.items() if surfaces & served)


def asks_management(settings: Settings) -> bool:
    """Whether the request came in at the management address."""
    return request.environ.get("SERVER_PORT") == str(settings.management_address.port)


def register_surfaces(app: Flask, settings: Settings) -> None:
    """Answer 404 for a route that exists, but not on the port asked; 405 where that port has others of its path."""

    @app.before_request
    def check_surface() -> None:
        served = find_blueprints(settings, request.environ.get("SERVER_PORT", ""))
        if request.blueprint and request.blueprint not in served:
            if methods := find_methods(served):
                raise MethodNotAllowed(methods)
            raise ResourceNotFoundError("Requested resource is not found, please refer to API document.")


def find_methods(served: frozenset[str]) -> list[str]:
    """The methods by which these blueprints answer at the request's path."""
    adapter = request_ctx.url_adapter
    assert adapter is not None, "a request has one"
    endpoints = {method: str(adapter.match(method=method)[0]) for method in adapter.allowed_methods()}
    return sorted(method for method, endpoint in endpoints.items() if endpoint.rpartition(".")[0] in served)
