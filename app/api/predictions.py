"""`POST` and `PUT /predictions/<model_name>[/<version>]`: pictures in, classes out."""

import time

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from app.api.auth import require
from app.api.context import NOTICE, facts, services
from app.api.schemas import make_item, make_prediction
from app.api.upload import read_images
from app.errors import AnsweredError
from app.manifest import ModelManifest
from app.pipeline.served_model import Prediction, ServedModel, Timing

blueprint = Blueprint("predictions", __name__, url_prefix="/predictions")

PLAIN_TEXT = "text/plain"
SEVERAL = "several"


@blueprint.route("/<model_name>", methods=["POST", "PUT"])
@blueprint.route("/<model_name>/<version>", methods=["POST", "PUT"])
@require("predict")
def predict(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Classify the pictures of the request.

    One picture answers one prediction, or its error with the error's status. Several answer
    `{"predictions": […]}` in request order, each a prediction or an error of its own.
    `Accept: text/plain` answers the class alone, one a line.
    """
    served = services().registry.get_served(model_name, version)
    known, manifest = facts(), served.manifest
    known.model, known.version = manifest.name, manifest.version
    images = read_images(request, services().settings.max_images)
    known.images = len(images)
    if len(images) == 1:
        return answer_one(served, images[0])
    answers, timing = served.predict_many(images)
    known.outcome = SEVERAL
    observe(manifest, answers, timing)
    items = [make_item(answer, manifest, known.request_id) for answer in answers]
    if wants_plain_text():
        return plain_text("\n".join(item.get("class", item.get("type", "")) for item in items))
    return jsonify({"predictions": items})


def answer_one(served: ServedModel, image: bytes | AnsweredError) -> ResponseReturnValue:
    """Answer a request of one picture."""
    if isinstance(image, AnsweredError):
        raise image
    prediction, timing = served.predict(image)
    facts().outcome = prediction.decision.class_name
    observe(served.manifest, [prediction], timing)
    if wants_plain_text():
        return plain_text(prediction.decision.class_name)
    return jsonify(make_prediction(prediction, served.manifest, facts().request_id))


def observe(manifest: ModelManifest, answers: list[Prediction | AnsweredError], timing: Timing) -> None:
    """Count the classes answered, and record where the time went."""
    metrics = services().metrics
    for answer in answers:
        if isinstance(answer, Prediction):
            metrics.count_prediction(manifest.name, manifest.version, answer.decision.class_name)
    stages = {"decode": timing.decode_s, "queue": timing.queue_s, "inference": timing.inference_s}
    whole = time.perf_counter() - facts().started
    metrics.observe_prediction(manifest.name, manifest.version, {**stages, "whole": whole})


def wants_plain_text() -> bool:
    """Whether the caller asks for plain text rather than JSON; `*/*` asks for JSON."""
    return request.accept_mimetypes.best_match(["application/json", PLAIN_TEXT]) == PLAIN_TEXT


def plain_text(text: str) -> Response:
    """Make a plain text answer."""
    return Response(text + "\n", mimetype=PLAIN_TEXT, headers={"X-Notice": NOTICE})
