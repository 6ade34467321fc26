"""The OpenAPI document: `GET /api-description`, and `OPTIONS` of TorchServe's paths."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify
from flask.typing import ResponseReturnValue

from app.api.management.management_endpoints import pretty
from app.api.monitoring.exporter import open_on_loopback
from app.api.request.auth import require
from app.api.request.services import services

blueprint = Blueprint("description", __name__)

DOCUMENT = Path(__file__).with_name("openapi.json")


@cache
def read_document() -> dict[str, Any]:
    """Read the OpenAPI 3.1 document of this API."""
    document: dict[str, Any] = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return document


@blueprint.get("/api-description")
@blueprint.route("/", methods=["OPTIONS"])
@open_on_loopback
def describe_api() -> ResponseReturnValue:
    """Send the document; at the metrics address under the same rule as the metrics."""
    return Response(write_document(), mimetype="application/json")


@cache
def write_document() -> bytes:
    """Write the document once: to do it anew takes ten times as long as all else of the answer."""
    return json.dumps(read_document(), separators=(",", ":")).encode() + b"\n"


@blueprint.route("/predictions/<model_name>", methods=["OPTIONS"])
@require("predict")
def describe_predictions(model_name: str) -> ResponseReturnValue:
    """Send the part of the document that describes how to ask one model."""
    services().registry.get(model_name)
    whole = read_document()
    paths = {f"/predictions/{model_name}": whole["paths"]["/predictions/{model_name}"]}
    info = whole["info"] | {"title": f"RESTful API for: {model_name}"}
    return jsonify(whole | {"info": info, "paths": paths})


@blueprint.route("/models/<model_name>", methods=["OPTIONS"])
@require("predict")
def describe_management(model_name: str) -> ResponseReturnValue:
    """Send the document, if there is such a model."""
    services().registry.get(model_name)
    return pretty(read_document())
