"""Health, without a password: `/ping` for TorchServe's clients, `/health/…` for orchestrators."""

from http import HTTPStatus

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.request.services import is_server_ready, services

blueprint = Blueprint("health", __name__)


@blueprint.get("/ping")
def ping() -> ResponseReturnValue:
    """Answer in TorchServe's words: Healthy when the default version of every model is READY."""
    if is_server_ready():
        return jsonify({"status": "Healthy"})
    return jsonify({"status": "Unhealthy"}), HTTPStatus.INTERNAL_SERVER_ERROR


@blueprint.get("/health/live")
def live() -> ResponseReturnValue:
    """Answer that this worker lives."""
    return jsonify({"live": True})


@blueprint.get("/health/ready")
def ready() -> ResponseReturnValue:
    """Answer whether every default version is READY, with the state of each version; 503 until then."""
    states: dict[str, dict[str, str]] = {}
    for entry in services().registry.entries():
        states.setdefault(entry.folder.name, {})[entry.folder.version] = entry.state.value
    is_all_ready = is_server_ready()
    status = HTTPStatus.OK if is_all_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return jsonify({"ready": is_all_ready, "models": states}), status
