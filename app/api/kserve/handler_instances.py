"""KServe's protocols between HTTP and a handler.

One that gets its requests in an envelope gets the body as it is. To others, each of v1's `{"instances": […]}` is a
request; v2's tensors mean nothing to them.
"""

import base64
import binascii
import json
import time
from typing import Any

from flask import Response, request

from app.api.kserve.tensors import HEADER_LENGTH
from app.api.predict.handler_predictions import JSON_TYPE, VERSION_HEADER, Call, read_headers, read_times
from app.api.predict.predictions import answer_by_handler, json_text, read_patience
from app.api.request.bodies import list_instances
from app.api.request.inflate import read_plain_body
from app.api.request.services import NOTICE, RequestFacts, Services
from app.errors import BadRequestError, HandlerFaultError
from app.handlers.client.handler_model import HandlerModel


def answer_instances(handler: HandlerModel, is_explained: bool, known: RequestFacts, service: Services) -> Response:
    """Answer every instance with what the handler makes of it, in order; one that fails, fails the request.

    Raises:
        BadRequestError: the body is not of this shape, or holds too many.
        HandlerFaultError: the handler failed.
        ServiceUnavailableError, DeadlineError: as `HandlerModel.predict`.
    """
    if handler.has_envelope:
        return answer_by_handler(handler, Call(is_explained=is_explained, is_document=True), known, service)
    known.model, known.version = handler.name, handler.version
    patience = read_patience(known.started, service.settings, handler.timeout_ms)
    headers = read_headers(request, []) | {"explain": str(is_explained), "url_path": ""}
    answers = []
    for instance in read_instances(read_plain_body(), service.settings.max_images):
        parts = [{"name": name, "type": kind} for name, kind, _ in instance]
        asked = {"id": known.request_id, "headers": headers, "parts": parts}
        header, body = handler.predict(asked, [value for _, _, value in instance], patience)
        if "error" in header:
            raise HandlerFaultError(header["error"])
        service.metrics.observe_prediction(known.rule, handler.name, handler.version, read_times(header))
        answers.append(read_answer(body))
    whole = {"whole": time.perf_counter() - known.started}
    service.metrics.observe_prediction(known.rule, handler.name, handler.version, whole)
    return make_response({"explanations" if is_explained else "predictions": answers}, handler.version)


def make_response(document: dict[str, Any], version: str) -> Response:
    """Make the response: JSON, the version that made it, and the notice."""
    response = json_text(document)
    response.headers[VERSION_HEADER] = version
    response.headers["X-Notice"] = NOTICE
    return response


def answer_tensors(handler: HandlerModel, version: str | None, known: RequestFacts, service: Services) -> Response:
    """Have a handler answer the Open Inference Protocol's JSON through its envelope.

    Raises:
        BadRequestError: tensors follow the JSON.
        ServiceUnavailableError, DeadlineError: as `HandlerModel.predict`.
    """
    if HEADER_LENGTH in request.headers:
        raise BadRequestError("This model takes no binary tensors: send their data as JSON.")
    return answer_by_handler(handler, Call(version, is_document=True), known, service)


def read_instances(body: bytes, most: int) -> list[list[tuple[str, str | None, bytes]]]:
    """Read the instances, each as the parts of a request: name, content type, bytes.

    Raises:
        BadRequestError: the body is not of this shape, or holds too many.
    """
    instances = list_instances(body)
    if len(instances) > most:
        raise BadRequestError(f"The request holds {len(instances)} instances; at most {most} are taken.")
    return [read_instance(instance) for instance in instances]


def read_instance(instance: Any) -> list[tuple[str, str | None, bytes]]:
    """Read one instance: an object, of which each key is a part, or any other value, which is `data`."""
    members = instance if isinstance(instance, dict) else {"data": instance}
    if set(members) == {"b64"}:
        members = {"data": members["b64"]}
    return [(name, *read_member(name, value)) for name, value in members.items()]


def read_member(name: str, value: Any) -> tuple[str | None, bytes]:
    """Read a member of an instance: a text called `data` is base64, whatever else stays JSON."""
    if name == "data" and isinstance(value, str):
        try:
            return None, base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequestError("An instance's data is not base64.") from None
    return JSON_TYPE, json.dumps(value).encode()


def read_answer(body: bytes) -> Any:
    """Return an item of a handler: as JSON where it is, else as text.

    Raises:
        HandlerFaultError: it is neither, which has no place in JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise HandlerFaultError("Unsupported model output data type.") from None
