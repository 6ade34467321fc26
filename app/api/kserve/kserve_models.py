"""Describes the server and its models in KServe's protocols: `/v2…`, and `GET /v1/models/<model_name>`."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

import app
from app.api.kserve.kserve_inference import LABEL, PROBABILITIES, read_flag
from app.api.kserve.tensors import read_object
from app.api.request.auth import require
from app.api.request.bodies import read_plain_body
from app.api.request.services import NOTICE, facts, is_server_ready, services
from app.errors import ServiceUnavailableError
from app.manifest.model_manifest import ModelManifest
from app.registry.model_entry import ModelEntry, State

blueprint = Blueprint("open_models", __name__)

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]


@blueprint.get("/v2")
@require("predict")
def describe_server() -> ResponseReturnValue:
    """Name the server and the extensions of the protocol that it has."""
    return jsonify({"name": "scancer-api", "version": app.__version__, "extensions": EXTENSIONS})


@blueprint.get("/v2/health/live")
def live() -> ResponseReturnValue:
    """Answer that this worker lives."""
    return jsonify({"live": True})


@blueprint.get("/v2/health/ready")
def ready() -> ResponseReturnValue:
    """Answer whether the default version of every model is READY; 503 until then."""
    if not is_server_ready():
        raise ServiceUnavailableError("A model is not ready, or the server stops; see /health/ready.")
    return jsonify({"ready": True})


@blueprint.get("/v2/models/<model_name>")
@blueprint.get("/v2/models/<model_name>/versions/<version>")
@require("predict")
def describe_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Describe the tensors of a model."""
    registry = services().registry
    entry = find_entry(model_name, version)
    if entry.manifest is None:
        raise ServiceUnavailableError(
            f'Model "{model_name}" has no manifest that can be read; see /models/{"/".join(entry.key)}.'
        )
    return jsonify(
        {
            "name": model_name,
            "versions": registry.versions(model_name),
            "platform": entry.engine or entry.manifest.framework,
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}],
            "outputs": [
                {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, len(entry.manifest.output.classes)]},
                {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            ],
            "parameters": make_parameters(entry.manifest),
        }
    )


def make_parameters(manifest: ModelManifest) -> dict[str, Any]:
    """Describe what the protocol has no field for; a parameter is a text, a number, or a truth value."""
    spec, output = manifest.input, manifest.output
    height, width = spec.height_px, spec.width_px
    parameters: dict[str, Any] = {
        "notice": NOTICE,
        "title": manifest.title,
        "classes": ", ".join(output.classes),
        "uint8_input": "[-1, -1, -1, 3]: RGB pixels, 0 to 255, of any size",
    }
    fp32 = {
        "fp32_input": f"[-1, 3, {height}, {width}] or [-1, {height}, {width}, 3]: RGB, (pixel - mean) / std",
        "mean": ", ".join(map(str, spec.mean)),
        "std": ", ".join(map(str, spec.std)),
    }
    if spec.short_side_px is None:
        parameters |= fp32
    if output.threshold is None:
        return parameters
    return parameters | {"positive_class": output.positive_class, "threshold": output.threshold}


@blueprint.get("/v2/models/<model_name>/ready")
@blueprint.get("/v2/models/<model_name>/versions/<version>/ready")
@require("predict")
def is_model_ready(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Answer that a model is ready; 503 if it is not."""
    if find_entry(model_name, version).handler is None:  # else it is ready
        services().registry.get_served(model_name, version)
    return jsonify({"name": model_name, "ready": True})


@blueprint.post("/v2/repository/index")
@require("predict")
def list_repository() -> ResponseReturnValue:
    """List every version of every model with its state; `{"ready": true}` asks for those that answer."""
    body = read_plain_body()
    only_ready = read_flag(read_object(body) if body else {}, "ready", default=False)
    return jsonify(
        [
            {
                "name": entry.folder.name,
                "version": entry.folder.version,
                "state": entry.state.value,
                "reason": entry.reason,
            }
            for entry in services().registry.entries()
            if entry.state is State.READY or not only_ready
        ]
    )


@blueprint.get("/v1/models/<model_name>")
@require("predict")
def show_readiness(model_name: str) -> ResponseReturnValue:
    """Answer whether a model is ready, in the words of KServe v1."""
    is_model_up = find_entry(model_name, None).state is State.READY
    return jsonify({"name": model_name, "ready": is_model_up}), HTTPStatus.OK


def find_entry(model_name: str, version: str | None) -> ModelEntry:
    """Return the entry of a version, and note for the log which version it is."""
    entry = services().registry.get(model_name, version)
    facts().model, facts().version = entry.folder.name, entry.folder.version
    return entry
