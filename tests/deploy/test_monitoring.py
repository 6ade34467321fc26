"""Alerts fire when they should, and a real Prometheus finds data of a real server behind every query that ships."""

import http.client
import json
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from app.config.setting_types import PROJECT_ROOT
from app.metrics import Metrics
from app.routes import ROUTES_BY_NAME
from app.users import USERS_FILE
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, basic, find_free_ports, within
from tests.server.test_tls import TLSServer, start

FOLDER = PROJECT_ROOT / "deploy/monitoring"
GUIDE = (PROJECT_ROOT / "get_started/monitoring.md").read_text(encoding="utf-8")
RULES = [FOLDER / "recording_rules.yml", FOLDER / "alert_rules.yml"]
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
PROMETHEUS, PROMTOOL, PROBE = map(shutil.which, ("prometheus", "promtool", "prometheus-blackbox-exporter"))
COMPARISON = re.compile(r"\s(?:==|>=|<=|>|<)\s+[\d.]+")
EXAMPLES = {
    "pcam-classification": PROJECT_ROOT / "models/pcam-classification/1.1/examples/metastatic.jpg",
    "isic-classification": PROJECT_ROOT / "models/isic-classification/1.1/examples/malignant.jpg",
}
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
needs_all = pytest.mark.skipif(
    not (PROMETHEUS and PROBE),
    reason="not installed (Debian: apt-get install prometheus prometheus-blackbox-exporter)",
)


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def read_rules() -> list[dict[str, Any]]:
    return [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def list_queries() -> dict[str, str]:
    """Every query of the dashboards and rules by where it stands; of an alert, what it compares."""
    queries = {}
    for rule in read_rules():
        name = rule.get("record") or rule["alert"]
        queries[name] = rule["expr"] if "record" in rule else COMPARISON.sub("", rule["expr"])
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                queries[f"{file.name}: {panel['title']} {target['refId']}"] = target["expr"].replace("$model", ".*")
    return queries


@needs_promtool
def test_promtool_finds_no_fault_in_configuration_and_rules() -> None:
    promtool("check", "config", "--syntax-only", FOLDER / "prometheus.yml")
    promtool("check", "rules", *RULES)


@needs_promtool
@pytest.mark.parametrize("name", ["alerts_test.yml", "drift_test.yml"])
def test_alerts_are_silent_while_all_is_well_and_fire_when_they_should(name: str) -> None:
    promtool("test", "rules", Path(__file__).with_name(name))


def test_figures_of_predictions_count_every_route_that_asks_a_model_and_no_other() -> None:
    counting = [rule["expr"] for rule in read_rules() if rule.get("record", "").startswith("status:scancer_asked:")]
    assert len(counting) == 2
    for query in counting:
        choices = re.findall(r'scancer_requests_total\{rule=~"(.+?)",method=~"(.+?)"\}', query)
        assert len(choices) == 2
        for (rule, method), route in ROUTES_BY_NAME.items():
            found = [each for each in choices if re.fullmatch(each[0], rule) and re.fullmatch(each[1], method)]
            assert len(found) == route.predicts, (rule, method)


def test_every_alert_fires_in_a_test() -> None:
    cases = [
        yaml.safe_load(Path(__file__).with_name(name).read_text()) for name in ("alerts_test.yml", "drift_test.yml")
    ]
    tested = [test for case in cases for group in case["tests"] for test in group.get("alert_rule_test", [])]
    alerts = {rule["alert"] for rule in read_rules() if "alert" in rule}
    assert {test["alertname"] for test in tested if test.get("exp_alerts")} == alerts
    assert {test["alertname"] for test in tested if not test.get("exp_alerts")} == alerts


def test_dashboards_are_what_their_program_writes() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    program = "import json, make_dashboards; print(json.dumps(make_dashboards.make_dashboards()))"
    command = [sys.executable, "-c", program]
    written = json.loads(subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True).stdout)
    assert written == {file.name: file.read_text(encoding="utf-8") for file in DASHBOARDS}


def test_guide_names_every_metric_and_every_alert() -> None:
    metrics = Metrics()
    names = {family.name for family in metrics.registry.collect()}
    assert names
    told = {name.removesuffix("_total") for name in re.findall(r"^\| `(scancer_\w+)`", GUIDE, re.MULTILINE)}
    assert told >= names
    alerts = {rule["alert"] for rule in read_rules() if "alert" in rule}
    assert set(re.findall(r"^\| `(Scancer\w+)`", GUIDE, re.MULTILINE)) == alerts


