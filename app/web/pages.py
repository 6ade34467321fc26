"""The pages: most stand at the paths of the API, and show what its views answer."""

import json
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from app.api.models import describe
from app.api.predict.answers import read_patience
from app.api.predict.predictions import classify
from app.api.request.auth import require
from app.api.request.changes import refuse_other_sites
from app.api.request.observation import WritePage
from app.api.request.routing import RoutedFlask
from app.api.request.services import NOTICE, facts, services
from app.errors import BadRequestError, ModelNotFoundError, ModelVersionNotFoundError
from app.registry.serving_table import require_served
from app.web.documents import list_guides, read_guide, render_card
from app.web.error_pages import RefusalPages, show_error
from app.web.rendering import POLICY, render_page, wants_page
from app.web.report_plots import find_plots

blueprint = Blueprint("pages", __name__)

REFERENCE_POLICY = POLICY.replace("img-src 'self' blob:", "img-src 'self' blob: data:")
"""The style sheet of Swagger UI holds its icons."""


def register_pages(app: RoutedFlask) -> WritePage:
    """Add the pages to an app whose views are all registered: beside JSON at a path of the API, or at a path of their
    own. Return what writes the pages of requests that Flask does not see.
    """
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals |= {"notice": NOTICE, "name_example": name_example, "write_json": write_json}
    app.register_blueprint(blueprint)
    for endpoint, page in PAGES.items():
        app.view_functions[endpoint] = choose(page, app.view_functions[endpoint])
    app.after_request(show_error)
    return RefusalPages(app)


def choose(page: Any, view: Any) -> Any:
    """Return a view that shows a page to a caller who prefers one, and else does as `view`."""

    def answer(**values: str) -> Any:
        return page(**values) if wants_page() else view(**values)

    return answer


@require("predict")
def show_home() -> Response:
    """Say what this is, and show the default version of every model."""
    described = [describe_if_there(entry.folder.name, None) for entry in services().registry.defaults()]
    models = [each for each in described if each is not None]
    facts().model = facts().version = None
    return render_page("home.html", models=models)


@require("predict")
def show_model(model_name: str, version: str | None = None) -> Response:
    """Show a version of a model: a form that asks it, and what is known of it."""
    model = describe(model_name, version)
    own = model["version"]
    described = [model if each == own else describe_if_there(model_name, each) for each in model["versions"]]
    versions = [each for each in described if each is not None]
    facts().version = own
    entry = services().registry.get(model_name, version)
    cut_px = entry.manifest.input.short_side_px if entry.manifest else None
    card, plots = render_card(entry.folder), find_plots(entry.folder, entry.manifest)
    shown: dict[str, Any] = {"model": model, "versions": versions, "card": card, "plots": plots, "cut_px": cut_px}
    return render_page("model.html", **shown, origin=find_origin())


def describe_if_there(model_name: str, version: str | None) -> dict[str, Any] | None:
    """Describe a version that may have been removed since it was listed; None then."""
    try:
        return describe(model_name, version)
    except (ModelNotFoundError, ModelVersionNotFoundError):
        return None


PAGES = {"models.index": show_home, "models.list_models": show_home, "models.describe_model": show_model}


@blueprint.post("/models/<model_name>")
@blueprint.post("/models/<model_name>/<version>")
@require("predict")
def show_answer(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Classify the pictures of a model page's form, and show the answers.

    A form of another site is refused: it would ask in the name of whoever is signed in.
    """
    refuse_other_sites()
    known = facts()
    entry = known.find_lent()
    if entry.handler is not None or entry.folder.is_archive:
        raise BadRequestError(f"This model's answers have a form of their own: ask /predictions/{model_name}.")
    served = require_served(entry, version)
    known.model, known.version = entry.key
    items = classify(served, read_patience(), known)
    return render_page("answer.html", model=describe(model_name, version), items=items, origin=find_origin())


@blueprint.get("/guides")
@require("predict")
def show_guides() -> Response:
    """List the guides."""
    return render_page("guides.html", guides=list_guides(url_for("pages.show_guides")))


@blueprint.get("/guides/<file>")
@require("predict")
def show_guide(file: str) -> ResponseReturnValue:
    """Show a guide; `file` is the name of its file, with `.md` or without."""
    return render_page("guide.html", guide=read_guide(file.removesuffix(".md"), url_for("pages.show_guides")))


@blueprint.get("/docs")
@require("predict")
def show_reference() -> Response:
    """Show the API reference, with which requests can be tried."""
    return render_page("reference.html", REFERENCE_POLICY)


def name_example(url: str) -> str:
    """Return an example's name in words: the file name says what the picture shows."""
    return url.rpartition("/")[2].rpartition(".")[0].replace("-", " ")


def write_json(document: dict[str, Any]) -> str:
    """Write JSON for people to read; the template escapes it."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def find_origin() -> str:
    """Return how links from outside to this server begin; a model's own links hold the proxies' prefix."""
    return request.host_url.rstrip("/")
