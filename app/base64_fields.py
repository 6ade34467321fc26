"""Decodes base64 that stands in a field of a request."""

import base64
from typing import Any

from app.errors import BadRequestError


def decode_base64(text: Any, field: str) -> bytes:
    """Decode base64 of the standard alphabet; white space is skipped, since `base64 FILE` breaks its lines.

    Raises `BadRequestError` with the field's place, e.g. `instances[2].data`, if the value is no text or no base64.
    """
    if not isinstance(text, str):
        raise BadRequestError(f"{field} must be a text: a file as base64.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise BadRequestError(f"{field} is not base64; send a file as `base64 FILE` writes it.") from None
