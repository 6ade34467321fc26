"""Reads what a request carries: a raw body, which may be compressed, a form, or JSON."""

import io
import re
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from typing import Any, TypeVar

from flask import Request, request
from gunicorn.http.errors import ParseException

from app.api.request.forms import (
    MULTIPART,
    SEND_A_FILE,
    URLENCODED,
    find_pictures,
    find_urlencoded_pictures,
    is_text,
    read_form,
)
from app.api.request.json_documents import LongText, decode_text, read_in_turn, read_json, reading
from app.api.request.services import facts, services
from app.base64_fields import unwrap_picture
from app.config.settings import MIB
from app.errors import AnsweredError, BadRequestError, BodyTooLargeError, UnsupportedMediaError
from app.manifest.bounds import show
from app.pipeline.decoding.decode import is_picture
from app.pipeline.patience import Patience

T = TypeVar("T")
SMALL_BODY_BYTES = MIB
"""The largest body of a request that asks no model, unless it is a model itself. In a prediction a larger one leaves a
part of the room for bodies to others.
"""
# What zlib calls each format; "deflate" is zlib's own, with a header (RFC 9110, section 8.4.1.2).
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
IDENTITY, HEADED = "identity", ", which is zlib's format with its header (RFC 1950)"
JSON_BEGIN = re.compile(rb"(\xef\xbb\xbf)?\s*+\{")
REMOVED_BY_CURL, SURE_BYTES = b"\0\r\n", 1024
"""Bytes that `curl -d @FILE` leaves out; no picture is without them, and hardly any bytes of that length are."""
JSON_HELP = 'send {"instances": [{"data": "<base64 of a picture>"}]}'


def read_images(request: Request, max_images: int, patience: Patience) -> list[bytes | AnsweredError]:
    """Read the pictures of a prediction request, in order and not yet decoded.

    A form holds one picture in each file part, of any name. JSON holds `{"instances": [{"data": "<base64>"}]}`. Any
    other body is one picture, as it is or as base64. In place of a picture that is no base64 stands its error.

    Raises as `read_body` and `read_in_turn`, and `BadRequestError` for no picture or too many, `UnsupportedMediaError`
    for compression.
    """
    refuse_compression(request, "the picture")
    kind, body = read_kind(request), read_body(request)
    with take_reading_turn(body, patience):
        if kind == MULTIPART and not is_picture(body):
            images = find_pictures(read_form(body, request.mimetype_params.get("boundary", ""), max_images))
        elif is_json(kind, body):
            images = read_instances(body, max_images)
        else:
            refuse_remains(body, 1 if kind == URLENCODED else SURE_BYTES)
            images = find_urlencoded_pictures(body) if kind == URLENCODED else [unwrap_picture(body, "The body")]
    check_count(len(images), max_images)
    return images


def take_reading_turn(body: bytes, patience: Patience) -> AbstractContextManager[None]:
    """Do as `read_in_turn` for a body that has to be read; a picture is what it is."""
    return read_in_turn(0 if is_picture(body) else len(body), patience)


def read_document(read: Callable[[bytes], T], patience: Patience) -> T:
    """Read the JSON document that is the body of the request at hand, without its compression; `read` makes of it what
    is needed. Raises as `read`, `read_in_turn` and `read_plain_body`.
    """
    body = read_plain_body(patience)
    with read_in_turn(len(body), patience):
        return read(body)


def read_kind(request: Request) -> str:
    """Return the request's content type in lower case, without parameters; empty if it names none.

    Raises `UnsupportedMediaError` for forms of other kinds than `multipart/form-data`.
    """
    kind = request.mimetype if "CONTENT_TYPE" in request.environ else ""
    if kind.startswith("multipart/") and kind != MULTIPART:
        raise UnsupportedMediaError(f"Of multipart bodies {MULTIPART} alone is taken; {SEND_A_FILE}.")
    return kind


def is_json(kind: str, body: bytes) -> bool:
    """Whether a body is JSON: by its beginning, as many clients name no content type for JSON, or any for pictures."""
    return JSON_BEGIN.match(body) is not None or (kind == "application/json" and not is_picture(body))


def refuse_remains(body: bytes, least_bytes: int = SURE_BYTES) -> None:
    """Refuse what `curl -d @FILE` leaves of a picture of that length or more; raises `BadRequestError`."""
    if len(body) >= least_bytes and not any(byte in body for byte in REMOVED_BY_CURL) and not is_text(body):
        raise BadRequestError(
            "The body has lost its zero bytes and line breaks: a picture that is sent with -d. With curl use "
            "-T patch.png or --data-binary @patch.png."
        )


def check_count(count: int, most: int, things: str = "pictures") -> None:
    """Raise `BadRequestError` if a request holds more pictures than one may."""
    if count > most:
        raise BadRequestError(f"The request holds {count} {things}; at most {most} are taken (SCANCER_MAX_IMAGES).")


