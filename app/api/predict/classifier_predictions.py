"""Reads requests and writes answers of compiled archives as TorchServe's default handler does."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from flask import Response

from app.api.predict.answers import JSON_TYPE, add_version_headers
from app.api.predict.handler_predictions import Part
from app.api.request.forms import is_text
from app.base64_fields import decode_base64, decode_base64_bytes, unwrap_picture
from app.errors import BadRequestError
from app.handlers.worker.default_classifier import CLASSES_ANSWERED
from app.pipeline.decoding.decode import is_picture
from app.pipeline.served_model import Prediction

JSON_START = re.compile(rb"\s*+[\[{\"\-0-9tfn]")
"""How JSON begins, and no picture; the rest of it is not read."""
PICTURE_NAMES = ("data", "body")
"""Names of the part that the default handler takes, in order of precedence."""


def read_picture(parts: Sequence[Part]) -> bytes:
    """Read the picture of a request's parts, or of an instance's: as bytes, or as base64 where it is text.

    Raises BadRequestError if there is no picture, or JSON in its place.
    """
    part = choose_part(parts)
    kind = (part.type or "").partition(";")[0].strip().lower()
    if kind == JSON_TYPE and (text := read_json_text(part.value)) is not None:
        return decode_base64(text, f'The text of part "{part.name}"')
    if kind == JSON_TYPE and JSON_START.match(part.value):
        raise BadRequestError("JSON is not taken by this model; send the picture as it is, or as base64 in plain text.")
    if kind.startswith("text/") and is_text(part.value):
        return decode_base64_bytes(part.value, f'The text of part "{part.name}"')
    return unwrap_picture(part.value, f'Part "{part.name}"')


def read_json_text(value: bytes) -> str | None:
    """Read a part that is one text of JSON; None for any other, which is not read."""
    if not value[:64].lstrip().startswith(b'"'):
        return None
    try:
        text: str = json.loads(value)
    except ValueError:
        return None
    return text


def choose_part(parts: Sequence[Part]) -> Part:
    """Choose the part that holds the picture: by its name, or the only one, or the only picture; raises
    `BadRequestError`.
    """
    for name in PICTURE_NAMES:
        found = [part for part in parts if part.name == name and part.value]
        if found:
            return found[-1]
    found = list(parts) if len(parts) == 1 else [part for part in parts if is_picture(part.value)]
    if len(found) != 1:
        raise BadRequestError('Send one picture: as the body, or as the part "data" of a form.')
    return found[0]


def make_answer(prediction: Prediction, labels: Sequence[str]) -> dict[str, float]:
    """Name the most probable classes, best first; of two classes with one label one is left, as in TorchServe."""
    probabilities = np.array(list(prediction.decision.probabilities.values()))
    best = np.argsort(-probabilities, kind="stable")[:CLASSES_ANSWERED]
    return {labels[index]: float(probabilities[index]) for index in best}


def make_response(answer: dict[str, Any], version: str) -> Response:
    """Make the response: JSON without a content type, as TorchServe's handlers answer, and the version that made it."""
    response = Response(json.dumps(answer, indent=2))
    del response.headers["Content-Type"]
    return add_version_headers(response, version)
