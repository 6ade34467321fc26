"""Request bodies that were compressed on the way (RFC 9110, section 8.4)."""

import zlib

from flask import request

from app.api.request.bodies import read_body
from app.api.request.services import services
from app.errors import BadRequestError, BodyTooLargeError, UnsupportedMediaError

# What zlib calls each format; "deflate" is zlib's own, with a header (RFC 9110, section 8.4.1.2).
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def read_plain_body() -> bytes:
    """Read the whole body of the request at hand as it was before it was compressed."""
    encoding = request.environ.get("HTTP_CONTENT_ENCODING", "identity")
    return inflate(read_body(request), encoding, services().settings.max_body_bytes)


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo the compression of a body.

    Args:
        body: as it was sent.
        encoding: its `Content-Encoding`; `identity` for none.
        max_bytes: most bytes that may come out; no more than one above is ever made.

    Raises:
        UnsupportedMediaError: another encoding, or several.
        BodyTooLargeError: more would come out.
        BadRequestError: the body is damaged or truncated, or something follows it.
    """
    name = encoding.strip().lower()
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
