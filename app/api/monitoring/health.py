"""Health, without a password: `/ping` for TorchServe's clients, `/health/…` for orchestrators."""

from http import HTTPStatus

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from app.api.request.services import services
from app.config.settings import SERVER_IS_STOPPING

blueprint = Blueprint("health", __name__)


def is_ready() -> bool:
    """Whether no model is lacking that should be READY, and the server will go on."""
    registry = services().registry
    if request.environ.get(SERVER_IS_STOPPING) or not registry.is_settled:
        return False
    return not registry.list_lacking()


@blueprint.get("/ping")
def ping() -> ResponseReturnValue:
    """Say Healthy when the default version of every model is READY; TorchServe's words and statuses."""
    if is_ready():
        return jsonify({"status": "Healthy"})
    return jsonify({"status": "Unhealthy"}), HTTPStatus.INTERNAL_SERVER_ERROR


@blueprint.get("/health/live")
def live() -> ResponseReturnValue:
    """Say that this worker answers."""
    return jsonify({"live": True})


@blueprint.get("/health/ready")
def ready() -> ResponseReturnValue:
    """Say whether every default version is READY, and the state of each version; 503 until then."""
    states: dict[str, dict[str, str]] = {}
    for entry in services().registry.entries():
        states.setdefault(entry.folder.name, {})[entry.folder.version] = entry.state.value
    is_all_ready = is_ready()
    status = HTTPStatus.OK if is_all_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return jsonify({"ready": is_all_ready, "models": states}), status
