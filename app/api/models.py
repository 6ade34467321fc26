"""`GET /models…`: which models there are, and what each takes and answers; `app.web` shows browsers a page instead."""

from typing import Any

from flask import Blueprint, jsonify, redirect, send_from_directory, url_for
from flask.typing import ResponseReturnValue

from app.api.management.descriptions import make_description, make_summary
from app.api.management.management_endpoints import describe_registered, list_registered
from app.api.request.auth import list_askable, require
from app.api.request.routing import asks_management
from app.api.request.services import NOTICE, facts, services
from app.errors import ResourceNotFoundError
from app.repository.model_folder import EXAMPLES_FOLDER

blueprint = Blueprint("models", __name__)


@blueprint.get("/")
@require("predict")
def index() -> ResponseReturnValue:
    """Lead to the list of models."""
    return redirect(url_for("models.list_models"), code=303)


@blueprint.get("/models")
@require("predict")
def list_models() -> ResponseReturnValue:
    """List the default version of every model: with its state, or at the management address as TorchServe does."""
    if asks_management(services().settings):
        return list_registered()
    models = [make_summary(entry) for entry in list_askable(services().registry.defaults())]
    return jsonify({"models": models, "notice": NOTICE})


@blueprint.get("/models/<model_name>")
@blueprint.get("/models/<model_name>/<version>")
@require("predict")
def describe_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Describe a version of a model, the default one unless it is named; at the management address as TorchServe."""
    if asks_management(services().settings):
        return describe_registered(model_name, version)
    return jsonify(describe(model_name, version))


def describe(model_name: str, version: str | None) -> dict[str, Any]:
    """Describe a version, the default one unless it is named; raises as `ServingTable.get`."""
    registry = services().registry
    entry = registry.get(model_name, version)
    facts().model, facts().version = entry.folder.name, entry.folder.version
    return make_description(entry, registry.versions(model_name), registry.get(model_name).folder.version)


@blueprint.get("/models/<model_name>/examples/<file>")
@blueprint.get("/models/<model_name>/<version>/examples/<file>")
@require("predict")
def send_example(model_name: str, file: str, version: str | None = None) -> ResponseReturnValue:
    """Send an example picture of a version."""
    entry = services().registry.get(model_name, version)
    if file not in entry.folder.find_examples():
        raise ResourceNotFoundError("The model has no such example.")
    return send_from_directory(entry.folder.path / EXAMPLES_FOLDER, file, conditional=False)
