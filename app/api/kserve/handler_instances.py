"""KServe's protocols, answered by the handlers of model archives.

A handler with an envelope gets the body as it is. For others, each of v1's `{"instances": […]}` is a request of its
own, and v2's tensors mean nothing.
"""

import json
import time
from typing import Any

from flask import Response, request

from app.api.predict.answers import JSON_TYPE, add_version_headers, json_text, read_patience
from app.api.predict.handler_predictions import (
    Call,
    Part,
    answer_by_handler,
    describe_request,
    read_headers,
    read_times,
)
from app.api.request.bodies import list_instances, read_document
from app.api.request.json_documents import LongText, decode_text, write_json
from app.api.request.services import facts, services
from app.errors import HandlerFaultError
from app.handlers.client.handler_model import HandlerModel


def answer_instances(handler: HandlerModel, is_explained: bool) -> Response:
    """Answer every instance by a handler, in order; raises the error of the first that fails."""
    if handler.has_envelope:
        return answer_by_handler(handler, Call(is_explained=is_explained, is_document=True))
    known, service = facts(), services()
    known.model, known.version = handler.name, handler.version
    patience = read_patience(handler.timeout_ms)
    headers, call, answers = read_headers(request, []), Call(is_explained=is_explained), []
    most = service.settings.max_images
    for parts in read_document(lambda body: read_instance_parts(body, most), patience):
        asked = describe_request(headers, call, parts, known.request_id)
        header, body = handler.predict(asked, [part.value for part in parts], patience)
        if "error" in header:
            raise HandlerFaultError(header["error"])
        service.metrics.observe_prediction(known.rule, handler.name, handler.version, read_times(header))
        answers.append(read_answer(body))
    whole = {"whole": time.perf_counter() - known.started}
    service.metrics.observe_prediction(known.rule, handler.name, handler.version, whole)
    return add_version_headers(json_text({"explanations" if is_explained else "predictions": answers}), handler.version)


def read_instance_parts(body: bytes, most: int) -> list[list[Part]]:
    """Read at most `most` instances, each as the parts of a request. Raises BadRequestError for any other body."""
    instances = list_instances(body, most, "instances")
    return [read_instance(instance, f"instances[{index}]") for index, instance in enumerate(instances)]


def read_instance(instance: Any, place: str) -> list[Part]:
    """Read one instance: an object, whose keys are parts, or any other value, which is the part `data`."""
    members = instance if isinstance(instance, dict) else {"data": instance}
    if set(members) == {"b64"}:
        members = {"data": members["b64"]}
    return [read_member(name, value, place) for name, value in members.items()]


def read_member(name: str, value: Any, place: str) -> Part:
    """Read a member of an instance: a text called `data` is base64; any other value stays JSON."""
    if name == "data" and isinstance(value, (str, LongText)):
        return Part(name, None, decode_text(value, f"{place}.data"))
    return Part(name, JSON_TYPE, write_json(value, f"{place}.{name}"))


def read_answer(body: bytes) -> Any:
    """Read an item of a handler: as JSON, or else as text. Raises HandlerFaultError if it is neither."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise HandlerFaultError("Unsupported model output data type.") from None
