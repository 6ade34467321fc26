"""Model archives in the model repository, asked over HTTP: the examples, the shapes of answers, what is refused."""

import base64
import io
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from app import create_app
from app.config.settings import Settings
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic
from tests.handlers.archives import make_archive, make_config
from tests.handlers.fixtures import ServeArchives, has_ended

FORKING_HANDLER = """
import os

def handle(data, context):
    if data is None:
        return None
    if os.fork() == 0:
        return ["child"] * len(data)
    return [row["body"] for row in data]
"""
FORM = b"--x\r\nContent-Disposition: form-data; %b%b\r\n\r\n%b\r\n--x--\r\n"
FORM_TYPE = "multipart/form-data; boundary=x"
BINARY_HANDLER = """
import torch
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class CancerClassifier(ImageClassifier):
    image_processing = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])

    def postprocess(self, data):
        return [torch.argmax(data, dim=1).item()]
"""
SHOWING_HANDLER = """
import base64

def show(value):
    return base64.b64encode(value).decode() if isinstance(value, (bytes, bytearray)) else value

def entry(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        if row.get("body") == "status":
            context.set_response_status(207, "Odd", index)
            context.set_response_content_type(index, "text/csv")
            context.set_response_header(index, "x-model", "m")
        if row.get("body") == "break":
            context.set_response_header(index, "x-model", "a\\r\\nSet-Cookie: b")
        if row.get("body") == "refuse":
            from ts.utils.util import PredictionException
            raise PredictionException("too small", 422)
        answers.append({
            "row": {key: [type(value).__name__, show(value)] for key, value in row.items()},
            "id": context.get_request_id(index),
            "header": context.get_request_header(index, "x-FOO"),
            "secret": context.get_request_header(index, "Authorization"),
            "url_path": context.get_request_header(index, "url_path"),
        })
    return answers
"""


def make_picture(mode: str, size: tuple[int, int] = (300, 260)) -> bytes:
    picture = Image.radial_gradient("L").resize(size)
    buffer = io.BytesIO()
    picture.convert("RGB").convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def serve(serve_archives: ServeArchives) -> Callable[..., FlaskClient]:
    """Serve a model repository of archives, and wait until each has settled."""
    return lambda models, **settings: serve_archives(models, **settings).test_client()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., FlaskClient]) -> FlaskClient:
    """Serve a handler that shows what it was given."""
    models = tmp_path_factory.mktemp("shown") / "models"
    make_archive(models, "Show_1.x", "show:entry", {"show.py": SHOWING_HANDLER})
    return serve(models)


def test_settings_of_a_version_without_workers_are_told(tmp_path: Path, serve: Callable[..., FlaskClient]) -> None:
    files: dict[str, str | bytes] = {"show.py": SHOWING_HANDLER, "c.yaml": make_config(batchSize=2, startupTimeout=33)}
    make_archive(tmp_path / "elsewhere/models", "e", "show:entry", files, config_file="c.yaml")
    (tmp_path / "models").mkdir()
    client = serve(tmp_path / "models", store=tmp_path / "elsewhere/source-e")
    call: Any = {"headers": basic(MANAGER, MANAGER_PASSWORD), "environ_overrides": {"SERVER_PORT": "8081"}}
    names = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout")
    for given, expected in (
        ("batch_size=4&max_batch_delay=70&response_timeout=9", (0, 0, 4, 70, 9, 33)),
        ("model_name=f", (0, 0, 2, 100, 120, 33)),
    ):
        assert client.post(f"/models?url=e.mar&initial_workers=0&{given}", **call).status_code == 200
        [described] = client.get("/models/f" if "=f" in given else "/models/e", **call).json
        assert tuple(described[name] for name in names) == expected
        assert described["workers"] == []


