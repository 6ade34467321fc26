"""What all answers of models share: the wait for them, their shape, and the record of where their time went."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from flask import Response, request

from app.api.request.parameters import read_sent
from app.api.request.services import NOTICE, RequestFacts, facts, services
from app.config.settings import CALLER_IS_GONE
from app.errors import AnsweredError, BadRequestError, UnfitImageError
from app.manifest.bounds import DEADLINE_MS, show
from app.manifest.model_manifest import ModelManifest
from app.pipeline.fit import UNCHECKED
from app.pipeline.patience import Patience, never
from app.pipeline.postprocess import Decision
from app.pipeline.served_model import Prediction, Timing, Upload
from app.watch.kept_answers import KeptAnswer, mark_owner

JSON_TYPE = "application/json"
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
FITS_HEADER = "X-Fits"
VERSION_HEADER = "X-Model-Version"
"""Names the version that answered, where the body is a handler's own."""
SEVERAL = "several"
"""The outcome of a request with more than one picture."""
PROBABILITY_DIGITS = 6
REFUSE, ANSWER = "refuse", "answer"
"""What is done with a picture that is not of the model's kind."""
JSON = json.JSONEncoder(separators=(",", ":"))


def read_patience(needed_ms: int = 0) -> Patience:
    """Read how long the caller of the current request waits, from `X-Request-Timeout-Ms`.

    The settings bound the time, unless a model needs more. Raises `BadRequestError` as `read_sent`.
    """
    text = request.environ.get("HTTP_X_REQUEST_TIMEOUT_MS")
    timeout_ms = max(services().settings.prediction_timeout_ms, needed_ms)
    if text is not None:
        timeout_ms = min(timeout_ms, read_sent(TIMEOUT_HEADER, text, DEADLINE_MS))
    return Patience(facts().started + timeout_ms / 1000, request.environ.get(CALLER_IS_GONE, never))


def takes_unfit() -> bool:
    """Whether the caller of the current request wants an answer also for a picture of another kind: `?unfit=answer`.

    Raises `BadRequestError` for another value than `answer` and `refuse`.
    """
    if not request.environ.get("QUERY_STRING"):
        return False
    wanted = request.args.get("unfit", REFUSE)
    if wanted not in (REFUSE, ANSWER):
        raise BadRequestError(f"unfit={show(wanted)} is not allowed: it must be {ANSWER} or {REFUSE}")
    return wanted == ANSWER


def make_prediction(prediction: Prediction, manifest: ModelManifest, request_id: str) -> dict[str, Any]:
    """Make the answer for one picture; `openapi.json` describes it too, and a test compares the two."""
    decision, picture = prediction.decision, prediction.picture
    answer: dict[str, Any] = {
        "model": manifest.name,
        "version": manifest.version,
        "class": decision.class_name,
        "confidence": round(decision.confidence, PROBABILITY_DIGITS),
        "probabilities": {name: round(value, PROBABILITY_DIGITS) for name, value in decision.probabilities.items()},
        **make_reading(decision, manifest),
        "fit": UNCHECKED if prediction.fit is None else prediction.fit.to_json(),
        "input": {
            "width_px": picture.width_px,
            "height_px": picture.height_px,
            "format": picture.format,
            "mode": picture.mode,
            "conversions": list(picture.conversions),
        },
        "request_id": request_id,
        "notice": NOTICE,
    }
    if picture.warnings:
        answer["warnings"] = list(picture.warnings)
    return answer


def make_reading(decision: Decision, manifest: ModelManifest) -> dict[str, Any]:
    """Make the part of an answer that says how to read its numbers; what a model has no figures for is absent."""
    output = manifest.output
    reading: dict[str, Any] = {}
    if output.positive_class is not None:
        reading["positive_class"] = output.positive_class
        reading["score"] = round(decision.probabilities[output.positive_class], PROBABILITY_DIGITS)
    reading |= {"threshold": output.threshold, "calibrated": output.calibration is not None}
    if manifest.operating_point is not None:
        reading["operating_point"] = manifest.operating_point
    if decision.possible_classes is not None:
        reading["possible_classes"] = list(decision.possible_classes)
        reading["cannot_tell"] = decision.cannot_tell
    return reading