def refuse_compression(request: Request, what: str) -> None:
    """Refuse a compressed body; `what` says what to send as it is. Raises `UnsupportedMediaError`."""
    if (name := name_compression(request)) != IDENTITY:
        raise UnsupportedMediaError(
            f"Compressed bodies are not taken, and Content-Encoding says {show(name)}; send {what} as it is."
        )


def name_compression(request: Request) -> str:
    """Name the compression of a body in lower case; an empty list is none (RFC 9110, section 8.4)."""
    return request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() or IDENTITY


def read_body(request: Request) -> bytes:
    """Take the body out of the request, which holds it no longer. Raises `BadRequestError` for bad chunks,
    `BodyTooLargeError` or `RequestEntityTooLarge` over the limit.
    """
    hold_chunked_body(request)
    stream = request.environ["wsgi.input"]
    if isinstance(stream, io.BytesIO):  # it was held in memory already, and its length is known
        length, limit = int(request.environ.get("CONTENT_LENGTH") or 0), request.max_content_length
        if limit is not None and length > limit:
            raise BodyTooLargeError(f"The body is larger than {limit} bytes.")
        request.environ["wsgi.input"] = io.BytesIO()
        body = stream.getvalue()[:length]  # no copy, unlike `read`
        if len(body) < length:  # `Observation` let go of it
            raise BodyTooLargeError(f"The body is larger than the {SMALL_BODY_BYTES} bytes that this path takes.")
        return body
    return request.get_data(cache=False)


def hold_chunked_body(request: Request) -> None:
    """Read a body of unknown length into memory, so that its length is known.

    Werkzeug would cut such a body at the limit and go on, as if the picture were damaged. Raises as `read_body`.
    """
    if "CONTENT_LENGTH" in request.environ or not request.environ.get("wsgi.input_terminated"):
        return
    limit = request.max_content_length
    if limit is None:
        return
    try:
        body = request.environ["wsgi.input"].read(limit + 1)
    except (OSError, ParseException):  # the connection broke, or gunicorn's parser, which quotes what was sent
        raise BadRequestError("The body's chunks are malformed.") from None
    if len(body) > limit:
        raise BodyTooLargeError(f"The body is larger than {limit} bytes.")
    request.environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def read_instances(body: bytes, most: int) -> list[bytes | AnsweredError]:
    """Read `{"instances": [{"data": "<base64>"}]}`; raises `BadRequestError` for another shape, and for too many."""
    return [read_instance(instance, index) for index, instance in enumerate(list_instances(body, most))]


def list_instances(body: bytes, most: int, things: str = "pictures") -> list[Any]:
    """Read `{"instances": […]}` with any values, at most so many; raises `BadRequestError` as `read_instances`."""
    document = read_json(body, JSON_HELP)
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list) or not instances:
        raise BadRequestError(f"The JSON holds no instances; {JSON_HELP}.")
    check_count(len(instances), most, things)
    return instances


def read_instance(instance: Any, index: int) -> bytes | AnsweredError:
    """Read one instance: a text, `{"data": …}`, or what TensorFlow Serving's clients write: `{"b64": …}` and
    `{"<any name>": {"b64": …}}`.
    """
    value, place = instance, f"instances[{index}]"
    while isinstance(value, dict) and value:
        key = next((name for name in ("data", "b64") if value.get(name)), None)
        if key is None and len(value) > 1:
            break
        key = key or next(iter(value))
        value, place = value[key], f"{place}.{key}"
    if not isinstance(value, (str, LongText)):
        return BadRequestError(f"instances[{index}] holds no data; {JSON_HELP}.")
    try:
        return decode_text(value, place)
    except BadRequestError as error:
        return copy(error)  # without its traceback, which keeps the document


def read_plain_body(patience: Patience) -> bytes:
    """Read the whole body of the request at hand, and undo its compression (RFC 9110, section 8.4).

    Raises as `read_body`, of what comes out too, `UnsupportedMediaError` for other encodings than gzip and deflate,
    `ServiceUnavailableError` if there is no room for what comes out, and `DeadlineError`.
    """
    body = read_body(request)
    name = name_compression(request)
    if name == IDENTITY:
        return body
    if name not in WINDOW_BITS:
        raise UnsupportedMediaError("Bodies may be compressed with gzip or deflate, and with one of them.")
    with patience.hold(reading):
        plain = inflate(body, name, services().settings.max_body_bytes)
        facts().hold(len(plain))
    return plain


def inflate(body: bytes, name: str, max_bytes: int) -> bytes:
    """Undo a compression; raises as `read_plain_body`."""
    inflater = zlib.decompressobj(WINDOW_BITS[name])
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        raise BadRequestError(f"The body is not valid {name}{HEADED if name == 'deflate' else ''}.") from None
    if len(plain) > max_bytes:
        raise BodyTooLargeError(f"The body is larger than {max_bytes} bytes when it is not compressed.")
    if not inflater.eof or inflater.unused_data:
        raise BadRequestError(f"The {name} body is truncated, or something follows it.")
    return plain
