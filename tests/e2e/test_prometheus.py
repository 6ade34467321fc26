"""A real Prometheus scrapes a real server, and answers queries about it."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import requests

from tests.conftest import PASSWORD, USER, LiveServer, find_free_ports

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
WAIT_S = 40
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="prometheus is not installed (Debian: apt-get install prometheus)"
)


@needs_prometheus
def test_metrics_page_passes_promtool(server: LiveServer) -> None:
    page = requests.get(server.metrics + "/metrics", timeout=10).text
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_prometheus_sees_predictions_by_class(server: LiveServer, tmp_path: Path, pcam_example: bytes) -> None:
    target, port = server.metrics.removeprefix("http://"), find_free_ports(1)[0]
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "scancer", "static_configs": [{"targets": [target]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
    url = f"{server.inference}/predictions/pcam-classification"
    answer = requests.put(url, data=pcam_example, auth=(USER, PASSWORD), timeout=30).json()
    query = f'scancer_predictions_total{{model="pcam-classification",class="{answer["class"]}"}}'
    assert PROMETHEUS is not None
    command = [PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        deadline, found = time.monotonic() + WAIT_S, []
        while not found and time.monotonic() < deadline:
            time.sleep(0.25)
            try:
                reply = requests.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=5)
                found = reply.json()["data"]["result"]
            except (requests.ConnectionError, KeyError, ValueError):
                assert process.poll() is None, (tmp_path / "log").read_text()
        assert len(found) == 1, (tmp_path / "log").read_text()
        assert float(found[0]["value"][1]) >= 1
    finally:
        process.terminate()
        process.wait(20)
