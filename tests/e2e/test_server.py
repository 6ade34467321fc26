"""A real gunicorn: three ports, two workers, passwords, metrics, and what happens when a worker dies."""

import base64
import io
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import requests
from PIL import Image

from app.users import UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer, basic, find_first_versions

AUTH = (USER, PASSWORD)
PCAM = "/predictions/pcam-classification"
ISIC = "/predictions/isic-classification"


def predict(server: LiveServer, path: str, body: bytes, **more: object) -> requests.Response:
    return requests.put(server.inference + path, data=body, auth=AUTH, timeout=30, **more)  # type: ignore[arg-type]


def metric(server: LiveServer, name: str, **labels: str) -> float:
    """Sum of a metric's series that carry these labels."""
    text = requests.get(server.metrics + "/metrics", timeout=10).text
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            total += float(found[2])
    return total


def wait_for_ready_workers(server: LiveServer, count: int) -> None:
    """Wait until so many workers have the model ready: the server answers as soon as one has."""
    deadline = time.monotonic() + 20
    while metric(server, "scancer_model_state", model="pcam-classification", state="READY") != count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_pids(server: LiveServer) -> set[int]:
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return {int(pid) for pid in children.split()}


def test_patch_and_lesion_get_a_class_and_a_confidence(
    server: LiveServer, pcam_example: bytes, isic_example: bytes
) -> None:
    for path, body, classes in (
        (PCAM, pcam_example, {"normal", "metastatic"}),
        (ISIC, isic_example, {"benign", "malignant"}),
    ):
        answer = predict(server, path, body).json()
        assert set(answer["probabilities"]) == classes
        assert answer["class"] in classes
        assert answer["confidence"] == answer["probabilities"][answer["class"]]
        assert answer["notice"] == "Research use only. Not for diagnosis."
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_raw_form_and_json_bodies_give_the_same_answer(server: LiveServer, pcam_example: bytes) -> None:
    url = server.inference + PCAM
    encoded = base64.b64encode(pcam_example).decode()
    answers = [
        requests.put(url, data=pcam_example, auth=AUTH, timeout=30),
        requests.post(url, data=pcam_example, auth=AUTH, timeout=30, headers={"Content-Type": "image/png"}),
        requests.post(
            url, data=pcam_example, auth=AUTH, timeout=30, headers={"Content-Type": "application/x-www-form-urlencoded"}
        ),
        requests.post(url + "/1.0", files={"anything": pcam_example}, auth=AUTH, timeout=30),
        requests.post(url, json={"instances": [{"data": encoded}]}, auth=AUTH, timeout=30),
    ]
    probabilities = [answer.json()["probabilities"] for answer in answers]
    assert probabilities == [probabilities[0]] * len(answers)


def test_one_bad_picture_among_several_fails_alone(server: LiveServer, pcam_example: bytes) -> None:
    files = [("a", pcam_example), ("b", b"no picture"), ("c", pcam_example[:2000]), ("d", pcam_example)]
    answer = requests.post(server.inference + PCAM, files=files, auth=AUTH, timeout=30)
    items = answer.json()["predictions"]
    assert answer.status_code == 200
    assert [item.get("code", 200) for item in items] == [200, 415, 422, 200]
    assert items[0]["probabilities"] == items[3]["probabilities"]


def test_text_plain_answers_the_class_alone(server: LiveServer, pcam_example: bytes) -> None:
    answer = predict(server, PCAM, pcam_example, headers={"Accept": "text/plain"})
    assert answer.text in ("normal\n", "metastatic\n")


