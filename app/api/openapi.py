"""`GET /api-description` and `OPTIONS /`: the OpenAPI document."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.request.auth import require

blueprint = Blueprint("description", __name__)

DOCUMENT = Path(__file__).with_name("openapi.json")


@cache
def read_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of this API."""
    document: dict[str, Any] = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return document


@blueprint.get("/api-description")
@blueprint.route("/", methods=["OPTIONS"])
@require("predict")
def describe_api() -> ResponseReturnValue:
    """Send the document."""
    return jsonify(read_document())