def post(client: FlaskClient, name: str, data: Any, **more: Any) -> Any:
    headers = {**basic(), **more.pop("headers", {})}
    return client.post(f"/predictions/{name}", data=data, headers=headers, **more)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_with_an_overriding_handler_answers_0_or_1(
    tmp_path: Path, serve: Callable[..., FlaskClient]
) -> None:
    import torch

    class Brightness(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x.mean(dim=[1, 2, 3])
            return torch.stack([1 - bright, bright], 1)

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Brightness(), torch.zeros(1, 3, 32, 32)), file)
    models = tmp_path / "models"
    files: dict[str, str | bytes] = {"cancer_handler.py": BINARY_HANDLER, "scripted.pt": file.getvalue()}
    make_archive(models, "cancer", "cancer_handler.py", files, serialized_file="scripted.pt")
    client = serve(models)
    for colour, expected in (("white", b"1"), ("black", b"0")):
        buffer = io.BytesIO()
        Image.new("RGB", (50, 40), colour).save(buffer, "PNG")
        response = post(client, "cancer", {"data": (io.BytesIO(buffer.getvalue()), "x.png")})
        assert (response.status_code, response.data) == (200, expected)
    [worker] = client.get("/models/cancer", headers=basic()).json["pool"]["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    started = time.monotonic()
    response = post(client, "cancer", buffer.getvalue())
    assert (response.status_code, response.data) == (200, b"0")
    assert time.monotonic() - started < 20  # PyTorch is imported anew


@pytest.mark.parametrize(
    ("data", "content_type", "row"),
    [
        (b"\x00\xff", None, {"body": ["bytearray", "AP8="]}),
        (b"\x00\xff", "image/png", {"body": ["bytearray", "AP8="]}),
        (b'{"a": 1}', "application/json", {"body": ["dict", {"a": 1}]}),
        (b"{", "application/json", {"body": ["bytearray", "ew=="]}),
        (b"text", "text/plain; charset=utf-8", {"body": ["str", "text"]}),
        (b"k=v&l=", "application/x-www-form-urlencoded", {"k": ["bytearray", "dg=="], "l": ["bytearray", ""]}),
        (b"text", "application/x-www-form-urlencoded", {}),
        (
            b"k=%FF%41&%C3%BC=1",
            "application/x-www-form-urlencoded",
            {"k": ["bytearray", "/0E="], "ü": ["bytearray", "MQ=="]},
        ),
        (b"\x89PNG=1&", "application/x-www-form-urlencoded", {"body": ["bytearray", "iVBORz0xJg=="]}),
        (FORM % (b'name="a"', b"", b"\x00\xff"), FORM_TYPE, {"a": ["bytearray", "AP8="]}),
        (FORM % (b'name="a"; filename="x"', b"", b"\x00\xff"), FORM_TYPE, {"a": ["bytearray", "AP8="]}),
        (
            FORM % (b'name="a"', b"\r\nContent-Transfer-Encoding: base64", b"AP8="),
            FORM_TYPE,
            {"a": ["bytearray", "AP8="]},
        ),
        (
            FORM % (b'name="a"', b"\r\nContent-Transfer-Encoding: quoted-printable", b"=3D"),
            FORM_TYPE,
            {"a": ["bytearray", "PTNE"]},
        ),
        (FORM % (b'name="a"; filename=""', b"", b""), FORM_TYPE, {}),
    ],
)
def test_body_reaches_the_handler_as_torchserve_gives_it(
    shown: FlaskClient, data: bytes, content_type: str | None, row: dict[str, Any]
) -> None:
    response = post(shown, "Show_1.x", data, content_type=content_type)
    assert json.loads(response.data)["row"] == row


def test_form_reaches_the_handler_with_a_key_for_each_part(shown: FlaskClient) -> None:
    form = {"data": (io.BytesIO(b"\x01"), "x.bin"), "extra": "y", "note": (io.BytesIO(b"n"), "n.txt")}
    row = json.loads(post(shown, "Show_1.x", form).data)["row"]
    encoded = {"data": base64.b64encode(b"\x01").decode(), "extra": base64.b64encode(b"y").decode()}
    assert row == {**{key: ["bytearray", text] for key, text in encoded.items()}, "note": ["str", "n"]}


def test_handler_sees_headers_and_the_request_id_but_no_password(shown: FlaskClient) -> None:
    response = post(shown, "Show_1.x", b"x", headers={"X-Foo": "7", "X-Request-ID": "abcdefgh-1"})
    answer = json.loads(response.data)
    assert (answer["header"], answer["id"], answer["secret"]) == ("7", "abcdefgh-1", None)
    assert response.headers["X-Request-ID"] == "abcdefgh-1"


@pytest.mark.parametrize(("path", "rest"), [("", ""), ("/a/b", "a/b")])
def test_handler_sees_what_stands_behind_the_version_in_the_path(path: str, rest: str, shown: FlaskClient) -> None:
    assert json.loads(post(shown, f"Show_1.x/1.0{path}", b"x").data)["url_path"] == rest


def test_what_a_handler_forks_answers_nobody(tmp_path: Path, serve: Callable[..., FlaskClient]) -> None:
    make_archive(tmp_path / "models", "forks", "forks.py", {"forks.py": FORKING_HANDLER})
    client = serve(tmp_path / "models")
    for text in (b"one", b"two", b"three"):
        assert post(client, "forks", text).data == text


def test_status_and_headers_are_the_handlers(shown: FlaskClient) -> None:
    response = post(shown, "Show_1.x", b"status", content_type="text/plain")
    assert (response.status, response.content_type, response.headers["x-model"]) == ("207 Odd", "text/csv", "m")


def test_header_with_a_line_break_is_not_sent(shown: FlaskClient) -> None:
    response = post(shown, "Show_1.x", b"break", content_type="text/plain")
    assert (response.status_code, response.json["message"]) == (503, "Invalid model predict output")
    assert "Set-Cookie" not in response.headers


def test_prediction_exception_answers_its_own_status_and_message(shown: FlaskClient) -> None:
    response = post(shown, "Show_1.x", b"refuse", content_type="text/plain")
    assert response.status_code == 422
    assert response.json == {"code": 422, "type": "InternalServerException", "message": "too small"}


def test_description_says_that_programs_are_run_and_how(shown: FlaskClient) -> None:
    description = shown.get("/models/Show_1.x", headers=basic()).json
    assert description["state"] == "READY"
    assert (description["programs"], description["handler"]) == ("all", "show:entry")
    assert description["pool"]["workers"][0]["state"] == "READY"
    assert shown.get("/models/Show_1.x", headers={**basic(), "Accept": "text/html"}).status_code == 200


def test_program_is_not_asked_by_other_protocols(shown: FlaskClient) -> None:
    response = shown.post("/v2/models/Show_1.x/infer", json={"inputs": []}, headers=basic())
    assert (response.status_code, "ask /predictions/Show_1.x." in response.json["error"]) == (400, True)


def test_archive_is_refused_with_the_reason_while_programs_are_off(tmp_path: Path, own_instance: Path) -> None:
    models = tmp_path / "models"
    make_archive(models, "show", "show:entry", {"show.py": f"open({str(tmp_path / 'ran')!r}, 'w')"})
    app = create_app(Settings(models=models, instance=own_instance))
    client = app.test_client()
    description = client.get("/models/show", headers=basic()).json
    assert description["state"] == "UNAVAILABLE"
    assert "SCANCER_PROGRAMS=all" in description["reason"]
    assert post(client, "show", b"x").status_code == 503
    assert not (tmp_path / "ran").exists()


def test_archive_that_cannot_be_loaded_leaves_the_others_serving(
    tmp_path: Path, serve: Callable[..., FlaskClient]
) -> None:
    models = tmp_path / "models"
    make_archive(models, "bad", "bad.py", {"bad.py": "raise KeyError('no weights')"})
    make_archive(models, "good", "good.py", {"good.py": "def handle(data, context):\n    return ['yes']\n"})
    client = serve(models)
    assert client.get("/models/bad", headers=basic()).json["reason"].startswith("KeyError: 'no weights' (KeyError at")
    assert post(client, "good", b"x").data == b"yes"


def test_model_without_workers_answers_torchserves_text(tmp_path: Path, serve: Callable[..., FlaskClient]) -> None:
    models = tmp_path / "models"
    files: dict[str, str | bytes] = {"h.py": SHOWING_HANDLER, "c.yaml": "minWorkers: 0\n"}
    make_archive(models, "idle", "h:entry", files, config_file="c.yaml")
    response = post(serve(models), "idle", b"x")
    assert response.status_code == 503
    assert response.json["type"] == "ServiceUnavailableException"
    assert response.json["message"].startswith(
        'Model "idle" has no worker to serve inference request. Please use scale workers API to add workers.'
    )


TELLING_HANDLER = """
from ts.torch_handler.base_handler import BaseHandler


class Telling(BaseHandler):
    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        return data

    def inference(self, data):
        self.context.metrics.add_counter("Looked", len(data))
        return data

    def postprocess(self, data):
        return ["plain"] * len(data)

    def get_insights(self, tensor_data, raw_data, target):
        return [{"target": target, "data": bytes(raw_data).decode(), "rows": len(tensor_data)}]

    def describe_handle(self):
        return {"classes": ["a", "b"]}
"""


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., FlaskClient]) -> FlaskClient:
    """Serve a handler that explains and describes, in batches, and one that does neither."""
    models = tmp_path_factory.mktemp("telling") / "models"
    config = "batchSize: 4\nmaxBatchDelay: 300\nmaxWorkers: 2\njobQueueSize: 7\n"
    make_archive(models, "tells", "t.py", {"t.py": TELLING_HANDLER, "c.yaml": config}, config_file="c.yaml")
    silent = TELLING_HANDLER.partition("    def get_insights")[0]
    make_archive(models, "silent", "s.py", {"s.py": silent})
    return serve(models)


