"""`POST /explanations/<model_name>[/<version>]` and `POST /v1/models/<model_name>:explain`: why a handler says so.

A handler explains by its `explain_handle`; one that has none answers 503, as TorchServe does. A model without a handler
answers 400.
"""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from app.api.auth import require
from app.api.context import facts, services
from app.api.handler_instances import answer_instances
from app.api.handler_predictions import Call
from app.api.predictions import answer_by_handler
from app.errors import AnsweredError, BadRequestError, HandlerFaultError
from app.repository.model_entry import ModelEntry

blueprint = Blueprint("explanations", __name__)


@blueprint.route("/explanations/<model_name>", methods=["POST", "PUT"])
@blueprint.route("/explanations/<model_name>/<version>", methods=["POST", "PUT"])
@require("predict")
def explain(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Have the program of a model archive explain what it says of the request; `target` names the class."""
    registry = services().registry
    with registry.lend_handler(model_name, version) as handler:
        if handler is not None:
            return answer_by_handler(handler, Call(version, is_explained=True), facts(), services())
    raise find_reason(registry.get(model_name, version))


@blueprint.post("/v1/models/<model_name>:explain")
@require("predict")
def explain_instances(model_name: str) -> ResponseReturnValue:
    """The same of `{"instances": [{"data": "<base64>", "target": 0}]}`; the answer is always a list."""
    registry = services().registry
    with registry.lend_handler(model_name) as handler:
        if handler is not None:
            return answer_instances(handler, True, facts(), services())
    raise find_reason(registry.get(model_name))


def find_reason(entry: ModelEntry) -> AnsweredError:
    """Say why nothing explains a model."""
    known = facts()
    known.model, known.version = entry.key
    name = entry.wanted.name
    if entry.folder.is_archive:
        return HandlerFaultError(f'The handler of model "{name}" is not running.')
    return BadRequestError(f'Model "{name}" has no handler that could explain its predictions.')
