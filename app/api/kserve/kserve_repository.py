"""The model repository of the Open Inference Protocol: models are loaded into memory everywhere, and unloaded.

A client of the protocol has one address for all it asks, so this stands at the inference address too; it needs the role
`manage` there as everywhere. The list of the repository is in `open_models`.
"""

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.kserve.tensors import read_object, read_parameters
from app.api.management.management_endpoints import await_workers, refuse_other_sites, translate_store_errors
from app.api.request.auth import require
from app.api.request.inflate import read_plain_body
from app.api.request.services import facts, services
from app.errors import BadRequestError, ModelStartError

blueprint = Blueprint("open_repository", __name__)
blueprint.before_request(refuse_other_sites)

TAKEN = {"unload_dependents"}
"""Parameters that may be there: no model depends on another."""


@blueprint.post("/v2/repository/models/<model_name>/load")
@require("manage")
def load_model(model_name: str) -> ResponseReturnValue:
    """Load every version of a model that is not loaded; the answer comes when it is ready in every worker."""
    check_parameters()
    with translate_store_errors():
        changes = services().changes.load(model_name)
    facts().model = model_name
    for change in changes:
        if not await_workers(change):
            raise ModelStartError(f"Failed to start workers for model {model_name} version: {change.key[1]}")
    return jsonify({})


@blueprint.post("/v2/repository/models/<model_name>/unload")
@require("manage")
def unload_model(model_name: str) -> ResponseReturnValue:
    """Unload every version of a model, which stays registered; the answer comes when no worker has it any more."""
    check_parameters()
    with translate_store_errors():
        changes = services().changes.unload(model_name)
    facts().model = model_name
    for change in changes:
        await_workers(change)
    return jsonify({})


def check_parameters() -> None:
    """Refuse what cannot be honoured: a configuration, or files of a model."""
    body = read_plain_body()
    if body and read_parameters(read_object(body)).keys() - TAKEN:
        raise BadRequestError("A model is loaded as it is registered: its configuration and files are not taken here.")