def explain(client: FlaskClient, path: str, **more: Any) -> Any:
    return client.post(path, headers=basic(), **more)


def test_explanation_is_the_handlers_own(telling: FlaskClient) -> None:
    for path in ("/explanations/tells", "/explanations/tells/1.0"):
        response = explain(telling, path, data={"data": (io.BytesIO(b"xyz"), "x.bin"), "target": "3"})
        assert (response.status_code, response.headers["X-Model-Version"]) == (200, "1.0")
        assert response.headers["X-Notice"] == "Research use only. Not for diagnosis."
        assert json.loads(response.data) == {"target": 3, "data": "xyz", "rows": 1}
    instances = [{"data": base64.b64encode(text).decode(), "target": 1} for text in (b"one", b"two")]
    response = explain(telling, "/v1/models/tells:explain", json={"instances": instances})
    assert response.json == {
        "explanations": [{"target": 1, "data": "one", "rows": 1}, {"target": 1, "data": "two", "rows": 1}]
    }
    response = explain(telling, "/v1/models/tells:predict", json={"instances": instances})
    assert response.json == {"predictions": ["plain", "plain"]}
    for target in ("nan", "1e400", "-1", "two"):
        response = explain(
            telling, "/explanations/tells", data={"data": (io.BytesIO(b"xyz"), "x.bin"), "target": target}
        )
        assert response.status_code == 400
        assert response.json["message"].startswith(f"target={target} is not allowed: it must be a whole number from 0")