def test_body_over_the_limit_answers_413_and_the_next_request_is_answered(
    server: LiveServer, pcam_example: bytes
) -> None:
    limit = 32 * 1024 * 1024
    answer = predict(server, PCAM, bytes(limit + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, 413)
    chunks = (bytes(1024 * 1024) for _ in range(34))
    assert predict(server, PCAM, chunks).status_code == 413  # type: ignore[arg-type]  # sent chunked, length unknown
    assert predict(server, PCAM, pcam_example).status_code == 200


def test_each_port_serves_its_own_part(server: LiveServer) -> None:
    for base, path, expected in (
        (server.inference, "/models", 200),
        (server.management, "/models", 200),
        (server.metrics, "/models", 404),
        (server.inference, "/metrics", 404),
        (server.management, "/metrics", 404),
        (server.metrics, "/metrics", 200),
        (server.management, "/ping", 200),
    ):
        assert requests.get(base + path, auth=AUTH, timeout=10).status_code == expected, base + path
    assert requests.post(server.management + PCAM, auth=AUTH, timeout=10).status_code == 404


def test_metrics_and_health_need_no_password_and_the_rest_does(server: LiveServer) -> None:
    for url in (
        server.inference + "/ping",
        server.inference + "/health/live",
        server.inference + "/health/ready",
        server.metrics + "/metrics",
    ):
        assert requests.get(url, timeout=10).status_code == 200
    for path in ("/models", "/models/pcam-classification", "/api-description"):
        answer = requests.get(server.inference + path, timeout=10)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert answer.json()["type"] == "UnauthorizedException"


def test_a_manager_may_predict(server: LiveServer, pcam_example: bytes) -> None:
    answer = requests.put(server.inference + PCAM, data=pcam_example, auth=(MANAGER, MANAGER_PASSWORD), timeout=30)
    assert answer.status_code == 200


def test_workers_import_neither_torch_nor_tensorflow(server: LiveServer, pcam_example: bytes) -> None:
    assert predict(server, PCAM, pcam_example).status_code == 200
    for pid in worker_pids(server):
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "openvino" in mapped
        assert not re.search(r"site-packages/(torch|tensorflow|keras|h5py)/", mapped)


def test_every_worker_answers_metrics_with_the_sum(server: LiveServer, pcam_example: bytes) -> None:
    before = metric(server, "scancer_predictions_total", model="pcam-classification")
    for _ in range(20):
        assert predict(server, PCAM, pcam_example).status_code == 200
    values = {metric(server, "scancer_predictions_total", model="pcam-classification") for _ in range(6)}
    assert values == {before + 20}
    stages = {"decode", "queue", "inference", "whole"}
    for stage in stages:
        assert metric(server, "scancer_prediction_seconds_count", stage=stage, model="pcam-classification") >= 20


def test_metrics_carry_no_path_of_a_caller(server: LiveServer) -> None:
    requests.get(server.inference + "/secret-path-of-a-caller", timeout=10)
    requests.request("SECRETVERB", server.inference + "/models", timeout=10)
    requests.put(server.inference + "/predictions/secret-model", data=b"x", auth=AUTH, timeout=10)
    text = requests.get(server.metrics + "/metrics", timeout=10).text
    assert "secret" not in text.lower()
    assert 'rule="unmatched"' in text


def test_log_is_json_and_holds_no_secret(server: LiveServer, pcam_example: bytes) -> None:
    requests.post(server.inference + PCAM, files={"image": ("patient-name.png", pcam_example)}, auth=AUTH, timeout=30)
    requests.get(server.inference + "/models", auth=("nobody\r\n{}", "wrong-password"), timeout=30)
    requests.request("JANEDOE", server.inference + "/models", timeout=30)
    lines = server.log.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert any(record.get("rule") == "/predictions/<model_name>" and record["status"] == 200 for record in records)
    text = server.log.read_text()
    for secret in (PASSWORD, "wrong-password", "patient-name", "nobody", "JANEDOE"):
        assert secret not in text


def test_request_id_of_the_caller_comes_back_if_it_is_harmless(server: LiveServer) -> None:
    url = server.inference + "/ping"
    assert requests.get(url, headers={"X-Request-ID": "abcd-1234"}, timeout=5).headers["X-Request-ID"] == "abcd-1234"
    assert requests.get(url, headers={"X-Request-ID": "<script>"}, timeout=5).headers["X-Request-ID"] != "<script>"


def test_page_of_a_model_tells_what_the_json_tells(server: LiveServer) -> None:
    url = server.inference + "/models/pcam-classification"
    facts = requests.get(url, auth=AUTH, timeout=10).json()
    page = requests.get(url, auth=AUTH, timeout=10, headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.headers["Content-Type"].startswith("text/html")
    told = [*facts["output"]["classes"], str(facts["output"]["threshold"]), facts["artifact"]["sha256"]]
    told += [facts["licence"], facts["notice"], facts["predict_url"], *facts["examples"]]
    assert [word for word in told if word not in page.text] == []


def test_model_that_cannot_load_is_reported_and_the_others_serve(
    own_instance: Path, tmp_path: Path, pcam_example: bytes
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "pcam-classification").symlink_to(find_first_versions() / "pcam-classification")
    broken = models / "broken-classification/1.0"
    broken.mkdir(parents=True)
    (broken / "model.toml").write_text("name = 'broken-classification'\n")
    live = LiveServer(own_instance, tmp_path / "log", {"SCANCER_MODELS": str(models), "SCANCER_WORKERS": "1"})
    # Readiness waits for every default version, so a broken one holds it back for ever.
    live.start(wait_for="/health/live")
    try:
        assert requests.get(live.inference + "/health/ready", timeout=5).status_code == 503
        assert requests.get(live.inference + "/ping", timeout=5).status_code == 500
        entry = requests.get(live.inference + "/models/broken-classification", auth=AUTH, timeout=5).json()
        assert entry["state"] == "UNAVAILABLE"
        assert "framework is missing" in entry["reason"]
        assert predict(live, PCAM, pcam_example).status_code == 200
        answer = predict(live, "/predictions/broken-classification", pcam_example)
        assert (answer.status_code, answer.json()["type"]) == (503, "ServiceUnavailableException")
        assert "framework is missing" in live.log.read_text()
        states = metric(live, "scancer_model_state", model="broken-classification", state="UNAVAILABLE")
        assert states == 1
    finally:
        live.stop()


def test_dead_worker_is_replaced_and_counters_stay_right(instance: Path, tmp_path: Path, pcam_example: bytes) -> None:
    live = LiveServer(instance, tmp_path / "log", {"SCANCER_WORKERS": "2"}).start()
    try:
        for _ in range(10):
            assert predict(live, PCAM, pcam_example).status_code == 200
        wait_for_ready_workers(live, 2)
        victim = min(worker_pids(live))
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and (victim in worker_pids(live) or len(worker_pids(live)) < 2):
            time.sleep(0.05)
        assert len(worker_pids(live) - {victim}) == 2
        wait_for_ready_workers(live, 2)
        assert metric(live, "scancer_predictions_total", model="pcam-classification") == 10
        assert predict(live, PCAM, pcam_example).status_code == 200
        assert metric(live, "scancer_predictions_total", model="pcam-classification") == 11
    finally:
        live.stop()


def test_restart_counts_from_zero(instance: Path, tmp_path: Path, pcam_example: bytes) -> None:
    live = LiveServer(instance, tmp_path / "log", {"SCANCER_WORKERS": "1"}).start()
    try:
        assert predict(live, PCAM, pcam_example).status_code == 200
        live.stop()
        live.start()
        assert metric(live, "scancer_predictions_total") == 0
    finally:
        live.stop()


def test_bad_setting_stops_the_start_with_its_name(instance: Path, tmp_path: Path) -> None:
    live = LiveServer(instance, tmp_path / "log", {"SCANCER_THREADS": "many"})
    with pytest.raises(AssertionError, match="SCANCER_THREADS='many' is not allowed: it must be a whole number"):
        live.start()


def test_new_password_is_needed_at_once_after_a_change(tmp_path: Path, pcam_example: bytes) -> None:
    users = UsersFile(tmp_path)
    users.add("changing", "predict", "first password")
    live = LiveServer(tmp_path, tmp_path / "log", {"SCANCER_WORKERS": "1"}).start()
    try:
        url = live.inference + "/models"
        assert requests.get(url, auth=("changing", "first password"), timeout=10).status_code == 200
        users.add("changing", "predict", "second password")
        assert requests.get(url, auth=("changing", "first password"), timeout=10).status_code == 401
        assert requests.get(url, auth=("changing", "second password"), timeout=10).status_code == 200
        users.remove("changing")
        assert requests.get(url, auth=("changing", "second password"), timeout=10).status_code == 401
    finally:
        live.stop()


def test_second_server_leaves_the_first_ones_metrics_alone(server: LiveServer, pcam_example: bytes) -> None:
    assert predict(server, PCAM, pcam_example).status_code == 200
    before = metric(server, "scancer_predictions_total")
    second = LiveServer(server.instance, server.log.with_name("second"), ports=server.ports)
    second.environment["GUNICORN_CMD_ARGS"] = "--bind=" + server.inference.removeprefix("http://")
    second.launch()
    assert second.process is not None
    second.process.wait(30)
    assert metric(server, "scancer_predictions_total") == before


def test_what_a_caller_sent_stays_out_of_the_log(server: LiveServer, pcam_example: bytes) -> None:
    host, port = server.inference.removeprefix("http://").split(":")
    head = f"PUT {PCAM} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic()['Authorization']}\r\n"
    for text, expected in (
        ("Jane-Doe-secret\r\n\r\n", b"400"),
        ("GET / HTTP/1.1\r\nHost: h\r\nJane Doe: x\r\n\r\n", b"400"),
        (head + "Transfer-Encoding: chunked\r\n\r\nJane-Doe\r\n", b"400"),
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(text.encode())
            assert expected in connection.recv(1000).split(b"\r\n")[0]
    buffer = io.BytesIO()
    Image.new("RGB", (200, 200), "red").save(buffer, "TIFF", compression="raw")
    assert predict(server, PCAM, buffer.getvalue()[:60_000]).status_code == 422
    for line in server.log.read_text().splitlines():
        assert isinstance(json.loads(line), dict)
    assert "Jane" not in server.log.read_text()
