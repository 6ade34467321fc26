"""One log line, one count and the common headers for every answer."""

import logging
import time

from flask import Flask, Response, request

from app.api.context import facts, services
from app.metrics import name_method

log = logging.getLogger("app.access")

UNMATCHED = "unmatched"
"""Rule of a request that no route matches: its path is the caller's text, and goes nowhere."""

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
}


def register_observation(app: Flask) -> None:
    """Start the clock before each request; finish its answer after it."""

    @app.before_request
    def start() -> None:
        facts()

    @app.after_request
    def finish(response: Response) -> Response:
        known = facts()
        response.headers["X-Request-ID"] = known.request_id
        response.headers.extend({name: text for name, text in HEADERS.items() if name not in response.headers})
        seconds = time.perf_counter() - known.started
        rule = request.url_rule.rule if request.url_rule else UNMATCHED
        services().metrics.count_request(rule, request.method, response.status_code, known.model or "", seconds)
        if log.isEnabledFor(logging.INFO):
            fields = {
                "request_id": known.request_id,
                "user": known.user,
                "method": name_method(request.method),
                "rule": rule,
                "status": response.status_code,
                "model": known.model,
                "version": known.version,
                "outcome": known.outcome,
                "images": known.images,
                "bytes": request.content_length,
                "ms": round(seconds * 1000, 2),
            }
            log.info("request", extra={name: value for name, value in fields.items() if value is not None})
        return response
