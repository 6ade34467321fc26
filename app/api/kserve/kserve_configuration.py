"""`GET /v2/models/<model_name>[/versions/<version>]/config`: a model in the words of Triton's `ModelConfig`.

Its tensors are those of `kserve_models`. Triton's shapes leave out the number of pictures.
"""

from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.kserve.kserve_inference import LABEL, PROBABILITIES
from app.api.kserve.kserve_models import find_entry, make_parameters
from app.api.request.auth import require
from app.api.request.services import services
from app.config.settings import Settings
from app.errors import ServiceUnavailableError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import BatchSpec
from app.registry.model_entry import ModelEntry, find_limits

blueprint = Blueprint("open_configuration", __name__)

US_PER_MS = 1000


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
    delay_us = round(batch.max_delay_ms * US_PER_MS)
    return {"preferred_batch_size": [batch.max_size], "max_queue_delay_microseconds": delay_us}
