"""Errors as pages, where a browser asks: what is wrong, and what to do."""

from typing import Any

from flask import Response, request

from app.api.request.routing import RoutedFlask
from app.api.request.services import EXTENSION, services
from app.config.settings import Settings
from app.errors import AnsweredError
from app.web.rendering import HTML, prefers_page, render_page

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
FORM_ENDPOINT = "pages.show_answer"
MAX_PAGES = 64


def show_error(response: Response) -> Response:
    """Put a page in the place of an error, if a browser opened an address, or sent the form of a page."""
    if response.status_code < 400 or response.mimetype != "application/json":
        return response
    if not is_opened(request.environ, request.endpoint, services().settings):
        return response
    error = response.get_json(silent=True)
    if not isinstance(error, dict) or "message" not in error:
        return response
    page = render_error(error)
    page.status_code = response.status_code
    kept = ("WWW-Authenticate", "Retry-After", "Allow")
    page.headers.extend([(key, value) for key, value in response.headers if key in kept])
    return page


class RefusalPages:
    """Writes the pages of requests that were refused before Flask had them.

    Under overload there are thousands of them, so each page is rendered once: it holds nothing of its request but the
    prefix of the links.

    Thread safety: may be called from any thread.
    """

    def __init__(self, app: RoutedFlask) -> None:
        self._app = app
        self._pages: dict[tuple[str, ...], bytes] = {}

    def __call__(self, environ: dict[str, Any], error: AnsweredError) -> bytes | None:
        """Write a page; None if no browser shows it."""
        if HTML not in environ.get("HTTP_ACCEPT", ""):
            return None
        endpoint = self._app.router.match(environ).rule.endpoint
        if not is_opened(environ, endpoint, self._app.extensions[EXTENSION].settings):
            return None
        key = (endpoint, error.message, environ.get("SERVER_PORT", ""), environ.get("SCRIPT_NAME", ""))
        page = self._pages.get(key)
        if page is None:
            with self._app.request_context(environ):
                page = render_error(error.to_json()).get_data()
            if len(self._pages) >= MAX_PAGES:
                self._pages.clear()
            self._pages[key] = page
        return page


def is_opened(environ: dict[str, Any], endpoint: str | None, settings: Settings) -> bool:
    """Whether the caller is a browser that shows what it gets."""
    if not (environ["REQUEST_METHOD"] in ("GET", "HEAD") or endpoint == FORM_ENDPOINT):
        return False
    at_metrics = environ.get("SERVER_PORT") == str(settings.metrics_address.port)
    is_for_programs = ("/" + environ["PATH_INFO"].lstrip("/")).startswith(PROTOCOLS)
    return not (at_metrics or is_for_programs) and prefers_page(environ.get("HTTP_ACCEPT", ""))


def render_error(error: dict[str, Any]) -> Response:
    """Render the page of an error, which is in TorchServe's shape."""
    title, advice = ADVICE.get(error["code"], OTHERWISE)
    is_form = request.endpoint == FORM_ENDPOINT
    return render_page("error.html", error=error, title=title, advice=advice, is_form=is_form)
