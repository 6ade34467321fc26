"""Traces of a real gunicorn, as a collector of OpenTelemetry sees them."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.util.re import parse_env_headers

from app.config.setting_types import PROJECT_ROOT
from app.errors import SettingsError
from app.tracing import check_tracing, is_tracing
from app.users import USERS_FILE
from tests.conftest import PASSWORD, USER, LiveServer, basic, within
from tests.handlers.archives import make_archive
from tests.handlers.fixtures import ServeArchives

NAME = "pcam-classification"
PATH = f"/predictions/{NAME}"
EXAMPLES = PROJECT_ROOT / "models" / NAME / "1.1/examples"
CALLER, TRACE = "00f067aa0ba902b7", "a" * 32
STAGES = ["decode", "queue", "inference", "answer"]


class Collector(ThreadingHTTPServer):
    """Takes traces as OTLP/HTTP has them, and keeps their bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Intake)
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def read(self) -> list[tuple[dict[str, str], Span]]:
        """Each span, after what it says of the server that it comes from."""
        return [
            ({each.key: each.value.string_value for each in part.resource.attributes}, span)
            for body in list(self.bodies)
            for part in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in part.scope_spans
            for span in scope.spans
        ]

    def find(self, trace_id: str) -> tuple[Span, list[Span]]:
        """The span of the only request of a trace, and those inside it in order of time, once it has come."""

        def list_spans() -> list[Span]:
            return [span for _, span in self.read() if span.trace_id.hex() == trace_id]

        assert within(10, lambda: any(span.kind == Span.SPAN_KIND_SERVER for span in list_spans()))
        (request,) = [span for span in list_spans() if span.kind == Span.SPAN_KIND_SERVER]
        inner = [span for span in list_spans() if span is not request and span.kind != Span.SPAN_KIND_SERVER]
        return request, sorted(inner, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


class Intake(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.paths.add(self.path)
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.shutdown()
        collector.server_close()


def make_server(instance: Path, folder: Path, endpoint: str, **more: str) -> LiveServer:
    """A server of one worker and one model, version 1.1, which refuses pictures of another kind."""
    shutil.copytree(EXAMPLES.parent, folder / "models" / NAME / "1.1")
    environment = {"SCANCER_WORKERS": "1", "SCANCER_MODELS": str(folder / "models")}
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    (folder / "i").mkdir()
    shutil.copy(instance / USERS_FILE, folder / "i")
    return LiveServer(folder / "i", folder / "log", environment | more)


@pytest.fixture(scope="module")
def traced(collector: Collector, instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = make_server(instance, tmp_path_factory.mktemp("traced"), collector.url)
    try:
        yield live.start()
    finally:
        live.stop()


@pytest.fixture(scope="module")
def patch() -> bytes:
    return (EXAMPLES / "normal.jpg").read_bytes()


def ask(live: LiveServer, path: str, status: int = 200, **how: Any) -> tuple[str, requests.Response]:
    """Ask as a caller does who is traced; return the id of the trace, and the answer."""
    trace_id = secrets.token_hex(16)
    headers = how.pop("headers", {}) | {"traceparent": f"00-{trace_id}-{CALLER}-01"}
    response = requests.post(live.inference + path, headers=headers, auth=(USER, PASSWORD), timeout=30, **how)
    assert response.status_code == status, response.text
    return trace_id, response


def read(span: Span) -> dict[str, str | int]:
    """The attributes of a span."""
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def check_order(request: Span, inner: list[Span], names: list[str]) -> None:
    """The spans inside a request have these names, follow each other, and begin and end within it."""
    assert [span.name for span in inner] == names
    assert {span.parent_span_id for span in inner} == {request.span_id}
    times = [request.start_time_unix_nano]
    for span in inner:
        times += [span.start_time_unix_nano, span.end_time_unix_nano]
    assert times == sorted(times)
    assert times[-1] == request.end_time_unix_nano


def test_prediction_is_four_spans_of_the_callers_trace(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    before_ns = time.time_ns()
    trace_id, _ = ask(traced, PATH, data=patch)
    request, inner = collector.find(trace_id)
    check_order(request, inner, STAGES)
    assert request.parent_span_id.hex() == CALLER
    assert before_ns < request.start_time_unix_nano < request.end_time_unix_nano < time.time_ns()
    assert request.name == "POST /predictions/<model_name>"
    assert read(request) == {
        "http.request.method": "POST",
        "http.route": "/predictions/<model_name>",
        "http.response.status_code": 200,
        "scancer.model.name": NAME,
        "scancer.model.version": "1.1",
    }
    assert [read(span) for span in inner] == [{}, {}, {"scancer.batch.size": 1}, {}]
    (service,) = {tuple(each[name] for name in ("service.name", "telemetry.sdk.name")) for each, _ in collector.read()}
    assert service == ("scancer", "opentelemetry")
    assert collector.paths == {"/v1/traces"}


def test_log_names_the_trace_beside_the_request(traced: LiveServer, patch: bytes) -> None:
    trace_id, response = ask(traced, PATH, data=patch)
    lines = [json.loads(line) for line in traced.log.read_text().splitlines() if trace_id in line]
    assert [(line["logger"], line["request_id"], line["trace_id"]) for line in lines] == [
        ("app.access", response.headers["X-Request-ID"], trace_id)
    ]


def test_pictures_of_a_request_are_inferred_in_one_span(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    trace_id, response = ask(traced, PATH, files=[("a", ("1.jpg", patch)), ("b", ("2.jpg", patch))])
    assert len(response.json()["predictions"]) == 2
    request, inner = collector.find(trace_id)
    check_order(request, inner, STAGES)
    assert read(inner[2]) == {"scancer.batch.size": 2}


def test_picture_of_another_kind_shows_how_far_it_came(traced: LiveServer, collector: Collector) -> None:
    lesion = (PROJECT_ROOT / "models/isic-classification/1.1/examples/benign.jpg").read_bytes()
    trace_id, _ = ask(traced, PATH, 422, data=lesion)
    request, inner = collector.find(trace_id)
    check_order(request, inner, STAGES)
    attributes = read(request)
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (422, "UnfitImageException")


def test_damaged_picture_is_a_span_alone(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    trace_id, _ = ask(traced, PATH, 422, data=patch[: len(patch) // 2])
    request, inner = collector.find(trace_id)
    assert (inner, read(request)["error.type"]) == ([], "DamagedImageException")
    assert request.status.code == Status.STATUS_CODE_UNSET  # the caller's fault is none of the server's


def test_heat_map_is_a_stage_of_its_own(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    trace_id, _ = ask(traced, f"/explanations/{NAME}", data=patch)
    request, inner = collector.find(trace_id)
    check_order(request, inner, ["decode", "queue", "inference", "explain", "answer"])


def test_tensors_are_traced_too(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    head = {"Inference-Header-Content-Length": "0"}
    trace_id, _ = ask(traced, f"/v2/models/{NAME}/infer", data=patch, headers=head)
    request, inner = collector.find(trace_id)
    check_order(request, inner, STAGES)
    assert request.name == "POST /v2/models/<model_name>/infer"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{CALLER}",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE[1:]}\xe9-{CALLER}-01",
        f"ff-{TRACE}-{CALLER}-01",
        "a" * 4000,
    ],
    ids=["absent", "empty", "short", "zero", "no hex", "version", "long"],
)
def test_request_without_a_sound_traceparent_begins_a_trace(
    traced: LiveServer, collector: Collector, patch: bytes, header: str | None
) -> None:
    headers = {"X-Request-ID": secrets.token_hex(8)} | ({} if header is None else {"traceparent": header})
    address, given = traced.inference + PATH, {key: value.encode("latin-1") for key, value in headers.items()}
    response = requests.post(address, headers=given, data=patch, auth=(USER, PASSWORD), timeout=30)
    assert response.status_code == 200
    (line,) = [line for line in traced.log.read_text().splitlines() if headers["X-Request-ID"] in line]
    request, inner = collector.find(json.loads(line)["trace_id"])
    check_order(request, inner, STAGES)
    assert request.parent_span_id == b""


def test_spans_hold_no_callers_text_and_no_answer(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    headers = {"X-Request-ID": "accession-4711", "User-Agent": "ward-nine", "tracestate": "clinic=west"}
    trace_id, response = ask(traced, PATH + "?unfit=answer", files={"f": ("Mary-Smith.jpg", patch)}, headers=headers)
    missing, _ = ask(traced, "/predictions/Mary-Smith", 404, data=patch)
    collector.find(trace_id)
    collector.find(missing)
    sent = b"".join(collector.bodies)
    for text in (USER, "Mary-Smith", "unfit", "accession", "ward-nine", "west", response.json()["class"], "127.0.0.1"):
        assert text.encode() not in sent, text
    assert "west" not in traced.log.read_text()


def test_what_asks_no_model_is_not_traced(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    trace_id = secrets.token_hex(16)
    for path in ("/ping", "/health/ready", "/nothing", "/models"):
        headers = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
        requests.get(traced.inference + path, headers=headers, auth=(USER, PASSWORD), timeout=30)
    collector.find(ask(traced, PATH, data=patch)[0])  # was sent after them
    assert trace_id not in {span.trace_id.hex() for _, span in collector.read()}
    assert trace_id not in traced.log.read_text()


def test_caller_who_is_not_sampled_is_not_sent(traced: LiveServer, collector: Collector, patch: bytes) -> None:
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-00"}
    requests.post(traced.inference + PATH, headers=headers, data=patch, auth=(USER, PASSWORD), timeout=30)
    collector.find(ask(traced, PATH, data=patch)[0])
    assert trace_id not in {span.trace_id.hex() for _, span in collector.read()}
    assert f'"trace_id": "{trace_id}"' in traced.log.read_text()


def test_ending_worker_sends_its_last_spans_of_the_share_that_is_sampled(
    collector: Collector, instance: Path, tmp_path: Path, patch: bytes
) -> None:
    never = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_SERVICE_NAME": "second"}
    share = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    live = make_server(instance, tmp_path, collector.url, **never, **share)
    try:
        live.start()
        asked = [ask(live, PATH, data=patch)[0] for _ in range(12)]
    finally:
        live.stop()
    spans = [span for resource, span in collector.read() if resource["service.name"] == "second"]
    sent = {span.trace_id.hex() for span in spans if span.kind == Span.SPAN_KIND_SERVER}
    # The standard's rule: the lower 64 bits of the id, below that share of all.
    assert sent == {each for each in asked if int(each[16:], 16) < 2**63}


def test_collector_that_never_answers_holds_up_neither_answers_nor_the_end(
    instance: Path, tmp_path: Path, patch: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        queue = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
        live = make_server(instance, tmp_path, f"http://127.0.0.1:{deaf.getsockname()[1]}", **queue)
        try:
            live.start()
            ask(live, PATH, data=patch)
            deaf.settimeout(10)
            connection, _ = deaf.accept()
            with connection:
                assert connection.recv(4).startswith(b"POST")  # from now on the exporter waits
                started = time.monotonic()
                for _ in range(10):  # more than the queue holds
                    ask(live, PATH, data=patch)
                assert time.monotonic() - started < 10
                started = time.monotonic()
                live.stop()
                assert time.monotonic() - started < 10
        finally:
            live.stop()
    assert "Queue full, dropping Span." in live.log.read_text()
    assert "Traceback" not in live.log.read_text()


def test_start_without_the_packages_says_what_to_install(instance: Path, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry/__init__.py").touch()  # hides the package that the tests have
    live = LiveServer(
        instance, tmp_path / "log", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "PYTHONPATH": str(tmp_path)}
    )
    live.launch()
    assert live.process is not None
    assert live.process.wait(30) != 0
    expected = (
        "scancer: OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry: pip install -r deploy/requirements_tracing.txt."
    )
    assert live.log.read_text().splitlines()[-1] == expected


@pytest.mark.parametrize("value", ["authorization=Bearer hunter2,swordfish", 'authorization="hunter2 swordfish"'])
@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
def test_malformed_header_is_refused_and_not_quoted(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        check_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", variable: value})
    assert raised.value.message == f"{variable} must be name=value, joined by commas; other signs are written as %2C."


@pytest.mark.parametrize("value", ["", "authorization=Bearer%20hunter2", " a = b/c== , api-key=x y ,"])
def test_header_that_the_package_takes_is_taken(value: str, caplog: pytest.LogCaptureFixture) -> None:
    check_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_HEADERS": value})
    assert len(parse_env_headers(value, liberal=True)) == value.count("=") - 2 * value.count("==")
    assert not caplog.records


def test_nothing_of_opentelemetry_is_imported_where_it_is_off(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES.parent, tmp_path / "models" / NAME / "1.1")
    code = f"""
import sys
from pathlib import Path
from app import create_app
response = create_app().test_client().post("{PATH}", data=Path("{EXAMPLES / "normal.jpg"}").read_bytes())
print(response.status_code, [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    folders = {"SCANCER_MODELS": str(tmp_path / "models"), "SCANCER_INSTANCE": str(tmp_path / "i")}
    environment = {**os.environ, **folders, "SCANCER_AUTH": "off"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "200 []\n"


def test_endpoint_turns_it_on_and_the_standards_switch_off() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}
    assert is_tracing(endpoint)
    assert is_tracing(endpoint | {"OTEL_SDK_DISABLED": "false"})
    assert not is_tracing({})
    assert not is_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert not is_tracing(endpoint | {"OTEL_SDK_DISABLED": "True"})


def test_handler_of_an_archive_is_traced_by_the_times_of_its_manager(
    serve_archives: ServeArchives, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import time

def handle(data, context):
    time.sleep(0.05)
    return ["x"] * len(data or [])
"""
    make_archive(tmp_path / "models", "echo", "echo.py", {"echo.py": code})
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    app = serve_archives(tmp_path / "models")
    header = {"traceparent": f"00-{secrets.token_hex(16)}-{CALLER}-01"}
    response = app.test_client().post("/predictions/echo", data=b"x", headers=basic() | header)
    assert response.status_code == 200
    app.extensions["tracing"].close()
    request, inner = collector.find(header["traceparent"].split("-")[1])
    check_order(request, inner, ["queue", "inference", "answer"])
    assert inner[1].end_time_unix_nano - inner[1].start_time_unix_nano >= 50_000_000
