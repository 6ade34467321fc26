"""`POST /outcomes/<request_id>`: what a picture later turned out to show, held against the answer that was given."""

from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.predict.answers import read_patience
from app.api.request.auth import require, require_model
from app.api.request.bodies import read_document
from app.api.request.changes import refuse_other_sites, translate_errors
from app.api.request.json_documents import read_json
from app.api.request.parameters import read_sent
from app.api.request.services import NOTICE, facts, services
from app.errors import (
    BadRequestError,
    ConflictError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    ResourceNotFoundError,
)
from app.manifest.bounds import COUNTED, show
from app.state.outcome import Outcome
from app.users import MANAGE
from app.watch.kept_answers import SLOTS, KeptAnswer, mark_owner

blueprint = Blueprint("outcomes", __name__)

HELP = 'The body must be JSON: {"truth": "<a class of the model>"}, with "index" for one of several pictures.'


@blueprint.post("/outcomes/<request_id>")
@require("predict")
def put_outcome(request_id: str) -> ResponseReturnValue:
    """Keep the true class of the picture that was answered under a request id; a later truth replaces an earlier one.

    The body is `{"truth": "malignant"}`. Of several pictures in one request, `index` says which is meant.
    """
    refuse_other_sites()
    truth, position = read_document(read_outcome, read_patience())
    outcome = match(position, find_answer(request_id, position), truth)
    with translate_errors():
        services().store.open().put_outcome(outcome)
    return jsonify(
        {
            "request_id": request_id,
            "index": position,
            "model": outcome.name,
            "version": outcome.version,
            "class": outcome.class_name,
            "score": outcome.score,
            "truth": truth,
            "right": outcome.class_name == truth,
            "notice": NOTICE,
        }
    )


def read_outcome(body: bytes) -> tuple[str, int]:
    """Read the true class and the picture's place; raises `BadRequestError`."""
    document: Any = read_json(body, HELP)
    if not isinstance(document, dict) or not isinstance(document.get("truth"), str):
        raise BadRequestError(HELP)
    if unknown := document.keys() - {"truth", "index"}:
        raise BadRequestError(f"{show(min(unknown))} is not known. {HELP}")
    return document["truth"], read_sent("index", document.get("index", 0), COUNTED)


def find_answer(request_id: str, position: int) -> KeptAnswer:
    """Find the caller's answer to a picture of a request, or anybody's for a caller who may manage.

    Raises `ResourceNotFoundError`, the same for another user's answer as for none, or `ConflictError` for several.
    """
    kept, caller = services().kept, facts().caller
    found = kept.find(request_id, position, mark_owner(facts().user, request_id))
    if not found and caller is not None and MANAGE in caller.roles:
        found = kept.find(request_id, position)
    if not found:
        raise ResourceNotFoundError(
            f"No answer to picture {position} of this request is kept. "
            f"Each worker of this server keeps its last {SLOTS:,} answers, each for the user who asked."
        )
    if len(found) > 1:
        raise ConflictError("Several requests had this id and got different answers. Give each request its own id.")
    return found.pop()


def match(position: int, kept: KeptAnswer, truth: str) -> Outcome:
    """Hold a truth against its answer; raises `BadRequestError`, `ForbiddenError` or `ConflictError`."""
    name, _, version = kept.version.partition("/")
    require_model(name)
    facts().model, facts().version = name, version
    try:
        manifest = services().registry.get(name, version).manifest
    except (ModelNotFoundError, ModelVersionNotFoundError):
        manifest = None
    if manifest is None or manifest.network_digest != kept.network:
        raise ConflictError(f"{kept.version} gave the answer, and is served no longer or is another network now.")
    classes = manifest.output.classes
    if truth not in classes:
        raise BadRequestError(f'{name} has no class "{show(truth)}": truth must be one of {", ".join(classes)}.')
    score = None if kept.score is None else round(kept.score, 6)
    network = kept.network.hex()
    return Outcome(kept.owner.hex(), position, name, version, network, classes[kept.class_index], score, truth)
