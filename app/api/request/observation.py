"""One log line, one count and the common headers for every answer."""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.globals import request_ctx

from app.api.request.services import RequestFacts, begin_facts, facts
from app.metrics import Metrics, name_method

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("app.access")

UNMATCHED = "unmatched"
"""Rule of a request that no route matches: its path is the caller's text, and goes nowhere."""

COMMON_HEADERS = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
]


def add_common_headers(app: "WSGIApplication") -> "WSGIApplication":
    """Give every answer of a WSGI application the common headers; one that it sets itself stays."""

    def call(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            own = {name for name, _ in headers}
            return start_response(status, headers + [each for each in COMMON_HEADERS if each[0] not in own], exc_info)

        return app(environ, start)

    return call


def register_observation(app: Flask, metrics: Metrics) -> None:
    """Start the clock before each request; finish its answer after it."""
    app.wsgi_app = add_common_headers(app.wsgi_app)  # type: ignore[method-assign, assignment]  # Flask's way to wrap itself

    app.before_request(begin_facts)

    @app.after_request
    def finish(response: Response) -> Response:
        known, asked = facts(), request_ctx.request
        response.headers.add("X-Request-ID", known.request_id)
        if known.is_streamed:
            response.call_on_close(partial(record, known, asked, response.status_code))
        else:
            record(known, asked, response.status_code)
        return response

    def record(known: RequestFacts, asked: Request, status: int) -> None:
        seconds = time.perf_counter() - known.started
        rule, method = asked.url_rule.rule if asked.url_rule else UNMATCHED, asked.method
        metrics.count_request(rule, method, status, known.model or "", known.version or "", seconds)
        is_failure = status >= HTTPStatus.BAD_REQUEST or known.is_streamed  # or else the outcome is a class
        if is_failure and known.outcome and known.model:  # else the status is a handler's own word
            metrics.count_failure(rule, method, known.model, known.version or "", seconds)
        if log.isEnabledFor(logging.INFO):
            fields = {
                "request_id": known.request_id,
                "user": known.user,
                "method": name_method(method),
                "rule": rule,
                "status": status,
                "model": known.model,
                "version": known.version,
                "outcome": known.outcome,
                "images": known.images,
                "bytes": asked.content_length,
                "ms": round(seconds * 1000, 2),
            }
            log.info("request", extra={name: value for name, value in fields.items() if value is not None})
