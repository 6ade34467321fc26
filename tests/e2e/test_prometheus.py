"""A real Prometheus scrapes a real server, and answers queries about it."""

import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import requests

from app.api.monitoring.torchserve_text import FAMILIES
from tests.conftest import PASSWORD, USER, LiveServer, find_free_ports

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
WAIT_S = 40
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="prometheus is not installed (Debian: apt-get install prometheus)"
)


TORCHSERVE_QUERIES = {
    'sum(rate(ts_inference_requests_total{model_name="pcam-classification"}[10s])) by (model_name) > 0': 0.0,
    "rate(ts_inference_latency_microseconds[10s]) / rate(ts_inference_requests_total[10s]) > 0": 100.0,
    "rate(ts_queue_latency_microseconds[10s]) / rate(ts_inference_requests_total[10s]) >= 0": 0.0,
    'sum(rate(Requests2XX{Level="Host"}[10s])) > 0': 0.0,
    "Requests4XX + Requests5XX": 0.0,
    'avg_over_time(PredictionTime{ModelName="pcam-classification"}[10s])': 0.1,
    'HandlerTime{Level="Model"}': 0.1,
    "QueueTime": 0.0,
    "WorkerThreadTime": 0.0,
    'WorkerLoadTime{WorkerName="W-9000-pcam-classification_1.0"}': 1.0,
    "CPUUtilization": 0.0,
    "MemoryUtilization": 0.1,
    "DiskUtilization": 0.1,
}
"""What dashboards for TorchServe ask, and the least that must come back."""


class Prometheus:
    """A real one, which scrapes a server every second."""

    def __init__(self, server: LiveServer, folder: Path) -> None:
        self._log, port = folder / "log", find_free_ports(1)[0]
        target = server.metrics.removeprefix("http://")
        configuration = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "scancer", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        self._url = f"http://127.0.0.1:{port}/api/v1/query"
        assert PROMETHEUS is not None
        command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with self._log.open("wb") as log:
            address = f"--web.listen-address=127.0.0.1:{port}"
            self._process = subprocess.Popen([*command, address], stdout=log, stderr=log)

    def ask(self, query: str) -> float:
        """Wait for the answer to a query; of several series, the largest."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                reply = requests.get(self._url, params={"query": query}, timeout=5).json()
                if reply["data"]["result"]:
                    return max(float(series["value"][1]) for series in reply["data"]["result"])
            except (requests.ConnectionError, KeyError, ValueError):
                assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.25)
        raise AssertionError(f"no answer to {query}:\n{self._log.read_text()}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def check_metrics(page: str) -> "subprocess.CompletedProcess[str]":
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, text=True, check=False)


@needs_prometheus
def test_our_own_metrics_pass_promtool_without_a_remark(server: LiveServer) -> None:
    page = requests.get(server.metrics + "/metrics", timeout=10).text
    names = {name for name in re.findall(r"^# TYPE (\S+)", page, re.MULTILINE) if name.startswith("scancer_")}
    ours = requests.get(server.metrics + "/metrics", params={"name[]": sorted(names)}, timeout=10).text
    assert "scancer_" in ours
    assert "Requests2XX" not in ours
    done = check_metrics(ours)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_promtool_reads_the_whole_page_and_only_minds_torchserves_names(server: LiveServer) -> None:
    done = check_metrics(requests.get(server.metrics + "/metrics", timeout=10).text)
    remarks = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 3, remarks  # 1 would be a page that cannot be read
    assert remarks
    assert {remark.split()[0] for remark in remarks} <= set(FAMILIES), remarks


@needs_prometheus
def test_prometheus_answers_dashboards_of_both_kinds(server: LiveServer, tmp_path: Path, pcam_example: bytes) -> None:
    url = f"{server.inference}/predictions/pcam-classification"
    prometheus, stops = Prometheus(server, tmp_path), threading.Event()

    def predict() -> None:
        while not stops.wait(0.1):
            assert requests.put(url, data=pcam_example, auth=(USER, PASSWORD), timeout=30).status_code == 200

    caller = threading.Thread(target=predict)
    caller.start()
    try:
        answer = requests.put(url, data=pcam_example, auth=(USER, PASSWORD), timeout=30).json()
        ours = f'scancer_predictions_total{{model="pcam-classification",class="{answer["class"]}"}}'
        assert prometheus.ask(ours) >= 1
        for query, least in TORCHSERVE_QUERIES.items():
            assert prometheus.ask(query) >= least, query
        paths = "/(predictions|explanations)/.*|.*(/infer|[:/]predict|[:/]explain|/invoke|/invocations)"
        predictions = f'rule=~"{paths}",method=~"POST|PUT",model!=""'
        both = f"sum(ts_inference_requests_total) - sum(scancer_requests_total{{{predictions}}})"
        assert prometheus.ask(both) == 0
    finally:
        stops.set()
        caller.join()
        prometheus.stop()
