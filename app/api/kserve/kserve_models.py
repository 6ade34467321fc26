"""Describes the server and its models in KServe's protocols: `/v2…`, and `GET /v1/models/<model_name>`.

`…/config` is Triton's `ModelConfig`, whose shapes leave out the number of pictures.
"""

from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

import app
from app.api.kserve.kserve_inference import LABEL, PROBABILITIES, read_flag
from app.api.kserve.tensors import read_optional_object
from app.api.request.auth import list_askable, require
from app.api.request.bodies import read_document
from app.api.request.services import NOTICE, facts, is_server_ready, services
from app.config.settings import Settings
from app.errors import ServiceUnavailableError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import BatchSpec
from app.pipeline.patience import ENDLESS
from app.registry.model_entry import ModelEntry, State, find_limits

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
    entry = find_entry(model_name, version)
    if entry.manifest is None and entry.archive is not None:  # its handler takes no tensors, only requests
        versions = services().registry.versions(model_name)
        return jsonify(name=model_name, versions=versions, platform="handler", inputs=[], outputs=[])
    if entry.manifest is None:
        raise ServiceUnavailableError(
            f'Model "{model_name}" has no manifest that can be read; see /models/{"/".join(entry.key)}.'
        )
    return jsonify(
        name=model_name,
        versions=services().registry.versions(model_name),
        platform=entry.engine or entry.manifest.framework,
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}],
        outputs=[
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, len(entry.manifest.output.classes)]},
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
        ],
        parameters=make_parameters(entry.manifest),
    )


def make_parameters(manifest: ModelManifest) -> dict[str, Any]:
    """Describe what the protocol has no field for; a parameter is a text, a number, or a truth value."""
    spec, output = manifest.input, manifest.output
    height, width, order = spec.height_px, spec.width_px, spec.channel_order
    parameters: dict[str, Any] = {
        "notice": NOTICE,
        "title": manifest.title,
        "classes": ", ".join(output.classes),
        "uint8_input": "[-1, -1, -1, 3]: RGB pixels, 0 to 255, of any size",
    }
    if spec.short_side_px is None:
        parameters |= {
            "fp32_input": f"[-1, 3, {height}, {width}] or [-1, {height}, {width}, 3]: {order}, (pixel - mean) / std",
            "channel_order": order,
            "mean": ", ".join(map(str, spec.mean)),
            "std": ", ".join(map(str, spec.std)),
        }
    if output.threshold is not None:
        parameters |= {"positive_class": output.positive_class, "threshold": output.threshold}
    return parameters


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
    only_ready = read_flag(read_document(read_optional_object, ENDLESS), "ready", default=False)
    states = [
        {"name": entry.folder.name, "version": entry.folder.version, "state": entry.state.value, "reason": entry.reason}
        for entry in list_askable(services().registry.entries())
        if entry.state is State.READY or not only_ready
    ]
    return jsonify(states)


@blueprint.get("/v1/models/<model_name>")
@require("predict")
def show_readiness(model_name: str) -> ResponseReturnValue:
    """Answer whether a model is ready, in the words of KServe v1."""
    return jsonify({"name": model_name, "ready": find_entry(model_name, None).state is State.READY})


def find_entry(model_name: str, version: str | None) -> ModelEntry:
    """Return the entry of a version, and note for the log which version it is."""
    entry = services().registry.get(model_name, version)
    facts().model, facts().version = entry.folder.name, entry.folder.version
    return entry


@blueprint.get("/v2/models/<model_name>/config")
@blueprint.get("/v2/models/<model_name>/versions/<version>/config")
@require("predict")
def configure_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Describe how a model is served: its tensors, its batches, and the number of its processes."""
    entry = find_entry(model_name, version)
    if entry.manifest is not None:
        return jsonify(configure_classifier(entry, entry.manifest, services().settings))
    if entry.archive is not None:
        return jsonify(configure_handler(entry, services().settings))
    raise ServiceUnavailableError(f'Model "{model_name}" cannot be read; see /models/{"/".join(entry.key)}.')


def configure_classifier(entry: ModelEntry, manifest: ModelManifest, settings: Settings) -> dict[str, Any]:
    """Describe a model that every worker of the server holds: ours, or a compiled archive."""
    parameters = make_parameters(manifest)
    return {
        **make_common(entry, entry.engine or manifest.framework, settings.workers),
        "max_batch_size": settings.max_images,
        "dynamic_batching": make_batching(entry.wanted.choose_batch(manifest)),
        "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": [1]}],
        "output": [
            {"name": PROBABILITIES, "data_type": "TYPE_FP32", "dims": [len(manifest.output.classes)]},
            {"name": LABEL, "data_type": "TYPE_STRING", "dims": []},
        ],
        "parameters": {name: {"string_value": str(value)} for name, value in parameters.items()},
    }


def configure_handler(entry: ModelEntry, settings: Settings) -> dict[str, Any]:
    """Describe an archive that its handler answers for: it takes no tensors, only requests."""
    limits = find_limits(entry, settings)
    return {
        **make_common(entry, "handler", limits.min_workers),
        "max_batch_size": limits.batch_size,
        "dynamic_batching": make_batching(BatchSpec(limits.batch_size, limits.max_batch_delay_ms)),
        "input": [],
        "output": [],
    }


def make_common(entry: ModelEntry, engine: str, count: int) -> dict[str, Any]:
    """Make what every configuration has; `count` is the number of processes that serve the model."""
    group = {"name": f"{entry.wanted.name}_0", "kind": "KIND_CPU", "count": count}
    return {"name": entry.wanted.name, "platform": engine, "backend": engine, "instance_group": [group]}


def make_batching(batch: BatchSpec) -> dict[str, Any]:
    """Describe how requests that come together are inferred together."""
    delay_us = round(batch.max_delay_ms * 1000)
    return {"preferred_batch_size": [batch.max_size], "max_queue_delay_microseconds": delay_us}
