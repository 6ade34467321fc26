"""TorchServe's families stand beside ours, in its exact text, and say what was counted."""

import re
import socket

import pytest
from flask.testing import FlaskClient
from prometheus_client import generate_latest

from app.api.monitoring.host_figures import HostFigures
from app.api.monitoring.metric_lines import write_number
from app.api.monitoring.torchserve_text import FAMILIES, RecentMeans, TorchServeMetrics
from app.metrics import Metrics
from tests.conftest import basic

HOST = socket.gethostname()
LEVEL = f'Level="Host",Hostname="{HOST}",'
LINE = re.compile(r'[A-Za-z0-9_]+\{([A-Za-z]+|model_name)="[^"]+",([A-Za-z_]+="[^"]+",)+\} \d+\.\d+(E\d+|E-\d+)?')
NAMED, UNNAMED = "/predictions/<model_name>/<version>", "/predictions/<model_name>"
STAGES = {"decode": 0.001, "queue": 0.002, "inference": 0.004, "whole": 0.010}


def write(metrics: Metrics, writer: TorchServeMetrics | None = None) -> dict[str, str]:
    """The lines of a page, from what stands before the number to the number."""
    text = (writer or TorchServeMetrics()).write(metrics.registry.collect(), frozenset())
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return dict(line.rsplit(" ", 1) for line in lines)


def label_model(version: str) -> str:
    return f'{{model_name="m",model_version="{version}",hostname="{HOST}",}}'


def test_every_family_has_its_help_its_type_and_lines_in_their_shape() -> None:
    metrics = Metrics()
    metrics.count_request(UNNAMED, "PUT", 200, "m", "1.0", 0.01)
    metrics.observe_prediction(UNNAMED, "m", "1.0", STAGES)
    metrics.show_load("m", "1.0", 0.25)
    text = TorchServeMetrics().write(metrics.registry.collect(), frozenset())
    for name, (kind, unit) in FAMILIES.items():
        head = f"# HELP {name} Torchserve prometheus {kind} metric with unit: {unit}\n# TYPE {name} {kind}\n{name}{{"
        assert head in text, name
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) >= len(FAMILIES)
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert text.endswith("\n")


def test_answers_are_counted_by_status_and_refusals_are_503s() -> None:
    metrics = Metrics()
    for status in (200, 202, 304, 400, 404, 500):
        metrics.count_request("/models", "GET", status, "", "", 0.01)
    metrics.count_refusal("overload")
    metrics.count_refusal("uploads")
    metrics.count_refusal("rate")  # a 429, which is counted as a request
    metrics.count_refusal("connections")  # was closed without an answer
    lines = write(metrics)
    counts = [lines[f"Requests{figure}XX{{{LEVEL}}}"] for figure in "245"]
    assert counts == ["2.0", "2.0", "3.0"]


def test_version_is_default_unless_the_url_names_one() -> None:
    metrics = Metrics()
    for rule, count in ((UNNAMED, 2), (NAMED, 3)):
        for _ in range(count):
            metrics.count_request(rule, "PUT", 200, "m", "1.0", 0.01)
            metrics.observe_prediction(rule, "m", "1.0", STAGES)
    metrics.count_request(UNNAMED, "POST", 422, "m", "1.0", 0.01)
    lines = write(metrics)
    for version, count, answered in (("default", 3, 2), ("1.0", 3, 3)):
        assert float(lines["ts_inference_requests_total" + label_model(version)]) == count
        latency = float(lines["ts_inference_latency_microseconds" + label_model(version)])
        assert latency == pytest.approx(answered * 10_000)
        assert float(lines["ts_queue_latency_microseconds" + label_model(version)]) == pytest.approx(answered * 2000)


def test_request_that_failed_changes_no_time_of_those_that_were_answered() -> None:
    metrics, writer = Metrics(), TorchServeMetrics()
    metrics.observe_prediction(UNNAMED, "m", "1.0", STAGES)
    times = ("HandlerTime", "PredictionTime", "QueueTime", "WorkerThreadTime", "ts_inference_latency")
    before = {name: value for name, value in write(metrics, writer).items() if name.startswith(times)}
    metrics.count_failure(UNNAMED, "PUT", "m", "1.0", 5.0)
    after = write(metrics, writer)
    assert {name: after[name] for name in before} == before
    metrics.count_failure("/models/<model_name>", "GET", "m", "1.0", 5.0)
    failed = [line for line in generate_latest(metrics.registry).decode().splitlines() if 'stage="failed"' in line]
    assert [line.rpartition(" ")[2] for line in failed if "_count" in line] == ["1.0"]


@pytest.mark.parametrize(
    "rule, version",
    [
        ("/predictions/<model_name>", "default"),
        ("/predictions/<model_name>/<version>", "1.0"),
        ("/v1/models/<model_name>:predict", "default"),
        ("/v2/models/<model_name>/infer", "default"),
        ("/v2/models/<model_name>/versions/<version>/infer", "1.0"),
    ],
)
def test_prediction_of_any_protocol_is_an_inference(rule: str, version: str) -> None:
    metrics = Metrics()
    metrics.count_request(rule, "POST", 200, "m", "1.0", 0.01)
    assert write(metrics)["ts_inference_requests_total" + label_model(version)] == "1.0"


def test_what_is_no_prediction_of_a_known_model_is_no_inference() -> None:
    metrics = Metrics()
    metrics.count_request(UNNAMED, "PUT", 404, "", "", 0.01)
    metrics.count_request(UNNAMED, "OPTIONS", 200, "m", "1.0", 0.01)
    metrics.count_request("/models/<model_name>", "PUT", 200, "m", "1.0", 0.01)
    assert [line for line in write(metrics) if line.startswith("ts_")] == []


