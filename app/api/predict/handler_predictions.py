"""Between HTTP and the handlers of model archives, as TorchServe's clients know it."""

import logging
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from flask import Request, Response, jsonify

from app.api.request.bodies import hold_chunked_body, read_body
from app.api.request.error_handlers import shape_error
from app.api.request.inflate import read_plain_body
from app.api.request.services import NOTICE, RequestFacts
from app.errors import BrokenAnswerError, DeadlineError, UnsupportedMediaError
from app.handlers.client.handler_model import HandlerModel
from app.handlers.client.handler_streams import AnswerStream
from app.handlers.worker.handler_batch import FAULT, INVALID, Answer
from app.pipeline.patience import Patience

log = logging.getLogger(__name__)

CREDENTIALS = ("HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_COOKIE")
"""What a caller sends to us; no handler gets it."""
OWN_HEADERS = {"connection", "content-length", "date", "keep-alive", "server", "te", "trailer", "transfer-encoding"}
"""What a handler may not say of an answer."""
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]{0,8192}")
VERSION_HEADER = "X-Model-Version"
"""Says which version answered: the body is the handler's own."""
JSON_TYPE = "application/json"
URLENCODED = "application/x-www-form-urlencoded"


class Part(NamedTuple):
    """One key of the dict that a handler gets for a request."""

    name: str
    type: str | None
    value: bytes


class Call(NamedTuple):
    """What the path of a request says: the version, what stands behind it, and what for.

    Attributes:
        is_explained: whether an explanation is wanted.
        is_document: whether the body is JSON, whatever its content type, and the answer too: KServe's protocols.
    """

    version: str | None = None
    url_path: str = ""
    is_explained: bool = False
    is_document: bool = False


def predict(
    handler: HandlerModel,
    request: Request,
    call: Call,
    patience: Patience,
    known: RequestFacts,
    observe: Callable[[dict[str, float]], None],
) -> Response:
    """Hand a request to a handler and make its answer the response, which names the version that made it.

    An answer in parts is sent so, unless the client's HTTP or the path's protocol knows no parts.

    Args:
        handler: is lent for this call.
        request: the request.
        call: what its path says.
        patience: how long the caller waits.
        known: what the log says of the request.
        observe: called at the end of the answer, with the seconds by stage: in the queue, and in the handler.
    """
    parts = [Part("body", JSON_TYPE, read_plain_body())] if call.is_document else read_parts(request)
    own = {"explain": str(call.is_explained), "url_path": call.url_path}
    asked = {
        "id": known.request_id,
        "headers": read_headers(request, parts) | own,
        "parts": [{"name": part.name, "type": part.type} for part in parts],
    }
    values = [part.value for part in parts]
    if call.is_document or request.environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        answer: Answer | AnswerStream = handler.predict(asked, values, patience, call.version)
    else:
        answer = handler.open(asked, values, patience, call.version)
    if isinstance(answer, AnswerStream):
        response = relay(answer, known, observe)
    else:
        response = make_response(*answer, known)
        observe(read_times(answer[0]))
    response.headers[VERSION_HEADER] = handler.version
    response.headers["X-Notice"] = NOTICE
    if call.is_document and "Content-Type" not in response.headers:
        response.headers["Content-Type"] = JSON_TYPE
    return response


def relay(stream: AnswerStream, known: RequestFacts, observe: Callable[[dict[str, float]], None]) -> Response:
    """Make the response that sends the parts of an answer as they come; the handler is lent until its end."""
    response = make_response(stream.header, b"", known)
    if known.outcome is not None:  # an error of ours
        stream.close()
        return response
    known.is_streamed = True
    response.response = pass_on(stream, known)
    del response.headers["Content-Length"]
    response.headers["X-Accel-Buffering"] = "no"  # else nginx would hold the parts back

    def end() -> None:
        stream.close()
        observe(read_times(stream.header))

    response.call_on_close(end)
    return response


def pass_on(stream: AnswerStream, known: RequestFacts) -> Iterator[bytes]:
    """Yield the parts of an answer; that one breaks off, or its caller goes, only the log can be told."""
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


def read_times(header: dict[str, Any]) -> dict[str, float]:
    """Return the seconds by stage that a pool tells of an answer; none where the process died."""
    stages = {"queue": "queue_s", "inference": "handler_s"}
    return {stage: header[name] for stage, name in stages.items() if name in header}


def read_parts(request: Request) -> list[Part]:
    """Read the body: each part of a form, or the whole as `body`.

    Raises:
        UnsupportedMediaError: it is compressed.
        BadRequestError, BodyTooLargeError: as `read_body`.
    """
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise UnsupportedMediaError("Compressed bodies are not taken.")
    kind = request.mimetype if "CONTENT_TYPE" in request.environ else ""
    if kind == "multipart/form-data":
        hold_chunked_body(request)
        fields = [Part(name, None, value.encode()) for name, value in request.form.items(multi=True)]
        files = [Part(name, file.content_type, file.read()) for name, file in request.files.items(multi=True)]
        return fields + files
    body = read_body(request)
    if kind == URLENCODED and is_text(body):  # a picture sent by `curl --data-binary` bears that name too
        return [Part(name.decode(errors="replace"), None, value) for name, value in read_pairs(body)]
    return [Part("body", request.content_type, body)]


def read_pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    """Read names and values of an urlencoded form; what has no `=` is none of them."""
    pairs = "&".join(pair for pair in body.decode("latin-1").split("&") if "=" in pair)
    found = parse_qsl(pairs, keep_blank_values=True, encoding="latin-1")  # in which every byte is itself
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in found]


def is_text(body: bytes) -> bool:
    """Whether a body is UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_headers(request: Request, parts: list[Part]) -> dict[str, Any]:
    """The request's headers as handlers see them, without credentials; also those of each part of a form."""
    headers: dict[str, Any] = {
        name[5:].replace("_", "-").title(): value
        for name, value in request.environ.items()
        if name.startswith("HTTP_") and name not in CREDENTIALS
    }
    if request.content_type:
        headers["Content-Type"] = request.content_type
    headers |= {part.name: {"content-type": part.type} for part in parts if part.name != "body" and part.type}
    return headers


def make_response(header: dict[str, Any], body: bytes, known: RequestFacts) -> Response:
    """Make the response: a handler's item with what it set for it, or its failure in the one shape of errors."""
    if "error" in header:
        return make_error(header["status"], header["error"], known, header.get("type", FAULT))
    status, phrase = header["status"], header["phrase"]
    pairs = header["headers"]
    if not 200 <= status <= 599 or not HEADER_VALUE.fullmatch(phrase) or not all(is_sound(*pair) for pair in pairs):
        return make_error(HTTPStatus.SERVICE_UNAVAILABLE, INVALID, known)
    response = Response(body, status=f"{status} {phrase}".strip())
    del response.headers["Content-Type"]  # none, unless the handler names one: TorchServe's clients know it so
    for name, value in pairs:
        response.headers[name] = value
    return response


def is_sound(name: str, value: str) -> bool:
    """Whether a handler may send a header."""
    return bool(HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)) and name.lower() not in OWN_HEADERS


def make_error(status: int, message: str, known: RequestFacts, kind: str = FAULT) -> Response:
    """Make an error in the shape of the path's protocol, with a status that may be a handler's own."""
    code = status if 400 <= status <= 599 else HTTPStatus.INTERNAL_SERVER_ERROR.value
    known.outcome = kind
    response = jsonify(shape_error({"code": int(code), "type": kind, "message": message}))
    response.status_code = code
    return response
