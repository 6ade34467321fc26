"""Reads what a request carries: a raw body, which may be compressed, a form, or JSON."""

import io
import json
import zlib
from typing import IO, Any

from flask import Request, request
from gunicorn.http.errors import ParseException

from app.api.request.services import services
from app.base64_fields import decode_base64
from app.errors import AnsweredError, BadRequestError, BodyTooLargeError, UnsupportedMediaError

STREAMS = "scancer.streams"
# What zlib calls each format; "deflate" is zlib's own, with a header (RFC 9110, section 8.4.1.2).
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
JSON_HELP = 'send {"instances": [{"data": "<base64 of a picture>"}]}'


class MemoryRequest(Request):
    """A request whose uploaded files, bounded by `SCANCER_MAX_BODY_BYTES`, stay in memory and touch no disk."""

    def _get_file_stream(self, *_: object, **_names: object) -> IO[bytes]:
        stream = io.BytesIO()
        self.environ.setdefault(STREAMS, []).append(stream)
        return stream


def read_images(request: Request, max_images: int) -> list[bytes | AnsweredError]:
    """Read the pictures of a prediction request, in order and not yet decoded.

    The content type decides: `multipart/form-data` holds one picture in each file part, of any name, and
    `application/json` holds `{"instances": [{"data": "<base64>"}]}`. Any other body is one picture. In place of an
    instance that is no base64 stands its error.

    Raises as `read_body`, and `BadRequestError` for no picture or too many, `UnsupportedMediaError` for compression.
    """
    images: list[bytes | AnsweredError]
    refuse_compression(request, "the picture")
    kind = request.mimetype if "CONTENT_TYPE" in request.environ else ""
    if kind == "multipart/form-data":
        hold_chunked_body(request)
        if not request.files:  # asking for them reads the form
            raise BadRequestError("The form holds no file; send the picture as a file part, e.g. -F image=@patch.png.")
        images = [stream.getvalue() for stream in request.environ[STREAMS]]  # in order; `files` groups them by name
    elif kind == "application/json":
        images = read_instances(read_body(request))
    else:
        images = [read_body(request)]
    if len(images) > max_images:
        raise BadRequestError(f"The request holds {len(images)} pictures; at most {max_images} are taken.")
    return images


def refuse_compression(request: Request, what: str) -> None:
    """Refuse a compressed body; `what` says what to send as it is. Raises `UnsupportedMediaError`."""
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise UnsupportedMediaError(f"Compressed bodies are not taken; send {what} as it is.")


def read_body(request: Request) -> bytes:
    """Read the body. Raises `BadRequestError` for bad chunks, `BodyTooLargeError` or `RequestEntityTooLarge` over the
    limit.
    """
    hold_chunked_body(request)
    stream = request.environ["wsgi.input"]
    if isinstance(stream, io.BytesIO):  # it was held in memory already, and its length is known
        length, limit = int(request.environ.get("CONTENT_LENGTH") or 0), request.max_content_length
        if limit is not None and length > limit:
            raise BodyTooLargeError(f"The body is larger than {limit} bytes.")
        return stream.getvalue()[:length]  # no copy, unlike `read`
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


def read_instances(body: bytes) -> list[bytes | AnsweredError]:
    """Read `{"instances": [{"data": "<base64>"}]}`; raises `BadRequestError` for another shape."""
    return [read_instance(instance, index) for index, instance in enumerate(list_instances(body))]


def list_instances(body: bytes) -> list[Any]:
    """Read `{"instances": […]}` with any values; raises `BadRequestError` if there are none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequestError(f"The body is not JSON; {JSON_HELP}.") from None
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list) or not instances:
        raise BadRequestError(f"The JSON holds no instances; {JSON_HELP}.")
    return instances


def read_instance(instance: Any, index: int) -> bytes | AnsweredError:
    """Read one instance: `{"data": …}`, or `{"b64": …}` as TensorFlow Serving's clients write it."""
    members = instance if isinstance(instance, dict) else {}
    key = "data" if members.get("data") else "b64"
    if not isinstance(members.get(key), str):
        return BadRequestError(f"instances[{index}] holds no data; {JSON_HELP}.")
    try:
        return decode_base64(members[key], f"instances[{index}].{key}")
    except BadRequestError as error:
        return error


def read_plain_body() -> bytes:
    """Read the whole body of the request at hand, and undo its compression (RFC 9110, section 8.4).

    Raises as `read_body`, of what comes out too, and `UnsupportedMediaError` for other encodings than gzip and deflate.
    """
    body, max_bytes = read_body(request), services().settings.max_body_bytes
    name = request.environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if name == "identity":
        return body
    if name not in WINDOW_BITS:
        raise UnsupportedMediaError("Bodies may be compressed with gzip or deflate, and with one of them.")
    inflater = zlib.decompressobj(WINDOW_BITS[name])
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        raise BadRequestError(f"The body is not valid {name}.") from None
    if len(plain) > max_bytes:
        raise BodyTooLargeError(f"The body is larger than {max_bytes} bytes when it is not compressed.")
    if not inflater.eof or inflater.unused_data:
        raise BadRequestError(f"The {name} body is truncated, or something follows it.")
    return plain