class Watched:
    """A server that speaks TLS, with the shipped Prometheus and probe, edited in addresses, trust and waits."""

    def __init__(self, folder: Path, server: TLSServer) -> None:
        self.server, self._folder = server, folder
        self._prometheus, probe, nobody = find_free_ports(3)
        self._write(
            "prometheus.yml",
            {
                "127.0.0.1:8082": f"localhost:{server.ports[2]}",
                "http://127.0.0.1:8080": f"https://localhost:{server.ports[0]}",
                "127.0.0.1:9093": f"127.0.0.1:{nobody}",  # a machine's own Alertmanager would tell people
                "127.0.0.1:9115": f"127.0.0.1:{probe}",
                "job_name: scancer\n": "job_name: scancer\n    scheme: https\n    tls_config: {ca_file: server.pem}\n",
                "_interval: 15s": "_interval: 1s",
            },
        )
        self._write("blackbox.yml", {"    http:\n": f"    http:\n      tls_config: {{ca_file: {folder}/server.pem}}\n"})
        for rules in RULES:
            (folder / rules.name).write_text(re.sub(r"( +(?:for|interval): )\w+", r"\g<1>1s", rules.read_text()))
        data = f"--storage.tsdb.path={folder}/data"
        address = "--web.listen-address=127.0.0.1:"
        with (folder / "watchers").open("wb") as log:
            self._processes = [
                subprocess.Popen(command, stdout=log, stderr=log)
                for command in (
                    [str(PROBE), f"--config.file={folder}/blackbox.yml", f"{address}{probe}"],
                    [str(PROMETHEUS), f"--config.file={folder}/prometheus.yml", data, f"{address}{self._prometheus}"],
                )
            ]

    def _write(self, name: str, edits: dict[str, str]) -> None:
        text = (FOLDER / name).read_text()
        for old, new in edits.items():
            assert old in text, f"the shipped file no longer has {old!r}"
            text = text.replace(old, new)
        (self._folder / name).write_text(text)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that answer a query; none while Prometheus starts."""
        try:
            url = f"http://127.0.0.1:{self._prometheus}/api/v1/query"
            reply = requests.get(url, params={"query": query}, timeout=10).json()
        except requests.ConnectionError:
            assert all(each.poll() is None for each in self._processes), (self._folder / "watchers").read_text()
            return []
        assert reply["status"] == "success", reply
        return [series for series in reply["data"]["result"] if series["value"][1] != "NaN"]

    def list_firing(self) -> set[str]:
        return {series["metric"]["alertname"] for series in self.ask('ALERTS{alertstate="firing"}')}

    def send(
        self, model: str, picture: Path, user: str = USER, password: str = PASSWORD, address: str = "127.0.0.1"
    ) -> int:
        """Ask from one of this machine's own addresses; the status."""
        context = ssl.create_default_context(cafile=str(self.server.certificate))
        port, source = self.server.ports[0], (address, 0)
        connection = http.client.HTTPSConnection("localhost", port, timeout=30, source_address=source, context=context)
        with closing(connection):
            connection.request("PUT", f"/predictions/{model}", picture.read_bytes(), basic(user, password))
            return connection.getresponse().status

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def watched(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    shutil.copy(instance / USERS_FILE, folder)
    settings = {
        "SCANCER_MODELS": str(PROJECT_ROOT / "models"),
        "SCANCER_WORKERS": "2",
        "SCANCER_PREDICTION_RATE": "60/minute",
    }
    server = start(folder, folder, **settings)
    try:
        made = Watched(folder, server)
        try:
            yield made
        finally:
            made.stop()
    finally:
        server.stop()


def send_all_kinds(watched: Watched) -> None:
    """What a busy hour brings: answers, pictures of the wrong kind, a wrong password, and more than a user may ask."""
    pcam, isic = EXAMPLES
    for model, picture in EXAMPLES.items():
        watched.send(model, picture)
    for _ in range(12):  # more than one user may ask in a minute, after a few calls
        watched.send(pcam, EXAMPLES[isic], MANAGER, MANAGER_PASSWORD)

    def guess(address: str) -> int:  # one address, and at one name, may guess only now and then
        return watched.send(pcam, EXAMPLES[pcam], f"{address}.{time.time_ns()}", "no password", address)

    addresses = [f"127.0.0.{number}" for number in range(2, 18)]
    with ThreadPoolExecutor(len(addresses)) as pool:
        list(pool.map(guess, addresses))


@pytest.mark.slow
@needs_all
def test_every_query_of_dashboards_and_rules_finds_data(watched: Watched) -> None:
    queries = list_queries()

    def find_empty() -> list[str]:
        send_all_kinds(watched)
        return [name for name, query in queries.items() if not watched.ask(query)]

    assert within(60, lambda: not find_empty()), find_empty()


@pytest.mark.slow
@needs_all
def test_alerts_fire_on_a_real_server(watched: Watched) -> None:
    provoked = {"ScancerCertificateEnds", "ScancerSignInFailures", "ScancerRefusals", "ScancerUnfitPictures"}

    def is_told() -> bool:
        send_all_kinds(watched)
        return provoked <= watched.list_firing()

    assert within(90, is_told), watched.list_firing()
    watched.server.stop()
    gone = {"ScancerDown", "ScancerNotReady"}
    assert within(60, lambda: gone <= watched.list_firing()), watched.list_firing()
