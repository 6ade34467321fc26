"""The shapes of the answers; `openapi.json` describes the same, and a test compares the two."""

from typing import Any

from flask import url_for

from app.api.request.services import NOTICE, services
from app.engines.int8_report import Int8Report
from app.errors import AnsweredError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.decode import ACCEPTED
from app.pipeline.served_model import Prediction
from app.registry.model_entry import ModelEntry

PROBABILITY_DIGITS = 6


def make_prediction(prediction: Prediction, manifest: ModelManifest, request_id: str) -> dict[str, Any]:
    """The answer for one picture."""
    decision, picture = prediction.decision, prediction.picture
    answer: dict[str, Any] = {
        "model": manifest.name,
        "version": manifest.version,
        "class": decision.class_name,
        "confidence": round(decision.confidence, PROBABILITY_DIGITS),
        "probabilities": {name: round(value, PROBABILITY_DIGITS) for name, value in decision.probabilities.items()},
        "threshold": manifest.output.threshold,
        "input": {
            "width_px": picture.width_px,
            "height_px": picture.height_px,
            "format": picture.format,
            "mode": picture.mode,
            "conversions": list(picture.conversions),
        },
        "request_id": request_id,
        "notice": NOTICE,
    }
    if picture.warnings:
        answer["warnings"] = list(picture.warnings)
    return answer


def make_item(item: Prediction | AnsweredError, manifest: ModelManifest, request_id: str) -> dict[str, Any]:
    """The answer for one of several pictures: a prediction or its own error."""
    return item.to_json() if isinstance(item, AnsweredError) else make_prediction(item, manifest, request_id)


def make_summary(entry: ModelEntry) -> dict[str, Any]:
    """A line of the list of models."""
    name = entry.folder.name
    return {
        "name": name,
        "version": entry.folder.version,
        "title": entry.manifest.title if entry.manifest else None,
        "state": entry.state.value,
        "reason": entry.reason,
        "url": url_for("models.describe_model", model_name=name),
    }


def make_description(entry: ModelEntry, versions: list[str], default: str) -> dict[str, Any]:
    """All that a caller needs to build a request and to read its answer."""
    name, version = entry.folder.name, entry.folder.version
    chosen: dict[str, Any] = (
        {"model_name": name} if version == versions[-1] else {"model_name": name, "version": version}
    )
    description: dict[str, Any] = {
        "name": name,
        "version": version,
        "versions": versions,
        "default_version": default,
        "state": entry.state.value,
        "reason": entry.reason,
        "notice": NOTICE,
    }
    if entry.archive is not None:
        description |= make_handler(entry, chosen)
    if entry.manifest is None:
        return description
    manifest = entry.manifest
    if manifest.is_program:
        description["programs"] = services().settings.programs
    return description | {
        "title": manifest.title,
        "description": manifest.description,
        "intended_use": manifest.intended_use,
        "licence": manifest.licence,
        "framework": manifest.framework,
        "engine": entry.engine,
        "artifact": {"file": manifest.artifact.file, "sha256": manifest.artifact.sha256},
        "compiled": make_compiled(entry),
        "input": make_input(manifest),
        "output": make_output(manifest),
        "metrics": {
            metric: {"value": value.value, "interval_95": [value.low, value.high], "n": value.n, "data": value.data}
            for metric, value in manifest.metrics.items()
        },
        "examples": [url_for("models.send_example", **chosen, file=file) for file in entry.folder.find_examples()],
        "predict_url": url_for("predictions.predict", **chosen),
    }


def make_handler(entry: ModelEntry, chosen: dict[str, Any]) -> dict[str, Any]:
    """What is known of an archive: that its program is run, by what, how it is confined, and why it is not compiled."""
    assert entry.archive is not None, "called for archives only"
    return {
        "engine": entry.engine,
        "handler": str(entry.archive.manifest["model"]["handler"]),
        "envelope": entry.archive.envelope,
        "not_compiled": entry.obstacle or None,
        "programs": services().settings.programs,
        "pool": entry.handler.describe() if entry.handler else None,
        "predict_url": url_for("predictions.predict", **chosen),
    }


def make_compiled(entry: ModelEntry) -> dict[str, Any] | None:
    """How the compiled model in use was made; None where the framework itself runs."""
    if entry.report is None:
        return None
    return {
        "precision": "int8" if entry.int8 else "f32",
        "ir_sha256": (entry.int8 or entry.report).ir_sha256,
        "max_probability_difference": entry.report.max_probability_difference,
        "images_compared": entry.report.images,
        "framework": entry.report.framework,
        "converter": entry.report.converter,
        "int8": make_int8(entry.int8),
    }


def make_int8(report: Int8Report | None) -> dict[str, Any] | None:
    """What the INT8 model in use loses against float32; None where float32 serves."""
    if report is None:
        return None
    return {
        "quantizer": report.quantizer,
        "images_measured": sum(report.measured_pictures.values()),
        "auc_f32": report.auc_f32,
        "auc_drop": report.auc_drop,
        "auc_drop_interval_95": [report.auc_drop_low, report.auc_drop_high],
        "max_probability_change": report.max_probability_change,
        "decisions_changed": report.decisions_changed,
    }


def make_input(manifest: ModelManifest) -> dict[str, Any]:
    """What to send."""
    spec = manifest.input
    return {
        "formats": ACCEPTED,
        "colour": "RGB",
        "width_px": spec.width_px,
        "height_px": spec.height_px,
        "resize": describe_resize(spec),
        "um_per_px": spec.um_per_px,
    }


def describe_resize(spec: InputSpec) -> str:
    """How a picture of another size is brought to the model's."""
    if spec.short_side_px is None:
        return f"any size is squeezed to width and height with the {spec.resize} filter"
    return (
        f"the shorter side is brought to {spec.short_side_px} with the {spec.resize} filter, and width and height are "
        "cut out of the middle"
    )


def make_output(manifest: ModelManifest) -> dict[str, Any]:
    """What comes back."""
    spec = manifest.output
    return {
        "classes": list(spec.classes),
        "positive_class": spec.positive_class,
        "threshold": spec.threshold,
        "threshold_source": spec.threshold_source,
    }