def test_explanations_are_not_mixed_with_predictions(telling: FlaskClient) -> None:
    app = telling.application

    def ask(number: int) -> bytes:
        client = app.test_client()
        path = "/explanations/tells" if number % 3 == 0 else "/predictions/tells"
        return client.post(path, data=str(number).encode(), headers=basic()).data

    with ThreadPoolExecutor(7) as threads:  # as many as may wait
        answers = list(threads.map(ask, range(24)))
    assert {answers[number] for number in range(24) if number % 3} == {b"plain"}
    assert [json.loads(answers[number])["data"] for number in range(0, 24, 3)] == [str(n) for n in range(0, 24, 3)]


def test_model_that_explains_nothing_says_so(telling: FlaskClient, client: FlaskClient) -> None:
    response = explain(telling, "/explanations/silent", data=b"x")
    assert (response.status_code, response.json["type"]) == (503, "InternalServerException")
    assert "no get_insights" in response.json["message"]
    response = explain(telling, "/v1/models/silent:explain", json={"instances": [{"data": "eA=="}]})
    assert (response.status_code, "no get_insights" in response.json["error"]) == (503, True)
    assert explain(telling, "/explanations/nope", data=b"x").status_code == 404
    response = explain(client, "/v1/models/pcam-classification:explain", json={"instances": [{"data": "eA=="}]})
    assert (response.status_code, "/explanations/pcam-classification" in response.json["error"]) == (400, True)


@pytest.mark.parametrize("body", ["{", "[]", '{"instances": []}', '{"instances": [{"data": "%"}]}'])
def test_instances_that_are_none_answer_400(telling: FlaskClient, body: str) -> None:
    assert explain(telling, "/v1/models/tells:explain", data=body).status_code == 400


def test_configuration_and_statistics_of_a_program_are_the_ones_it_has(telling: FlaskClient) -> None:
    def read(path: str) -> Any:
        return telling.get(path, headers=basic()).json

    assert read("/v2/models/tells")["platform"] == "handler"
    config = read("/v2/models/tells/config")
    assert (config["platform"], config["max_batch_size"], config["instance_group"][0]["count"]) == ("handler", 4, 1)
    assert config["dynamic_batching"] == {"preferred_batch_size": [4], "max_queue_delay_microseconds": 300_000}
    assert (config["input"], config["output"]) == ([], [])
    [before] = read("/v2/models/tells/stats")["model_stats"]
    assert post(telling, "tells", b"x").status_code == 200
    instances = {"instances": [{"data": "eA=="}] * 3}
    assert telling.post("/v1/models/tells:predict", json=instances, headers=basic()).status_code == 200
    assert telling.post("/v1/models/tells:predict", json={"instances": []}, headers=basic()).status_code == 400
    [after] = read("/v2/models/tells/versions/1.0/stats")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 4
    stages = {
        name: each["count"] - before["inference_stats"][name]["count"]
        for name, each in after["inference_stats"].items()
    }
    assert stages == {"success": 2, "fail": 1, "queue": 4, "compute_infer": 4}
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]


