"""`GET /v2/models[/<model_name>[/versions/<version>]]/stats`: Triton's statistics, from the counts of `app/metrics.py`.

They count all workers since the server started. Figures that are not measured are left out: the making of answers
(`compute_output`), the number of batches (`execution_count`), the sizes of batches, and the time of the last request.
"""

from collections.abc import Iterable
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.api.kserve.kserve_models import find_entry
from app.api.request.auth import list_askable, require
from app.api.request.services import services
from app.metrics import FAILED, Labels, Totals
from app.registry.model_entry import ModelEntry
from app.state.wanted import Key

blueprint = Blueprint("open_statistics", __name__)

NS_PER_S = 1e9
STAGES = {"success": "whole", "fail": FAILED, "queue": "queue", "compute_input": "decode", "compute_infer": "inference"}
"""By Triton's name of a stage of a request: ours."""


@blueprint.get("/v2/models/stats")
@require("predict")
def count_all() -> ResponseReturnValue:
    """Count the requests of every version of every model."""
    return answer(list_askable(services().registry.entries()))


@blueprint.get("/v2/models/<model_name>/stats")
@blueprint.get("/v2/models/<model_name>/versions/<version>/stats")
@require("predict")
def count_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Count the requests of one version of a model, or of each if none is named."""
    entry = find_entry(model_name, version)
    if version is not None:
        return answer([entry])
    return answer(each for each in services().registry.entries() if each.wanted.name == model_name)


def answer(entries: Iterable[ModelEntry]) -> ResponseReturnValue:
    """Answer with the statistics of these versions."""
    totals = Totals(services().metrics.collect())
    counts = totals.sum_by("scancer_prediction_seconds_count", find_stage)
    seconds = totals.sum_by("scancer_prediction_seconds_sum", find_stage)
    pictures = totals.sum_by("scancer_predictions_total", lambda labels: (labels["model"], labels["version"]))

    def describe(entry: ModelEntry) -> dict[str, Any]:
        key, stages, inferences = entry.key, dict(STAGES), pictures.get(entry.key, 0)
        if entry.archive is not None and entry.served is None:  # each request to a handler is one inference
            del stages["compute_input"]
            inferences = counts.get((key, "inference"), 0)
        measured = {
            theirs: {"count": round(counts.get((key, ours), 0)), "ns": round(seconds.get((key, ours), 0.0) * NS_PER_S)}
            for theirs, ours in stages.items()
        }
        head = {"name": key[0], "version": key[1], "inference_count": round(inferences)}
        return {**head, "inference_stats": measured}

    return jsonify({"model_stats": [describe(entry) for entry in entries]})


def find_stage(labels: Labels) -> tuple[Key, str]:
    """Return model, version and stage of a series of `scancer_prediction_seconds`."""
    return (labels["model"], labels["version"]), labels["stage"]