def test_known_model_has_its_counters_before_its_first_request() -> None:
    metrics = Metrics()
    metrics.show_state("m", "1.0", "READY", ("READY", "LOADING"))
    assert write(metrics)["ts_inference_requests_total" + label_model("default")] == "0.0"


def test_times_are_means_since_the_last_look() -> None:
    metrics, writer = Metrics(), TorchServeMetrics()
    metrics.observe_prediction(UNNAMED, "m", "1.0", {name: 10 * seconds for name, seconds in STAGES.items()})
    write(metrics, writer)
    for _ in range(4):
        metrics.observe_prediction(NAMED, "m", "1.0", STAGES)
    model = f'{{ModelName="m",Level="Model",Hostname="{HOST}",}}'
    for _ in range(2):  # nothing came in between: the value stays
        lines = write(metrics, writer)
        assert float(lines[f"QueueTime{{{LEVEL}}}"]) == pytest.approx(2)
        assert float(lines[f"WorkerThreadTime{{{LEVEL}}}"]) == pytest.approx(3)
        assert float(lines[f"HandlerTime{model}"]) == pytest.approx(5)
        assert float(lines[f"PredictionTime{model}"]) == pytest.approx(8)


def test_means_of_models_do_not_mix() -> None:
    recent = RecentMeans()
    assert recent.update({"a": (2, 4.0), "b": (1, 7.0)}) == {"a": (2.0,), "b": (7.0,)}
    assert recent.update({"a": (3, 9.0), "b": (1, 7.0)}) == {"a": (5.0,), "b": (7.0,)}


def test_loading_is_told_in_milliseconds_under_the_workers_name() -> None:
    metrics = Metrics()
    metrics.show_load("m", "1.0", 0.25)
    assert write(metrics)[f'WorkerLoadTime{{WorkerName="W-9000-m_1.0",{LEVEL}}}'] == "250.0"


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0.0"),
        (160, "160.0"),
        (0.001, "0.001"),
        (9_999_999.5, "9999999.5"),
        (10_000_000.0, "1.0E7"),
        (12_345_678.9, "1.23456789E7"),
        (0.00001, "1.0E-5"),
        (0.00025, "2.5E-4"),
    ],
)
def test_numbers_are_written_as_java_writes_them(value: float, text: str) -> None:
    assert write_number(value) == text
    assert float(text) == value


def test_host_figures_agree_with_each_other() -> None:
    figures = HostFigures().read()
    assert 0 <= figures["CPUUtilization"] <= 100
    assert figures["MemoryUsed"] > 10
    total = figures["MemoryUsed"] + figures["MemoryAvailable"]
    assert figures["MemoryUtilization"] == pytest.approx(100 * figures["MemoryUsed"] / total)
    total = figures["DiskUsage"] + figures["DiskAvailable"]
    assert figures["DiskUtilization"] == pytest.approx(100 * figures["DiskUsage"] / total)


def test_processors_load_is_that_since_the_last_look() -> None:
    figures = HostFigures()
    figures._seen = (0, 10**18)  # as if the clock had gone back
    assert figures.read()["CPUUtilization"] == 0.0
    figures._seen = (0, 0)
    assert 0 < figures.read()["CPUUtilization"] < 100


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text;version=1.0.0", "text/plain;version=1.0.0"])
def test_page_has_torchserves_content_type_whatever_is_asked_for(client: FlaskClient, accept: str) -> None:
    answer = client.get("/metrics", headers=basic() | {"Accept": accept})
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_page_names_every_family_once(client: FlaskClient) -> None:
    heads = re.findall(r"^# TYPE (\S+)", client.get("/metrics", headers=basic()).text, re.MULTILINE)
    assert len(heads) == len(set(heads))
    assert set(FAMILIES) <= set(heads)
    assert "scancer_requests_total" in heads


@pytest.mark.parametrize(
    "query, names",
    [
        ("name[]=Requests2XX", {"Requests2XX"}),
        ("name[]=ts_queue_latency_microseconds&name[]=QueueTime", {"ts_queue_latency_microseconds", "QueueTime"}),
        ("name[]=scancer_requests_total", {"scancer_requests_total"}),
        ("name[]=scancer_request_seconds_sum&name[]=MemoryUsed", {"scancer_request_seconds", "MemoryUsed"}),
        ("name[]=nothing", set()),
    ],
)
def test_families_are_chosen_by_name(client: FlaskClient, query: str, names: set[str]) -> None:
    client.get("/ping")
    text = client.get(f"/metrics?{query}", headers=basic()).text
    heads = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert {head for head in heads if not head.endswith("_created")} == names


def test_prediction_is_counted_under_both_kinds_of_names(client: FlaskClient, pcam_example: bytes) -> None:
    def read(name: str, version: str) -> float:
        labels = f'model_name="pcam-classification",model_version="{version}",hostname="{HOST}",'
        text = client.get("/metrics", headers=basic()).text
        found = re.search(re.escape(f"{name}{{{labels}}} ") + "(.+)", text)
        return float(found[1]) if found else 0.0

    for version, path in (("default", ""), ("1.0", "/1.0")):
        names = ("ts_inference_requests_total", "ts_inference_latency_microseconds")
        requests, latency = (read(name, version) for name in names)
        answer = client.put("/predictions/pcam-classification" + path, data=pcam_example, headers=basic())
        assert answer.status_code == 200
        assert read(names[0], version) == requests + 1
        assert read(names[1], version) > latency + 100
    text = client.get("/metrics", headers=basic()).text
    assert re.search(r'^WorkerLoadTime\{WorkerName="W-9000-pcam-classification_1\.0",.*\} [1-9]', text, re.MULTILINE)
