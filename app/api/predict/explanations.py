"""`POST /explanations/<model_name>[/<version>]`: a handler explains its prediction.

A handler explains by its `explain_handle`; a handler without one answers 503, as in TorchServe. The handler of a
compiled archive runs for explanations alone. A model without a handler answers 400.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Blueprint
from flask.typing import ResponseReturnValue

from app.api.predict.answers import read_patience
from app.api.predict.handler_predictions import Call, answer_by_handler
from app.api.request.auth import require
from app.api.request.services import facts
from app.errors import BadRequestError, HandlerFaultError
from app.handlers.client.explainer import require_captum
from app.handlers.client.handler_model import HandlerModel

blueprint = Blueprint("explanations", __name__)


@blueprint.route("/explanations/<model_name>", methods=["POST", "PUT"])
@blueprint.route("/explanations/<model_name>/<version>", methods=["POST", "PUT"])
@require("predict")
def explain(version: str | None = None, **_: str) -> ResponseReturnValue:
    """Explain the prediction that a handler makes of the request; `target` names the class."""
    with lend_explainer() as explainer:
        return answer_by_handler(explainer, Call(version, is_explained=True))


@contextmanager
def lend_explainer() -> Iterator[HandlerModel]:
    """Lend the handler that explains the current request; that of a compiled archive starts with the first request.

    Raises HandlerFaultError without captum or a running handler, BadRequestError for no archive, DeadlineError.
    """
    known = facts()
    entry = known.find_lent()
    if entry.handler is not None:
        yield entry.handler
        return
    known.model, known.version = entry.key
    if entry.archive is None or entry.explainer is None:
        name = entry.wanted.name
        if entry.folder.is_archive:
            raise HandlerFaultError(f'The handler of model "{name}" is not running.')
        raise BadRequestError(f'Model "{name}" has no handler that could explain its predictions.')
    require_captum()
    patience = read_patience(int(entry.archive.limits.startup_timeout_s * 1000))
    with entry.explainer.lend(patience) as handler:
        yield handler