def test_status_that_a_program_chooses_is_an_answer_and_its_exception_a_failure(shown: FlaskClient) -> None:
    def read() -> list[int]:
        [told] = shown.get("/v2/models/Show_1.x/stats", headers=basic()).json["model_stats"]
        return [told["inference_stats"][name]["count"] for name in ("success", "fail")]

    answered, failed = read()
    post(shown, "Show_1.x", b"status", content_type="text/plain")
    assert read() == [answered + 1, failed]
    post(shown, "Show_1.x", b"refuse", content_type="text/plain")
    assert read() == [answered + 1, failed + 1]


def describe(client: FlaskClient, path: str) -> Any:
    return client.get(path, headers=basic(), environ_overrides={"SERVER_PORT": "8081"})


def test_description_has_the_handlers_processes_limits_and_own_words(telling: FlaskClient) -> None:
    [described] = describe(telling, "/models/tells?customized=true").json
    told = {name: described[name] for name in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")}
    assert told == {"minWorkers": 1, "maxWorkers": 2, "batchSize": 4, "maxBatchDelay": 300}
    assert described["jobQueueStatus"] == {"remainingCapacity": 7, "pendingRequests": 0}
    [worker] = described["workers"]
    assert (worker["id"], worker["status"], worker["gpuUsage"]) == ("9000", "READY", "N/A")
    assert worker["pid"] != os.getpid()
    assert worker["memoryUsage"] > 1_000_000
    assert described["customizedMetadata"] == {"classes": ["a", "b"]}
    assert "customizedMetadata" not in describe(telling, "/models/silent?customized=true").json[0]


def test_handlers_own_metrics_stand_beside_ours(telling: FlaskClient) -> None:
    def read() -> dict[str, float]:
        page = telling.get("/metrics", headers=basic(), environ_overrides={"SERVER_PORT": "8082"})
        lines = [line for line in page.get_data(as_text=True).splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    post(telling, "tells", b"x")
    before = read()
    post(telling, "tells", b"x")
    name = f'Looked{{ModelName="tells",Level="Model",Hostname="{socket.gethostname()}",}}'
    after = read()
    assert after[name] == before[name] + 1
    time_line = next(line for line in after if line.startswith('HandlerTime{ModelName="tells"'))
    assert 0 < after[time_line] < 1000


def test_scale_that_fails_answers_500_and_the_old_workers_go_on(
    tmp_path: Path, serve: Callable[..., FlaskClient]
) -> None:
    once = "import os\nos.open('started', os.O_CREAT | os.O_EXCL)\n"
    models = tmp_path / "models"
    make_archive(models, "once", "o.py", {"o.py": once + "def handle(data, context):\n    return ['yes']\n"})
    client = serve(models)

    def scale(count: int) -> Any:
        path = f"/models/once?min_worker={count}&synchronous=true"
        manager = basic(MANAGER, MANAGER_PASSWORD)
        return client.put(path, headers=manager, environ_overrides={"SERVER_PORT": "8081"})

    failed = scale(2)
    assert (failed.status_code, failed.json["message"]) == (
        500,
        "Failed to start workers for model once version: 1.0",
    )
    assert "FileExistsError" in client.get("/models/once", headers=basic()).json["reason"]
    assert post(client, "once", b"x").data == b"yes"
    assert scale(1).status_code == 200
    assert client.get("/models/once", headers=basic()).json["reason"] == ""
    [described] = describe(client, "/models/once").json
    assert (described["minWorkers"], len(described["workers"])) == (1, 1)


def test_handler_that_is_unregistered_answers_first_what_it_was_asked(
    tmp_path: Path, serve: Callable[..., FlaskClient]
) -> None:
    slow = "import time\ndef handle(data, context):\n    time.sleep(0.5 if data else 0)\n    return ['yes']\n"
    models = tmp_path / "models"
    make_archive(models, "slow", "s.py", {"s.py": slow})
    client = serve(models)
    [pid] = [each["pid"] for each in describe(client, "/models/slow").json[0]["workers"]]
    statuses: list[int] = []

    def keep_asking() -> None:
        while 404 not in statuses:
            statuses.append(post(client.application.test_client(), "slow", b"x").status_code)

    with ThreadPoolExecutor() as threads:
        asking = threads.submit(keep_asking)
        time.sleep(0.2)
        manager = basic(MANAGER, MANAGER_PASSWORD)
        gone = client.delete("/models/slow", headers=manager, environ_overrides={"SERVER_PORT": "8081"})
        asking.result(10)
    assert gone.status_code == 200
    assert set(statuses[:-1]) == {200}
    assert has_ended(pid)
