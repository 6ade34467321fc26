"""`POST` and `PUT /predictions/<model_name>[/<version>]`, and TorchServe's older paths: pictures in, classes out."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from flask import Blueprint, Response, request
from flask.globals import request_ctx
from flask.typing import ResponseReturnValue

from app.api.predict import classifier_predictions
from app.api.predict.answers import (
    FITS_HEADER,
    JSON_TYPE,
    SEVERAL,
    describe_fits,
    json_text,
    make_item,
    make_prediction,
    noting_misfit,
    observe,
    observe_distance,
    read_patience,
    takes_unfit,
)
from app.api.predict.handler_predictions import Call, answer_by_handler, read_parts
from app.api.request.auth import require
from app.api.request.bodies import read_images
from app.api.request.services import NOTICE, RequestFacts, facts, services
from app.errors import AnsweredError, ResourceNotFoundError
from app.pipeline.decoding.limits import PixelSum
from app.pipeline.patience import Patience
from app.pipeline.served_model import ServedModel
from app.registry.serving_table import require_served

blueprint = Blueprint("predictions", __name__)

PLAIN_TEXTS = PLAIN_TEXT, PLAIN_TEXT_UTF8 = "text/plain", "text/plain;charset=utf-8"
OLDER = "predict_by_older_path"
"""Endpoint of the paths that get_started/from_torchserve.md describes and the OpenAPI document leaves out."""


@blueprint.route("/predictions/<model_name>", methods=["POST", "PUT"])
@blueprint.route("/predictions/<model_name>/<version>", methods=["POST", "PUT"])
@blueprint.route("/predictions/<model_name>/<version>/<path:url_path>", methods=["POST", "PUT"], endpoint=OLDER)
@blueprint.route("/models/<model_name>/invoke", methods=["POST"], endpoint=OLDER)
@blueprint.route("/<model_name>/predict", methods=["POST", "PUT"], endpoint=OLDER)
@blueprint.route("/<model_name>/<version>/predict", methods=["POST", "PUT"], endpoint=OLDER)
@blueprint.route("/invocations", methods=["POST"], endpoint="predict_invocation")
@require("predict")
def predict(version: str | None = None, url_path: str = "", **_: str) -> ResponseReturnValue:
    """Classify the pictures of the request; the model that its path names is lent already.

    `/invocations` names its model in the query, or means the only one there is. One picture answers one prediction, or
    its error with the error's status. Several answer `{"predictions": […]}` in request order, each a prediction or an
    error of its own. `Accept: text/plain` answers the class alone, one a line. `url_path` is for model archives alone.
    """
    known = facts()
    entry = known.find_lent()
    if entry.handler is not None:
        return answer_by_handler(entry.handler, Call(version, url_path))
    served = require_served(entry, version)
    if url_path and served.manifest.output.labels is None:
        raise ResourceNotFoundError("Requested resource is not found, please refer to API document.")
    return answer(served, known)


def answer(served: ServedModel, known: RequestFacts) -> ResponseReturnValue:
    """Answer a request with a model that is lent for it."""
    manifest = served.manifest
    known.model, known.version = manifest.name, manifest.version
    patience = read_patience()
    if manifest.output.labels is not None:
        return answer_as_archive(served, manifest.output.labels, patience, known)
    items = classify(served, patience, known)
    if wants_plain_text():
        return plain_text(items)
    return json_text(items[0] if known.images == 1 else {"predictions": items})


def classify(served: ServedModel, patience: Patience, known: RequestFacts) -> list[dict[str, Any]]:
    """Classify the pictures of the request; return each one's answer in their order, or of several its error.

    Raises the `AnsweredError` of a picture that is alone, and as `read_images`.
    """
    manifest, settings = served.manifest, services().settings
    images = read_images(request_ctx.request, settings.max_images, patience)
    known.images = len(images)
    if len(images) == 1:
        return [classify_one(served, images[0], patience, known)]
    answers, timing = served.predict_many(images, patience, PixelSum(settings.max_pixels), takes_unfit())
    known.outcome = SEVERAL
    for each in answers:
        observe_distance(manifest, each)
    observe(manifest, images, answers, timing, known)
    return [make_item(answer, manifest, known.request_id) for answer in answers]


def answer_as_archive(served: ServedModel, labels: Sequence[str], patience: Patience, known: RequestFacts) -> Response:
    """Answer as the default handler of a model archive does, with its compiled model."""
    picture = classifier_predictions.read_picture(read_parts(request, patience))
    prediction, timing = served.predict(picture, patience)
    known.outcome, known.images = prediction.decision.class_name, 1
    observe(served.manifest, [picture], [prediction], timing, known)
    named = classifier_predictions.make_answer(prediction, labels)
    return classifier_predictions.make_response(named, served.manifest.version)


def classify_one(
    served: ServedModel, image: bytes | AnsweredError, patience: Patience, known: RequestFacts
) -> dict[str, Any]:
    """Classify the picture of a request that has no other; raises its `AnsweredError`."""
    if isinstance(image, AnsweredError):
        raise copy(image)  # one that is in the caller's frame would keep it and all that it holds
    with noting_misfit(served.manifest):
        prediction, timing = served.predict(image, patience, takes_unfit())
    known.outcome = prediction.decision.class_name
    observe_distance(served.manifest, prediction)
    observe(served.manifest, [image], [prediction], timing, known)
    return make_prediction(prediction, served.manifest, known.request_id)


def wants_plain_text() -> bool:
    """Whether the caller asks for plain text rather than JSON; `*/*` asks for JSON."""
    if "text/" not in request.environ.get("HTTP_ACCEPT", "").lower():
        return False
    return request.accept_mimetypes.best_match([JSON_TYPE, *PLAIN_TEXTS]) in PLAIN_TEXTS


def plain_text(items: Sequence[dict[str, Any]]) -> Response:
    """Make a plain text answer: classes, or types of errors. A header says which pictures are of the model's kind."""
    text = "\n".join(item.get("class", item.get("type", "")) for item in items)
    headers = {"X-Notice": NOTICE, FITS_HEADER: describe_fits(items)}
    return Response(text + "\n", mimetype=PLAIN_TEXT, headers=headers)
