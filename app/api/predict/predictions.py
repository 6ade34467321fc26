"""`POST` and `PUT /predictions/<model_name>[/<version>]`, and TorchServe's older paths: pictures in, classes out."""

import json
import re
import time
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.globals import request_ctx
from flask.typing import ResponseReturnValue

from app.api.descriptions import make_item, make_prediction
from app.api.openapi import read_document
from app.api.predict import classifier_predictions, handler_predictions
from app.api.predict.handler_predictions import Call, read_parts
from app.api.request.auth import require
from app.api.request.bodies import read_images
from app.api.request.services import NOTICE, RequestFacts, Services, facts, services
from app.config.settings import CALLER_IS_GONE, Settings
from app.errors import AnsweredError, BadRequestError, ResourceNotFoundError
from app.handlers.client.handler_model import HandlerModel
from app.manifest.model_manifest import ModelManifest
from app.pipeline.patience import Patience, never
from app.pipeline.served_model import Prediction, ServedModel, Timing
from app.registry.serving_table import require_served

blueprint = Blueprint("predictions", __name__)

PLAIN_TEXT = "text/plain"
SEVERAL = "several"
OLDER = "predict_by_older_path"
"""Endpoint of the paths that stand in get_started/from_torchserve.md, not in the OpenAPI document."""
JSON = json.JSONEncoder(separators=(",", ":"))


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

    `/invocations` names its model in the query, or means the only one there is.

    One picture answers one prediction, or its error with the error's status. Several answer
    `{"predictions": […]}` in request order, each a prediction or an error of its own.
    `Accept: text/plain` answers the class alone, one a line. `url_path` is for model archives alone.
    """
    known, service = facts(), services()
    entry = known.find_lent()
    if entry.handler is not None:
        return answer_by_handler(entry.handler, Call(version, url_path), known, service)
    served = require_served(entry, version)
    if url_path and served.manifest.output.labels is None:
        raise ResourceNotFoundError("Requested resource is not found, please refer to API document.")
    return answer(served, known, service)


@blueprint.route("/predictions/<model_name>", methods=["OPTIONS"])
@require("predict")
def describe_predictions(model_name: str) -> ResponseReturnValue:
    """Send the part of the API's document that says how one model is asked."""
    services().registry.get(model_name)
    whole = read_document()
    paths = {f"/predictions/{model_name}": whole["paths"]["/predictions/{model_name}"]}
    info = whole["info"] | {"title": f"RESTful API for: {model_name}"}
    return jsonify(whole | {"info": info, "paths": paths})


def answer(served: ServedModel, known: RequestFacts, service: Services) -> ResponseReturnValue:
    """Answer a request with a model that is lent for it."""
    manifest = served.manifest
    known.model, known.version = manifest.name, manifest.version
    patience = read_patience(known.started, service.settings)
    if manifest.output.labels is not None:
        return answer_as_archive(served, manifest.output.labels, patience, known)
    images = read_images(request_ctx.request, service.settings.max_images)
    known.images = len(images)
    if len(images) == 1:
        return answer_one(served, images[0], patience, known)
    answers, timing = served.predict_many(images, patience)
    known.outcome = SEVERAL
    observe(manifest, answers, timing, known)
    items = [make_item(answer, manifest, known.request_id) for answer in answers]
    if wants_plain_text():
        return plain_text("\n".join(item.get("class", item.get("type", "")) for item in items))
    return json_text({"predictions": items})


def answer_as_archive(served: ServedModel, labels: Sequence[str], patience: Patience, known: RequestFacts) -> Response:
    """Answer as the default handler of a model archive does, with its compiled model."""
    prediction, timing = served.predict(classifier_predictions.read_picture(read_parts(request)), patience)
    known.outcome, known.images = prediction.decision.class_name, 1
    observe(served.manifest, [prediction], timing, known)
    named = classifier_predictions.make_answer(prediction, labels)
    return classifier_predictions.make_response(named, served.manifest.version)


def answer_by_handler(handler: HandlerModel, call: Call, known: RequestFacts, service: Services) -> Response:
    """Have the program of a model archive answer."""
    known.model, known.version = handler.name, handler.version
    patience = read_patience(known.started, service.settings, handler.timeout_ms)

    def observe(stages: dict[str, float]) -> None:
        if known.outcome is None:  # else it failed, and is counted as such
            stages["whole"] = time.perf_counter() - known.started
            service.metrics.observe_prediction(known.rule, handler.name, handler.version, stages)

    return handler_predictions.predict(handler, request, call, patience, known, observe)


def read_patience(started: float, settings: Settings, needed_ms: int = 0) -> Patience:
    """Read how long the caller waits: `X-Request-Timeout-Ms`, at most the setting, or what the model needs.

    Raises:
        BadRequestError: it is no whole number of milliseconds.
    """
    text = request.environ.get("HTTP_X_REQUEST_TIMEOUT_MS")
    timeout_ms = max(settings.prediction_timeout_ms, needed_ms)
    if text is not None:
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise BadRequestError("X-Request-Timeout-Ms must be a whole number of milliseconds.")
        timeout_ms = min(timeout_ms, int(text))
    return Patience(started + timeout_ms / 1000, request.environ.get(CALLER_IS_GONE, never))


def answer_one(
    served: ServedModel, image: bytes | AnsweredError, patience: Patience, known: RequestFacts
) -> ResponseReturnValue:
    """Answer a request of one picture."""
    if isinstance(image, AnsweredError):
        raise image
    prediction, timing = served.predict(image, patience)
    known.outcome = prediction.decision.class_name
    observe(served.manifest, [prediction], timing, known)
    if wants_plain_text():
        return plain_text(known.outcome)
    return json_text(make_prediction(prediction, served.manifest, known.request_id))


def observe(
    manifest: ModelManifest, answers: Sequence[Prediction | AnsweredError], timing: Timing, known: RequestFacts
) -> None:
    """Count the classes that the request is answered, and record where its time went."""
    metrics = services().metrics
    for answer in answers:
        if isinstance(answer, Prediction):
            metrics.count_prediction(manifest.name, manifest.version, answer.decision.class_name)
    stages = {"decode": timing.decode_s, "queue": timing.queue_s, "inference": timing.inference_s}
    whole = time.perf_counter() - known.started
    metrics.observe_prediction(known.rule, manifest.name, manifest.version, {**stages, "whole": whole})


def wants_plain_text() -> bool:
    """Whether the caller asks for plain text rather than JSON; `*/*` asks for JSON."""
    if PLAIN_TEXT not in request.environ.get("HTTP_ACCEPT", ""):
        return False
    return request.accept_mimetypes.best_match(["application/json", PLAIN_TEXT]) == PLAIN_TEXT


def json_text(document: dict[str, Any]) -> Response:
    """Make a JSON answer; the plain encoder takes a third of the time of Flask's, which knows more types."""
    return Response(JSON.encode(document) + "\n", mimetype="application/json")


def plain_text(text: str) -> Response:
    """Make a plain text answer."""
    return Response(text + "\n", mimetype=PLAIN_TEXT, headers={"X-Notice": NOTICE})
