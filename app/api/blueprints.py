"""The views: every room's blueprints. A new file of views gets its line here."""

from flask import Flask

from app.api import models, openapi
from app.api.kserve import kserve_inference, kserve_models, kserve_repository, kserve_statistics
from app.api.management import management_endpoints
from app.api.monitoring import drift_figures, exporter, health
from app.api.predict import explanations, outcomes, predictions
from app.metrics import Metrics

VIEWS = (
    *(predictions, explanations, outcomes),
    *(kserve_inference, kserve_models, kserve_statistics, kserve_repository),
    *(models, management_endpoints, health, drift_figures, openapi),
)


def register_blueprints(app: Flask, metrics: Metrics) -> None:
    """Add every view to an app; `metrics` are what `/metrics` shows."""
    for part in VIEWS:
        app.register_blueprint(part.blueprint)
    exporter.Exporter(metrics).init_app(app)
