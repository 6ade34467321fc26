"""Answers requests by the handlers of model archives, as TorchServe does."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

from flask import Request, Response, request

from app.api.predict.answers import JSON_TYPE, add_version_headers, read_patience
from app.api.request.bodies import (
    read_body,
    read_kind,
    read_plain_body,
    refuse_compression,
    refuse_remains,
    take_reading_turn,
)
from app.api.request.error_handlers import make_error
from app.api.request.forms import MULTIPART, URLENCODED, is_text, read_form, read_pairs
from app.api.request.services import RequestFacts, facts, services
from app.errors import BrokenAnswerError, DeadlineError
from app.handlers.client.handler_model import HandlerModel
from app.handlers.client.handler_streams import AnswerStream
from app.handlers.handler_answers import FAULT, INVALID, Answer
from app.metrics import Metrics
from app.pipeline.patience import Patience
from app.pipeline.served_model import Timing

log = logging.getLogger(__name__)

CREDENTIALS = ("HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_COOKIE")
"""Credentials are for this server; no handler gets them, nor the header of `SCANCER_USER_HEADER`."""
OWN_HEADERS = {"connection", "content-length", "date", "keep-alive", "server", "te", "trailer", "transfer-encoding"}
"""Headers of an answer that a handler may not set."""
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]{0,8192}")


class Part(NamedTuple):
    """One part of a request: a key of the dict that a handler gets for it."""

    name: str
    type: str | None
    value: bytes


class Call(NamedTuple):
    """What the path of a request asks for; `url_path` follows the version.

    A document is JSON in body and answer, whatever their content types, as in KServe's protocols.
    """

    version: str | None = None
    url_path: str = ""
    is_explained: bool = False
    is_document: bool = False


def answer_by_handler(handler: HandlerModel, call: Call) -> Response:
    """Answer the current request by a handler that is lent for it.

    The answer is sent in parts if the handler makes it so. HTTP/1.0 and KServe's protocols know no parts.
    Raises UnsupportedMediaError for a compressed body, and others as `read_body` and `HandlerModel.predict`.
    """
    known = facts()
    known.model, known.version = handler.name, handler.version
    patience = read_patience(handler.timeout_ms)
    parts = [Part("body", JSON_TYPE, read_plain_body(patience))] if call.is_document else read_parts(request, patience)
    asked = describe_request(read_headers(request, parts), call, parts, known.request_id)
    values = [part.value for part in parts]
    record = partial(record_times, services().metrics, known)
    if call.is_document or request.environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        answer: Answer | AnswerStream = handler.predict(asked, values, patience, call.version)
    else:
        answer = handler.open(asked, values, patience, call.version)
    if isinstance(answer, AnswerStream):
        response = relay(answer, known, record)
    else:
        response = make_response(*answer)
        record(answer[0])
    if call.is_document and "Content-Type" not in response.headers:
        response.headers["Content-Type"] = JSON_TYPE
    return add_version_headers(response, handler.version)


def describe_request(headers: dict[str, Any], call: Call, parts: list[Part], request_id: str) -> dict[str, Any]:
    """Describe a request as a pool takes it, without the bytes of its parts."""
    return {
        "id": request_id,
        "headers": headers | {"explain": str(call.is_explained), "url_path": call.url_path},
        "parts": [{"name": part.name, "type": part.type} for part in parts],
    }


def relay(stream: AnswerStream, known: RequestFacts, record: Callable[[dict[str, Any]], None]) -> Response:
    """Make the response that sends the parts of an answer as they come; the handler is lent until its end."""
    response = make_response(stream.header, b"")
    if known.outcome is not None:  # an error of ours
        stream.close()
        return response
    known.is_streamed = True
    response.response = pass_on(stream, known)
    del response.headers["Content-Length"]
    response.headers["X-Accel-Buffering"] = "no"  # else nginx would hold the parts back

    def end() -> None:
        stream.close()
        record(stream.header)

    response.call_on_close(end)
    return response


def pass_on(stream: AnswerStream, known: RequestFacts) -> Iterator[bytes]:
    """Yield the parts of an answer; the log alone can still be told that it breaks off, or that its caller has gone."""
    try:
        yield from stream
    except BrokenAnswerError as error:
        known.outcome = FAULT
        extra = {"request_id": known.request_id, "model": known.model, "version": known.version}
        log.error("answer broken off", extra=extra | {"reason": error.message})
        raise
    except GeneratorExit:
        known.outcome = DeadlineError.type
        raise


def record_times(metrics: Metrics, known: RequestFacts, header: dict[str, Any]) -> None:
    """Record where the time of an answer went, by its header at the end; a failed one is counted elsewhere."""
    if known.outcome is None:
        stages = read_times(header)
        if stages:
            known.timing = Timing(0.0, stages["queue"], stages["inference"], time.perf_counter(), None)
        stages["whole"] = time.perf_counter() - known.started
        metrics.observe_prediction(known.rule, known.model or "", known.version or "", stages)


def read_times(header: dict[str, Any]) -> dict[str, float]:
    """Return the seconds by stage that a pool measured for an answer; none where the process died."""
    stages = {"queue": "queue_s", "inference": "handler_s"}
    return {stage: header[name] for stage, name in stages.items() if name in header}


def read_parts(request: Request, patience: Patience) -> list[Part]:
    """Read the body: each part of a form, or the whole as `body`; raises as `read_images`."""
    refuse_compression(request, "the body")
    kind, body = read_kind(request), read_body(request)
    with take_reading_turn(body, patience):
        return make_parts(request, kind, body)


def make_parts(request: Request, kind: str, body: bytes) -> list[Part]:
    """Make the parts of a body of a content type; raises as `read_parts`."""
    if kind == MULTIPART:
        form = read_form(body, request.mimetype_params.get("boundary", ""), services().settings.max_images)
        return [
            Part(each.name, each.type if each.filename is not None else None, each.decode())
            for each in form
            if not each.is_unused
        ]
    if kind == URLENCODED and is_text(body):  # a picture sent by `curl --data-binary` bears that name too
        return [Part(name.decode(errors="replace"), None, value) for name, value in read_pairs(body)]
    if kind == URLENCODED:
        refuse_remains(body)
    return [Part("body", request.content_type, body)]


def read_headers(request: Request, parts: list[Part]) -> dict[str, Any]:
    """Return the headers that a handler sees: those of the request without credentials, and those of a form's parts."""
    secret = {*CREDENTIALS, f"HTTP_{services().settings.user_header.upper().replace('-', '_')}"}
    headers: dict[str, Any] = {
        name[5:].replace("_", "-").title(): value
        for name, value in request.environ.items()
        if name.startswith("HTTP_") and name not in secret
    }
    if request.content_type:
        headers["Content-Type"] = request.content_type
    headers |= {part.name: {"content-type": part.type} for part in parts if part.name != "body" and part.type}
    return headers


def make_response(header: dict[str, Any], body: bytes) -> Response:
    """Make the response: a handler's item with the status and headers that it set, or its failure as an error."""
    if "error" in header:
        return refuse(header["status"], header["error"], header.get("type", FAULT))
    status, phrase = header["status"], header["phrase"]
    pairs = header["headers"]
    if not 200 <= status <= 599 or not HEADER_VALUE.fullmatch(phrase) or not all(is_sound(*pair) for pair in pairs):
        return refuse(HTTPStatus.SERVICE_UNAVAILABLE, INVALID, FAULT)
    response = Response(body, status=f"{status} {phrase}".strip())
    del response.headers["Content-Type"]  # none, unless the handler names one: TorchServe's clients know it so
    for name, value in pairs:
        response.headers[name] = value
    return response


def refuse(status: int, message: str, kind: str) -> Response:
    """Make the error of a handler; a status that is the handler's own may be none of an error, and becomes 500."""
    code = int(status) if 400 <= status <= 599 else HTTPStatus.INTERNAL_SERVER_ERROR.value
    return make_error({"code": code, "type": kind, "message": message})


def is_sound(name: str, value: str) -> bool:
    """Whether a handler may send a header."""
    return bool(HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)) and name.lower() not in OWN_HEADERS
