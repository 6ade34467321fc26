"""Which part of the API each address serves: inference on 8080, models on 8081, metrics on 8082.

One gunicorn listens on all three; the port a request came in by tells which. A port of none of the three (a test, the
development server, a Unix socket) serves everything.
"""

from enum import Enum, auto

from flask import Flask, request

from app.api.context import services
from app.config import Settings
from app.errors import ResourceNotFoundError


class Surface(Enum):
    """A part of the API with an address of its own."""

    INFERENCE = auto()
    MANAGEMENT = auto()
    METRICS = auto()


BLUEPRINT_SURFACES = {
    "predictions": {Surface.INFERENCE},
    "models": {Surface.INFERENCE, Surface.MANAGEMENT},
    "description": {Surface.INFERENCE, Surface.MANAGEMENT},
    "health": {Surface.INFERENCE, Surface.MANAGEMENT, Surface.METRICS},
    "exporter": {Surface.METRICS},
}
"""Where each blueprint is served; one that is not named here is served nowhere."""


def find_surfaces(settings: Settings, port: str) -> set[Surface]:
    """Return what is served on a port: one surface, several where addresses are the same, all on a foreign port."""
    ports = {
        Surface.INFERENCE: settings.inference_address.port,
        Surface.MANAGEMENT: settings.management_address.port,
        Surface.METRICS: settings.metrics_address.port,
    }
    return {surface for surface, served in ports.items() if str(served) == port} or set(Surface)


def register_surfaces(app: Flask) -> None:
    """Answer 404 for a route that exists, but not on the port asked."""

    @app.before_request
    def check_surface() -> None:
        if request.blueprint is None:
            return
        served = find_surfaces(services().settings, request.environ.get("SERVER_PORT", ""))
        if not served & BLUEPRINT_SURFACES[request.blueprint]:
            raise ResourceNotFoundError("Requested resource is not found, please refer to API document.")
