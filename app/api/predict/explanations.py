"""`POST` and `PUT /explanations/<model_name>[/<version>]`: what a prediction rests on.

Our own models answer a heat map. An archive's handler explains by its `explain_handle`; a handler without one answers
503, as in TorchServe. The handler of a compiled archive runs for explanations alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.api.predict.answers import (
    FITS_HEADER,
    JSON_TYPE,
    add_version_headers,
    describe_fits,
    json_text,
    keep,
    make_prediction,
    noting_misfit,
    observe_distance,
    read_patience,
    takes_unfit,
)
from app.api.predict.handler_predictions import Call, answer_by_handler
from app.api.request.auth import require
from app.api.request.bodies import read_images
from app.api.request.services import NOTICE, facts, services
from app.errors import AnsweredError, BadRequestError, HandlerFaultError
from app.handlers.client.explainer import require_captum
from app.handlers.client.handler_model import HandlerModel
from app.manifest.bounds import show
from app.pipeline.heat_map_picture import AGAINST, FOR, draw_heat_map
from app.pipeline.occlusion import HeatMap
from app.pipeline.served_model import ServedModel
from app.registry.serving_table import require_served

blueprint = Blueprint("explanations", __name__)

PNG_TYPE = "image/png"


@blueprint.route("/explanations/<model_name>", methods=["POST", "PUT"])
@blueprint.route("/explanations/<model_name>/<version>", methods=["POST", "PUT"])
@require("predict")
def explain(version: str | None = None, **_: str) -> ResponseReturnValue:
    """Explain the prediction for the picture of the request; `target` names the class.

    Our own models answer a heat map: as numbers, or as a PNG over the picture if `Accept` prefers `image/png`.
    """
    entry = facts().find_lent()
    if entry.handler is None and not entry.folder.is_archive:
        return answer_heat_map(require_served(entry, version))
    with lend_explainer() as explainer:
        return answer_by_handler(explainer, Call(version, is_explained=True))


def answer_heat_map(served: ServedModel) -> Response:
    """Answer one picture's heat map; raises BadRequestError for several pictures or a class that the model has not."""
    known, manifest = facts(), served.manifest
    known.model, known.version = manifest.name, manifest.version
    patience, classes = read_patience(), manifest.output.classes
    target = request.args.get("target")
    if target is not None and target not in classes:
        raise BadRequestError(f'The model has no class "{show(target)}": target must be one of {", ".join(classes)}.')
    images = read_images(request, services().settings.max_images, patience)
    if len(images) != 1:
        raise BadRequestError(f"An explanation takes one picture; the request has {len(images)}.")
    if isinstance(images[0], AnsweredError):
        raise copy(images[0])
    known.images = 1
    with noting_misfit(manifest):
        prediction, heat_map, known.timing = served.explain(images[0], target, patience, takes_unfit())
    observe_distance(manifest, prediction)
    keep(manifest, known.request_id, 0, prediction)
    known.outcome = prediction.decision.class_name
    answer = make_prediction(prediction, manifest, known.request_id)
    if request.accept_mimetypes.best_match([JSON_TYPE, PNG_TYPE]) == PNG_TYPE:
        png = Response(draw_heat_map(heat_map, NOTICE), mimetype=PNG_TYPE)
        png.headers[FITS_HEADER] = describe_fits([answer])
        return add_version_headers(png, manifest.version)
    return json_text(answer | {"heat_map": make_heat_map(heat_map)})


def make_heat_map(heat_map: HeatMap) -> dict[str, Any]:
    """Make the part of an answer that tells a heat map: rows of cells from above, and what their colours mean."""
    limit = shorten(heat_map.limit)
    return {
        "class": heat_map.class_name,
        "meaning": f"by how much the probability of {heat_map.class_name} falls if a cell is covered",
        "values": [[shorten(value) for value in row] for row in heat_map.cells],
        "legend": [
            {"value": 0.0 - limit, "colour": AGAINST},
            {"value": 0, "colour": "#ffffff"},
            {"value": limit, "colour": FOR},
        ],
    }


def shorten(value: float) -> float:
    """Return four significant digits: where a model is very sure, all changes are small."""
    return float(f"{value:.4g}")


@contextmanager
def lend_explainer() -> Iterator[HandlerModel]:
    """Lend the handler that explains the current request; that of a compiled archive starts with the first request.

    Raises HandlerFaultError without captum or a running handler, BadRequestError for no archive, DeadlineError.
    """
    known = facts()
    entry = known.find_lent()
    if entry.handler is not None:
        yield entry.handler
        return
    known.model, known.version = entry.key
    if entry.archive is None or entry.explainer is None:
        name = entry.wanted.name
        if entry.folder.is_archive:
            raise HandlerFaultError(f'The handler of model "{name}" is not running.')
        raise BadRequestError(f'Model "{name}" has no handler; /explanations/{name} answers a heat map of one picture.')
    require_captum()
    patience = read_patience(int(entry.archive.limits.startup_timeout_s * 1000))
    with entry.explainer.lend(patience) as handler:
        yield handler
