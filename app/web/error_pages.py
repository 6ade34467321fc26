"""Errors as pages, where a browser asks: what is wrong, and what to do."""

from typing import Any

from flask import Flask, Response, request

from app.api.request.services import services
from app.errors import AnsweredError
from app.web.rendering import HTML, render_page, wants_page

ADVICE = {
    400: ("This request cannot be answered", "Check the address, or go back and send the picture again."),
    401: (
        "Please sign in",
        "The quick start printed those of its user, demo. On another server, ask its operator, who makes a user with: "
        "flask users add NAME. Then load this page again.",
    ),
    403: ("Your user may not do this", "Ask the operator for a user who may do this, or who may ask this model."),
    404: ("Nothing is here", "Check the address, or start at the list of models."),
    405: (
        "This address is for programs",
        "In a browser, open a model's page and choose a picture there. The API reference says what programs send.",
    ),
    413: ("The picture is too large", "Crop it, or save it as JPEG."),
    415: (
        "This is no picture that can be read",
        "Send a PNG, JPEG, TIFF, BMP or WebP. Export other formats (HEIC, PDF, DICOM) to one of them first.",
    ),
    422: ("This picture cannot be classified", "Send another picture, or save this one anew."),
    429: ("Too many requests", "Wait as long as the message says, then try again."),
    500: ("The server failed", "Try again. If it fails again, give the operator the number in the message."),
    503: ("The server cannot answer now", "Wait a moment, and try again. If a model is not ready, its page says why."),
    504: ("The answer took too long", "Try again when the server has less to do."),
}
"""What is wrong and what a person can do, by status."""
OTHERWISE = ("That did not work", "Go back, or start at the list of models.")
PROTOCOLS = ("/v1/", "/v2", "/metrics", "/static/")
"""Paths that programs alone ask: their errors stay as they are."""


def show_error(response: Response) -> Response:
    """Put a page in the place of an error, if a browser opened an address, or sent the form of a page."""
    if response.status_code < 400 or response.mimetype != "application/json" or not is_opened():
        return response
    error = response.get_json(silent=True)
    if not isinstance(error, dict) or "message" not in error:
        return response
    page = render_error(error)
    page.status_code = response.status_code
    kept = ("WWW-Authenticate", "Retry-After", "Allow")
    page.headers.extend([(key, value) for key, value in response.headers if key in kept])
    return page


def write_refusal(app: Flask, environ: dict[str, Any], error: AnsweredError) -> bytes | None:
    """Write the page of a request that was refused before Flask had it; None if no browser shows it."""
    if HTML not in environ.get("HTTP_ACCEPT", ""):
        return None
    with app.request_context(environ):
        return render_error(error.to_json()).get_data() if is_opened() else None


def is_opened() -> bool:
    """Whether the caller is a browser that shows what it gets."""
    is_form = request.endpoint == "pages.show_answer"
    if not (request.method in ("GET", "HEAD") or is_form) or request.path.startswith(PROTOCOLS):
        return False
    at_metrics = request.environ.get("SERVER_PORT") == str(services().settings.metrics_address.port)
    return wants_page() and not at_metrics


def render_error(error: dict[str, Any]) -> Response:
    """Render the page of an error, which is in TorchServe's shape."""
    title, advice = ADVICE.get(error["code"], OTHERWISE)
    is_form = request.endpoint == "pages.show_answer"
    return render_page("error.html", error=error, title=title, advice=advice, is_form=is_form)
