"""Our own descriptions of models; `openapi.json` describes them too, and a test compares the two."""

from dataclasses import asdict
from typing import Any

from flask import url_for

from app.api.request.services import NOTICE, services
from app.engines.compiled.int8_report import Int8Report
from app.manifest.fit_spec import FitSpec
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.decode import ACCEPTED
from app.registry.model_entry import ModelEntry


def make_summary(entry: ModelEntry) -> dict[str, Any]:
    """Make a line of the list of models; `entry` is a default version, to which the model's URL leads."""
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
    """Describe a version: all that a caller needs to build a request and to read its answer.

    `versions` go from old to new. Links name the version unless it is the default.
    """
    name, version = entry.folder.name, entry.folder.version
    chosen: dict[str, Any] = {"model_name": name} if version == default else {"model_name": name, "version": version}
    description = {
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
    if entry.manifest is not None:
        description |= make_classifier(entry, entry.manifest, chosen)
    return description


def make_classifier(entry: ModelEntry, manifest: ModelManifest, chosen: dict[str, Any]) -> dict[str, Any]:
    """Describe a model that has a manifest: what it is for, what to send, and what comes back."""
    spec, output = manifest.input, manifest.output
    programs = {"programs": services().settings.programs} if manifest.is_program else {}
    return programs | {
        "title": manifest.title,
        "description": manifest.description,
        "intended_use": manifest.intended_use,
        "licence": manifest.licence,
        "framework": manifest.framework,
        "engine": entry.engine,
        "artifact": {"file": manifest.artifact.file, "sha256": manifest.artifact.sha256},
        "compiled": make_compiled(entry),
        "input": {
            "formats": ACCEPTED,
            "colour": "RGB",
            "width_px": spec.width_px,
            "height_px": spec.height_px,
            "resize": describe_resize(spec),
            "um_per_px": spec.um_per_px,
        },
        "output": {
            "classes": list(output.classes),
            "positive_class": output.positive_class,
            "threshold": output.threshold,
            "threshold_source": output.threshold_source,
        }
        | ({} if output.calibration is None else {"calibration": asdict(output.calibration)}),
        "fit": make_fit(manifest.fit),
        "metrics": {metric: {**value.to_json(), "data": value.data} for metric, value in manifest.metrics.items()},
        "examples": [url_for("models.send_example", **chosen, file=file) for file in entry.folder.find_examples()],
        "predict_url": url_for("predictions.predict", **chosen),
    }


def make_fit(spec: FitSpec | None) -> dict[str, Any] | None:
    """Describe which pictures a model was made for; None where the model folder does not say it."""
    if spec is None:
        return None
    return {"data": spec.data, "least_side_px": spec.least_side_px, "longest_shape": spec.longest_shape}


def make_handler(entry: ModelEntry, chosen: dict[str, Any]) -> dict[str, Any]:
    """Describe how an archive is run: its handler, the confinement, and why it is not compiled."""
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
    """Describe how the compiled model in use was made; None where the framework itself runs."""
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
    """Describe what the INT8 model in use loses against float32; None where float32 serves."""
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


def describe_resize(spec: InputSpec) -> str:
    """Describe how a picture of another size is brought to the model's size."""
    if spec.short_side_px is None:
        return f"any size is squeezed to width and height with the {spec.resize} filter"
    return (
        f"the shorter side is brought to {spec.short_side_px} with the {spec.resize} filter, and width and height are "
        "cut out of the middle"
    )
