"""Traces: tells a collector of OpenTelemetry (OTLP over HTTP) where the time of a request went.

Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set; no package of OpenTelemetry is imported where it is not. Spans are
written once a request is answered, from times that were measured anyway. A thread of the package sends them.
"""

import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.util import find_spec
from typing import NamedTuple

from app.errors import SettingsError

ENDPOINT, DISABLED = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"
HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
HEADER = re.compile(r"\s*(|[!#-'*+.0-9A-Z^-z|~-]+\s*=[ !#-+\--:<-\[\]-~]*)\s*")
"""What the package takes. It writes another one into the log, which may be the collector's password."""
PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
SERVICE, BATCH_SIZE = "scancer", "scancer.batch.size"
CLOSE_S = 1.0
"""How long a worker that ends waits for its last spans to be sent."""


class Stage(NamedTuple):
    """A part of a request's time, between two values of `time.perf_counter`; `batch_size` is that of an inference."""

    name: str
    started: float
    ended: float
    batch_size: int | None = None


class Answered(NamedTuple):
    """A request that was answered, between two values of `time.perf_counter`; `error` is the type of a refusal."""

    method: str
    rule: str
    status: int
    model: str | None
    version: str | None
    error: str | None
    started: float
    ended: float


def is_tracing(environ: Mapping[str, str]) -> bool:
    """Whether requests are traced; `OTEL_SDK_DISABLED=true` is the standard's switch to turn it off."""
    return bool(environ.get(ENDPOINT)) and environ.get(DISABLED, "").strip().lower() != "true"


def check_tracing(environ: Mapping[str, str]) -> None:
    """Raise `SettingsError` if requests are to be traced, and packages for it are missing or a header is malformed."""
    if not is_tracing(environ):
        return
    if not all(is_installed(package) for package in PACKAGES):
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry: pip install -r deploy/requirements_tracing.txt."
        )
    for variable in HEADERS:
        if not all(map(HEADER.fullmatch, environ.get(variable, "").split(","))):
            raise SettingsError(f"{variable} must be name=value, joined by commas; other signs are written as %2C.")


def is_installed(package: str) -> bool:
    """Whether a package is there; it is not imported."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # what it lies in is not there either
        return False


def start_tracing(version: str) -> "Tracing | None":
    """Start to trace the requests of this process; None if that is off. Raises as `check_tracing`."""
    check_tracing(os.environ)
    return Tracing(version) if is_tracing(os.environ) else None


class Tracing:
    """Writes the spans of requests, and sends them from a thread of its own; make one after the fork.

    What cannot be sent in time, or does not fit into the queue (`OTEL_BSP_MAX_QUEUE_SIZE`), is lost, and nobody waits.

    Thread safety: `record` may be called from any thread.
    """

    def __init__(self, version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = OTELResourceDetector().detect().attributes  # by OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
        resource = Resource.create({"service.name": SERVICE, "service.version": version, **named})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE, version)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, parent: str, request: Answered, stages: Iterable[Stage]) -> str:
        """Write the span of a request and those of its stages; return the id of the trace, 32 hex digits.

        `parent` is the caller's `traceparent` (W3C Trace Context). A malformed one counts as none.
        """
        from opentelemetry.trace import SpanKind, StatusCode, format_trace_id, set_span_in_context

        start, epoch_ns = self._tracer.start_span, time.time_ns() - time.perf_counter_ns()
        name, attributes = f"{request.method} {request.rule}", describe(request)
        # Without `tracestate`: the package writes a malformed one into the log, and it is a caller's text.
        context = self._propagator.extract({"traceparent": parent})
        span = start(name, context, SpanKind.SERVER, attributes, start_time=epoch_ns + to_ns(request.started))
        if span.is_recording():
            inside = set_span_in_context(span)
            for stage in stages:
                size = None if stage.batch_size is None else {BATCH_SIZE: stage.batch_size}
                part = start(stage.name, inside, attributes=size, start_time=epoch_ns + to_ns(stage.started))
                part.end(epoch_ns + to_ns(stage.ended))
            if request.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.set_status(StatusCode.ERROR)
            span.end(epoch_ns + to_ns(request.ended))
        return format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Send what waits, for `CLOSE_S` at most."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(CLOSE_S)


def describe(request: Answered) -> dict[str, str | int]:
    """Make the attributes of a request's span, by OpenTelemetry's names where it has some.

    All are from closed sets. A path, a query and a user are a caller's text, and an outcome is a patient's.
    """
    attributes: dict[str, str | int | None] = {
        "http.request.method": request.method,
        "http.route": request.rule,
        "http.response.status_code": request.status,
        "scancer.model.name": request.model,
        "scancer.model.version": request.version,
        "error.type": request.error,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def to_ns(seconds: float) -> int:
    """Convert a value of `time.perf_counter`."""
    return int(seconds * 1e9)
