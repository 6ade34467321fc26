"""How a page is made: its template, and the policy under which a browser shows it."""

from functools import lru_cache
from typing import Any

from flask import Response, render_template, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from app.api.request.routing import asks_management
from app.api.request.services import services

HTML = "text/html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What a page may load and send: its own server's alone, and pictures that the browser holds."""


def wants_page() -> bool:
    """Whether the caller prefers a page to JSON, as browsers do."""
    return prefers_page(request.environ.get("HTTP_ACCEPT", ""))


@lru_cache(maxsize=64)
def prefers_page(accept: str) -> bool:
    """Whether a header `Accept` prefers a page to JSON."""
    return parse_accept_header(accept, MIMEAccept).best_match(["application/json", HTML]) == HTML


def is_management() -> bool:
    """Whether the page is shown at the management address, where no model can be asked."""
    return asks_management(services().settings)


def render_page(template: str, policy: str = POLICY, **values: Any) -> Response:
    """Render a page under its policy."""
    page = Response(render_template(template, is_management=is_management(), **values), mimetype=HTML)
    page.headers["Content-Security-Policy"] = policy
    page.headers["Referrer-Policy"] = "same-origin"  # with none, a browser hides from us that a form is our own
    return page
