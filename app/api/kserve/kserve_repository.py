"""The model repository of the Open Inference Protocol: models are loaded into memory in every worker, and unloaded.

A client of the protocol has one address for all its calls, so these calls are answered at the inference address too.
They need the role `manage` there as well. `kserve_models` lists the repository.
"""

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.kserve.tensors import read_optional_object, read_parameters
from app.api.request.auth import require
from app.api.request.bodies import read_document
from app.api.request.changes import await_workers, lend_changes, refuse_other_sites
from app.api.request.services import facts, note_audit
from app.errors import BadRequestError, ModelStartError
from app.pipeline.patience import ENDLESS

blueprint = Blueprint("open_repository", __name__)
blueprint.before_request(refuse_other_sites)

TAKEN = {"unload_dependents"}
"""Parameters that are accepted and change nothing: no model depends on another."""


@blueprint.post("/v2/repository/models/<model_name>/load")
@require("manage")
def load_model(model_name: str) -> ResponseReturnValue:
    """Load every version of a model that is not loaded as its files are; the answer comes when all workers have."""
    return set_loaded(model_name, is_loaded=True)


@blueprint.post("/v2/repository/models/<model_name>/unload")
@require("manage")
def unload_model(model_name: str) -> ResponseReturnValue:
    """Unload every version of a model, which stays registered; the answer comes when no worker has it any more."""
    return set_loaded(model_name, is_loaded=False)


def set_loaded(model_name: str, is_loaded: bool) -> ResponseReturnValue:
    """Load or unload a model; refuses parameters that cannot be honoured: a configuration, or files of a model."""
    if read_parameters(read_document(read_optional_object, ENDLESS)).keys() - TAKEN:
        raise BadRequestError("A model is loaded as it is registered: its configuration and files are not taken here.")
    with lend_changes() as changes:
        made = changes.set_loaded(model_name, is_loaded)
    facts().model = model_name
    note_audit("model loaded" if is_loaded else "model unloaded", model_name)
    for change in made:
        if not await_workers(change) and is_loaded:
            raise ModelStartError(f"Failed to start workers for model {model_name} version: {change.key[1]}")
    return jsonify({})