def make_item(item: Prediction | AnsweredError, manifest: ModelManifest, request_id: str) -> dict[str, Any]:
    """Make the answer for one of several pictures: a prediction, or the picture's own error."""
    return item.to_json() if isinstance(item, AnsweredError) else make_prediction(item, manifest, request_id)


def json_text(document: dict[str, Any]) -> Response:
    """Make a JSON response; this encoder takes a third of the time of Flask's, which knows more types."""
    return Response(JSON.encode(document) + "\n", mimetype=JSON_TYPE)


def describe_fits(items: Iterable[Mapping[str, Any]]) -> str:
    """Return the header `X-Fits` of an answer that is no JSON: `unknown` where nothing was checked."""
    words = {True: "true", False: "false", None: "unknown"}
    return ", ".join(words[item.get("fit", UNCHECKED)["fits"]] for item in items)


def add_version_headers(response: Response, version: str) -> Response:
    """Add the headers that say which version answered, and that the answer is no diagnosis."""
    response.headers[VERSION_HEADER] = version
    response.headers["X-Notice"] = NOTICE
    return response


def keep(manifest: ModelManifest, request_id: str, position: int, prediction: Prediction) -> None:
    """Keep an answer, so that its later truth can be held against it."""
    output, decision = manifest.output, prediction.decision
    if output.labels is not None:  # an archive, whose labels may be alike
        return
    score = None if output.positive_class is None else decision.probabilities[output.positive_class]
    index = output.classes.index(decision.class_name)
    seen = crc32(prediction.picture.pixels.tobytes())
    owner, version = mark_owner(facts().user, request_id), f"{manifest.name}/{manifest.version}"
    kept = KeptAnswer(owner, version, index, score, manifest.network_digest, seen)
    services().kept.keep(request_id, position, kept)


def observe_distance(manifest: ModelManifest, answer: Prediction | AnsweredError) -> None:
    """Record a picture's distance to the training pictures, if it is known; also of one that is refused for it."""
    if not isinstance(answer, Prediction | UnfitImageError) or answer.fit is None or answer.fit.distance is None:
        return
    services().metrics.observe_distance(manifest.name, manifest.version, answer.fit.distance)


@contextmanager
def noting_misfit(manifest: ModelManifest) -> Iterator[None]:
    """Record the distance of a picture that is refused in this block, and where the time went."""
    try:
        yield
    except UnfitImageError as error:
        facts().timing = error.timing
        observe_distance(manifest, error)
        raise


def observe(
    manifest: ModelManifest,
    uploads: Sequence[Upload | AnsweredError],
    answers: Sequence[Prediction | AnsweredError],
    timing: Timing,
    known: RequestFacts,
) -> None:
    """Count the classes of a request's answers and their scores, keep them, and record where the time went.

    `uploads` are what the answers belong to, in the same order.
    """
    metrics, label, known.timing = services().metrics, (manifest.name, manifest.version), timing
    for position, answer in enumerate(answers):
        if isinstance(answer, Prediction):
            metrics.count_prediction(*label, answer.decision.class_name)
            if manifest.output.positive_class is not None:
                metrics.observe_score(*label, answer.decision.probabilities[manifest.output.positive_class])
            keep(manifest, known.request_id, position, answer)
    services().shadowing.offer(manifest, uploads, answers)
    stages = {"decode": timing.decode_s, "queue": timing.queue_s, "inference": timing.inference_s}
    stages["whole"] = time.perf_counter() - known.started
    metrics.observe_prediction(known.rule, manifest.name, manifest.version, stages)
