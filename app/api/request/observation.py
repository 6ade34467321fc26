"""What surrounds every request: its route, its place, the common headers, one count and one log line."""

import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from http.client import responses
from typing import Any

from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import ClosingIterator

from app.api.request.bodies import SMALL_BODY_BYTES
from app.api.request.error_handlers import shape_error
from app.api.request.places import Admission, Place
from app.api.request.routing import RoutedFlask
from app.api.request.services import RequestFacts, begin_facts, name_client, names_this_machine, read_length
from app.config.settings import ANSWER_DELAY_S
from app.errors import AnsweredError, MisdirectedError, ServiceUnavailableError
from app.metrics import Metrics, name_method
from app.pipeline.served_model import Timing
from app.routes import is_costly
from app.tracing import Answered, Stage, Tracing

log = logging.getLogger("app.access")

REFUSAL_DELAY_S = 0.012
"""How long a refusal is withheld: clients that try again at once would take the processor from those being served."""
OTHER_HOST = "Nobody is asked for a password here, so only localhost, 127.0.0.1 and [::1] may be named as the host."
LOGGED_FACTS = ("request_id", "trace_id", "user", "rule", "status", "model", "version", "outcome", "images")
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

WritePage = Callable[[dict[str, Any], AnsweredError], bytes | None]
"""Writes the page of a refusal; None for a caller who shows no pages."""


class Observation:
    """The outermost layer of an app whose views are all registered; every request passes it.

    Where the server `asks_nobody` for a password, only requests that name this machine come in: a page of another site
    whose name leads to a loopback address (DNS rebinding) would else use the server from its visitor's browser.
    """

    tracing: Tracing | None = None
    """Set where requests are traced."""

    def __init__(
        self, app: RoutedFlask, admission: Admission, metrics: Metrics, asks_nobody: bool, write_page: WritePage
    ) -> None:
        self._app, self._router, self._write_page = app.wsgi_app, app.router, write_page
        self._admission, self._metrics, self._asks_nobody = admission, metrics, asks_nobody

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request; one that there is no room for never reaches Flask."""
        known = begin_facts(environ)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            known.status = int(status[:3])
            own = {name for name, _ in headers}  # what an answer sets itself stays
            common = [each for each in COMMON_HEADERS if each[0] not in own]
            return start_response(status, [*headers, ("X-Request-ID", known.request_id), *common], exc_info)

        if self._asks_nobody and not names_this_machine(environ):
            known.outcome = MisdirectedError.type
            body = refuse(environ, start, MisdirectedError(OTHER_HOST))
            self._record(environ, known)
            return body
        try:
            place = self._admit(environ, known)
        except ServiceUnavailableError as error:
            self._metrics.count_refusal("overload")
            environ[ANSWER_DELAY_S] = REFUSAL_DELAY_S
            return refuse(environ, start, error, self._write_page(environ, error))
        known.has_place = place is not None
        try:
            chunks = self._app(environ, start)
            if known.is_streamed:
                ends = [partial(self._record, environ, known)]
                if place is not None:
                    ends.insert(0, partial(self._admission.leave, place))
                place = None  # it is kept until the last part is sent
                return ClosingIterator(chunks, ends)
            self._record(environ, known)
            return chunks
        finally:
            if place is not None:
                self._admission.leave(place)

    def _admit(self, environ: dict[str, Any], known: RequestFacts) -> Place | None:
        """Find a request's route and take its place, if it needs one; raises `ServiceUnavailableError`."""
        try:
            match = self._router.match(environ)
            known.rule = match.route.rule
            place = self._admission.enter(match, environ, known)
        except HTTPException:  # Flask asks the router too, and answers
            place = None
        if place is not None and place.entry is not None:
            known.hold = partial(self._admission.hold, place)
        elif (read_length(environ) or 0) > SMALL_BODY_BYTES and not self._router.is_streamed(environ):
            environ["wsgi.input"] = io.BytesIO()  # whose length is not what was stated, which `read_body` refuses
        return place

    def _record(self, environ: dict[str, Any], known: RequestFacts) -> None:
        """Count the request, write its spans if it is traced, and its log line."""
        ended = time.perf_counter()
        seconds = ended - known.started
        method, model, version = environ["REQUEST_METHOD"], known.model or "", known.version or ""
        self._metrics.count_request(known.rule, method, known.status, model, version, seconds)
        is_failure = known.status >= HTTPStatus.BAD_REQUEST or known.is_streamed  # or else the outcome is a class
        if is_failure and known.outcome and known.model:  # else the status is a handler's own word
            self._metrics.count_failure(known.rule, method, model, version, seconds)
        if self.tracing is not None and is_costly(known.rule, method):
            error = known.outcome if is_failure else None
            answered = Answered(
                *(method, known.rule, known.status, known.model, known.version, error, known.started, ended)
            )
            stages = list_stages(known.timing, ended)
            known.trace_id = self.tracing.record(environ.get("HTTP_TRACEPARENT", ""), answered, stages)
        if log.isEnabledFor(logging.INFO):
            fields = {name: getattr(known, name) for name in LOGGED_FACTS}
            fields |= {"method": name_method(method), "bytes": read_length(environ), "ms": round(seconds * 1000, 2)}
            # Behind proxies that are believed this is what they say of the caller.
            fields |= {"client": name_client(environ.get("REMOTE_ADDR", "")) or None}
            fields["outcome"] = known.outcome or responses.get(known.status)
            log.info("request", extra={name: value for name, value in fields.items() if value is not None})


def list_stages(timing: Timing | None, ended: float) -> Iterator[Stage]:
    """Yield the stages of a request that was answered at `ended`, in their order; none if no model saw its pictures."""
    if timing is None:
        return
    began = timing.inferred - timing.inference_s
    queued, answered = began - timing.queue_s, timing.inferred + timing.explain_s
    if timing.decode_s:
        yield Stage("decode", queued - timing.decode_s, queued)
    if timing.inference_s:
        yield Stage("queue", queued, began)
        yield Stage("inference", began, timing.inferred, timing.batch_size)
    if timing.explain_s:
        yield Stage("explain", timing.inferred, answered)
    yield Stage("answer", answered, ended)


def refuse(
    environ: dict[str, Any], start_response: Callable[..., Any], error: AnsweredError, page: bytes | None = None
) -> list[bytes]:
    """Answer an error without Flask, as there are thousands of them under overload; in JSON, or as a page."""
    body = page or json.dumps(shape_error(error.to_json(), "/" + environ["PATH_INFO"].lstrip("/"))).encode() + b"\n"
    kind = "text/html; charset=utf-8" if page else "application/json"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    start_response(f"{int(error.status)} {error.status.phrase}", headers)
    return [body]
