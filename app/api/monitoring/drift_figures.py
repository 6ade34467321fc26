"""`GET /models/<model_name>[/<version>]/drift`: whether other pictures come than a model is meant for."""

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.request.auth import require
from app.api.request.services import NOTICE, facts, services
from app.errors import BadRequestError
from app.watch.drift import describe_drift

blueprint = Blueprint("drift", __name__)


@blueprint.get("/models/<model_name>/drift")
@blueprint.get("/models/<model_name>/<version>/drift")
@require("predict")
def show_drift(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Compare the scores and distances that this server has counted with the reference in the model folder."""
    entry = services().registry.get(model_name, version)
    facts().model, facts().version = entry.key
    if entry.manifest is None or entry.archive is not None:
        raise BadRequestError(
            f"The drift of {model_name} is not known: only a model with a model.toml has a reference."
        )
    metrics = services().metrics
    return jsonify({**describe_drift(entry.manifest, metrics.collect_lately(), metrics.since), "notice": NOTICE})
