"""Service envelopes: what a handler gets out of a request's, and what its answers look like, over HTTP too."""

import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config.setting_types import ENVELOPES
from app.config.settings import Settings
from app.errors import BadRequestError, ManifestError
from app.handlers.handler_archive import read_archive
from app.handlers.worker.default_classifier import find_obstacle
from app.handlers.worker.envelopes import OPENERS, Asked, Opened, share_out
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic
from tests.handlers.archives import make_archive, make_tiny
from tests.handlers.fixtures import ServeArchives

SHOWING_HANDLER = """
import base64

def show(value):
    if isinstance(value, (bytes, bytearray)):
        return "bytes " + base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: show(each) for name, each in value.items()}
    return value

def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "describe") == "True":
        return [{"rows": len(data)}]
    if context.get_request_header(0, "explain") == "True":
        return [["why", show(row)] for row in data]
    if any(row == "fail" for row in data):
        raise ValueError("as told")
    return [show(row) for row in data]
"""
SUMMING_HANDLER = """
import numpy as np

def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "explain") == "True":
        return [np.array(each["data"]) / 4 for each in data]
    return [each["data"] if each["datatype"] == "BYTES" else np.sum(each["data"]) for each in data]
"""
MODEL = {"modelName": "written", "modelVersion": "3.0"}


def open_row(envelope: str, row: dict[str, Any], is_explained: bool = False) -> Opened:
    return OPENERS[envelope](row, Asked("id-1", is_explained, MODEL))


def close(opened: Opened, items: list[Any]) -> Any:
    assert opened.close is not None
    return opened.close(items)


def test_every_envelope_that_may_be_named_can_be_opened() -> None:
    assert tuple(OPENERS) == ENVELOPES


def test_body_is_the_body_alone() -> None:
    assert open_row("body", {"body": bytearray(b"x")}) == Opened([b"x"])
    assert open_row("body", {"data": {"a": 1}, "body": b"x"}) == Opened([{"a": 1}])
    assert open_row("none", {"body": 1}) == Opened([{"body": 1}])


@pytest.mark.parametrize("key", ["body", "data"])
@pytest.mark.parametrize("make", [json.loads, str, str.encode], ids=["parsed", "text", "bytes"])
def test_json_has_instances_with_bytes_in_base64(key: str, make: Callable[[str], Any]) -> None:
    document = {"instances": [{"b64": "eA=="}, {"data": {"b64": "eQ==\n"}, "n": 1}, {"b64": "eA==", "n": 2}, 5]}
    opened = open_row("json", {key: make(json.dumps(document))})
    assert opened.rows == [b"x", {"data": b"y", "n": 1}, {"b64": "eA==", "n": 2}, 5]
    assert close(opened, [1, {"a": 2}]) == '{"predictions": [1, {"a": 2}]}'


def test_kserve_says_predictions_or_explanations() -> None:
    row = {"body": {"instances": [{"data": "eA==", "target": 1}]}}
    opened = open_row("kserve", row)
    assert opened.rows == [{"data": "eA==", "target": 1}]
    assert close(opened, [1]) == {"predictions": [1]}
    assert close(open_row("kserve", row, is_explained=True), [1]) == {"explanations": [1]}


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "in", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]} | more


def test_tensors_get_their_shape_and_bytes_are_the_first_element() -> None:
    inputs = [tensor(), tensor(name="text", datatype="BYTES", shape=[1], data=["eA=="])]
    opened = open_row("kservev2", {"body": {"inputs": inputs}})
    assert [each["data"] for each in opened.rows] == [[[1, 2], [3, 4]], "eA=="]
    answer = close(opened, [np.array([[1.5], [2.5]], np.float32), "benign"])
    assert answer == {
        "id": "id-1",
        "model_name": "written",
        "model_version": "3.0",
        "outputs": [
            {"name": "in", "datatype": "FP32", "data": [1.5, 2.5], "shape": [2]},
            {"name": "text", "datatype": "BYTES", "data": ["benign"], "shape": [1]},
        ],
    }
    assert close(open_row("kservev2", {"body": {"inputs": inputs, "id": "mine"}}), [1])["id"] == "mine"
    assert close(open_row("kservev2", {"body": {"inputs": inputs, "id": " "}}), [1])["id"] == "id-1"


@pytest.mark.parametrize(
    ("item", "datatype"),
    [(1, "INT64"), (0.5, "FP64"), (True, "BOOL"), (np.uint8([1]), "UINT8"), (np.float16([1]), "FP16"), ({}, "BYTES")],
)
def test_outputs_have_the_type_that_numpy_gives_them(item: Any, datatype: str) -> None:
    [output] = close(open_row("kservev2", {"body": {"inputs": [tensor()]}}), [item])["outputs"]
    assert output["datatype"] == datatype


@pytest.mark.parametrize("items", [[1j], [[1, [2]]], [b"x"], [1, 2]], ids=["complex", "ragged", "bytes", "too many"])
def test_items_that_are_no_tensors_are_refused(items: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        close(open_row("kservev2", {"body": {"inputs": [tensor()]}}), items)


@pytest.mark.parametrize(
    ("envelope", "document"),
    [
        *[(name, body) for name in ("json", "kserve", "kservev2") for body in (b"", b"{", [], 3, {}, {"inputs": {}})],
        *[(name, {"instances": []}) for name in ("json", "kserve")],
        ("json", {"instances": [{"b64": "%"}]}),
        ("json", {"instances": [{"b64": 3}]}),
        *[
            ("kservev2", {"inputs": [each]})
            for each in (
                [],
                tensor(name=1),
                tensor(data=[]),
                tensor(data="text"),
                tensor(shape=[3]),
                tensor(shape=[4.0]),
                tensor(shape=[-1]),
                tensor(shape=[True] * 4),
                tensor(shape=None),
                tensor(shape=[1] * 100 + [4]),
                tensor(data=[[1], [2, 3]]),
                tensor(datatype="BYTES", data=[]),
            )
        ],
    ],
)
def test_what_is_not_in_the_envelope_is_refused(envelope: str, document: Any) -> None:
    with pytest.raises(BadRequestError):
        open_row(envelope, {"body": document})


def test_each_request_of_a_batch_gets_the_items_of_its_own_rows() -> None:
    opened = [open_row("json", {"body": {"instances": each}}) for each in ([1, 2], [3], [4, 5, 6])]
    shared = share_out([1, 2, 3, 4, 5, 6], opened)
    assert [json.loads(each.close(each.items))["predictions"] for each in shared] == [[1, 2], [3], [4, 5, 6]]
    assert share_out([1, 2, 3], opened) == []
    assert share_out("text", opened) == "text"
    alone = share_out(["one of all"], opened[:1])
    assert [each.items for each in alone] == [["one of all"]]


@pytest.mark.parametrize("envelope", ["kserve2", "../body", 1, ["body"], "Body"])
def test_unknown_envelope_of_a_manifest_is_refused_by_name(tmp_path: Path, envelope: Any) -> None:
    folder = name_envelope(make_archive(tmp_path / "models", "m", "h.py", {"h.py": SHOWING_HANDLER}), envelope)
    with pytest.raises(ManifestError, match="envelope must be one of none, body, json, kserve, kservev2"):
        read_archive(folder, "m", "1.0")


def name_envelope(folder: Path, envelope: Any) -> Path:
    path = folder / "MAR-INF/MANIFEST.json"
    document = json.loads(path.read_text())
    document["model"]["envelope"] = envelope
    path.write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, serve_archives: ServeArchives) -> FlaskClient:
    """Serve handlers behind each envelope; the manifest of the one without an envelope names none."""
    models = tmp_path_factory.mktemp("enveloped") / "models"
    for name in ENVELOPES:
        config = "batchSize: 3\nmaxBatchDelay: 200\n" if name == "json" else "batchSize: 1\n"
        files: dict[str, str | bytes] = {"h.py": SHOWING_HANDLER, "c.yaml": config}
        if name == "kservev2":
            files["h.py"] = SUMMING_HANDLER
        folder = make_archive(models, name, "h.py", files, config_file="c.yaml")
        if name != "none":
            name_envelope(folder, name)
    return serve_archives(models).test_client()


def post(client: FlaskClient, path: str, document: Any, **more: Any) -> Any:
    return client.post(path, json=document, headers=basic(), **more)


def test_description_names_the_envelope(client: FlaskClient) -> None:
    for name in ENVELOPES:
        assert client.get(f"/models/{name}", headers=basic()).json["envelope"] == name


def test_handler_gets_what_is_in_the_envelope(client: FlaskClient) -> None:
    assert post(client, "/predictions/body", {"a": 1}).json is None  # as TorchServe: JSON without a content type
    assert json.loads(post(client, "/predictions/body", {"a": 1}).data) == {"a": 1}
    assert json.loads(post(client, "/predictions/none", {"a": 1}).data) == {"body": {"a": 1}}
    instances = {"instances": [{"b64": "eA=="}, 2]}
    assert json.loads(post(client, "/predictions/json", instances).data) == {"predictions": ["bytes eA==", 2]}
    assert json.loads(post(client, "/predictions/kserve", instances).data) == {"predictions": [{"b64": "eA=="}, 2]}
    explained = post(client, "/explanations/kserve", {"instances": [1]})
    assert json.loads(explained.data) == {"explanations": [["why", 1]]}


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "application/json"])
def test_kserve_v1_answers_json_through_the_envelope(client: FlaskClient, content_type: str | None) -> None:
    body = json.dumps({"instances": [{"data": "eA=="}, 2]})
    for verb, expected in (
        ("predict", {"predictions": [{"data": "eA=="}, 2]}),
        ("explain", {"explanations": [["why", {"data": "eA=="}], ["why", 2]]}),
    ):
        path = f"/v1/models/kserve:{verb}"
        response = client.post(path, data=body, content_type=content_type, headers=basic())
        assert (response.status_code, response.json) == (200, expected)
        assert response.headers["X-Model-Version"] == "1.0"


def test_open_inference_protocol_is_answered_through_the_envelope(client: FlaskClient) -> None:
    inputs = [tensor(), tensor(name="text", datatype="BYTES", shape=[1], data=["eA=="])]
    for path in ("/v2/models/kservev2/infer", "/v2/models/kservev2/versions/1.0/infer"):
        response = post(client, path, {"id": "mine", "inputs": inputs})
        assert response.json == {
            "id": "mine",
            "model_name": "kservev2",
            "model_version": "1.0",
            "outputs": [
                {"name": "in", "datatype": "INT64", "data": [10], "shape": [1]},
                {"name": "text", "datatype": "BYTES", "data": ["eA=="], "shape": [1]},
            ],
        }
    answered = client.post(path, json={"inputs": inputs}, headers={**basic(), "X-Request-ID": "abcdefgh-1"})
    assert answered.json["id"] == "abcdefgh-1"
    assert client.get("/v2/models/kservev2/ready", headers=basic()).status_code == 200


def test_explanation_of_tensors_is_torchserves(client: FlaskClient) -> None:
    response = post(client, "/v2/models/kservev2/explain", {"id": "mine", "inputs": [tensor()]})
    assert response.status_code == 200
    answer = dict(response.json)
    (output,) = answer.pop("outputs")
    assert answer == {"id": "mine", "model_name": "kservev2", "model_version": "1.0"}
    assert (output["name"], output["datatype"]) == ("in", "FP64")
    assert (output["shape"], output["data"]) == ([4], [0.25, 0.5, 0.75, 1.0])  # flat, as all outputs
    for name, status, text in (
        ("none", 400, 'name "kservev2" as its envelope in the archive'),
        ("nope", 404, "Model not found: nope"),
    ):
        response = post(client, f"/v2/models/{name}/explain", {"inputs": [tensor()]})
        assert (response.status_code, text in response.json["error"]) == (status, True)


def test_compressed_json_is_taken_where_the_protocol_has_it(client: FlaskClient) -> None:
    body = gzip.compress(json.dumps({"inputs": [tensor()]}).encode())
    headers = {**basic(), "Content-Encoding": "gzip"}
    response = client.post("/v2/models/kservev2/infer", data=body, headers=headers)
    assert response.json["outputs"][0]["data"] == [10]


def test_binary_tensors_are_refused_and_a_handler_without_an_envelope_knows_no_tensors(client: FlaskClient) -> None:
    headers = {**basic(), "Inference-Header-Content-Length": "2"}
    response = client.post("/v2/models/kservev2/infer", data=b"{}x", headers=headers)
    assert (response.status_code, "send their data as JSON" in response.json["error"]) == (400, True)
    response = post(client, "/v2/models/none/infer", {"inputs": [tensor()]})
    assert (response.status_code, "ask /predictions/none." in response.json["error"]) == (400, True)


def test_what_is_not_in_the_envelope_answers_400_in_the_shape_of_the_path(client: FlaskClient) -> None:
    response = post(client, "/predictions/kserve", {"inputs": []})
    assert (response.status_code, response.json["type"]) == (400, "BadRequestException")
    assert "holds no instances" in response.json["message"]
    response = post(client, "/v1/models/kserve:predict", {"inputs": []})
    assert (response.status_code, list(response.json)) == (400, ["error"])
    response = client.post("/v2/models/kservev2/infer", data=b"\xff", headers=basic())
    assert (response.status_code, response.json) == (400, {"error": "The body is not JSON."})


def test_failure_of_the_handler_is_told_in_the_shape_of_the_path(client: FlaskClient) -> None:
    response = post(client, "/predictions/kserve", {"instances": ["fail"]})
    assert (response.status_code, response.json["type"]) == (503, "InternalServerException")
    response = post(client, "/v1/models/kserve:predict", {"instances": ["fail"]})
    assert (response.status_code, response.json) == (503, {"error": "Prediction failed"})


def test_requests_of_one_batch_keep_their_own_instances_and_their_own_errors(client: FlaskClient) -> None:
    app = client.application
    documents: list[Any] = [{"instances": [n, n]} if n % 4 else {"instances": n} for n in range(12)]

    def ask(document: Any) -> Any:
        return post(app.test_client(), "/predictions/json", document)

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(ask, documents))
    assert [each.status_code for each in answers] == [200 if n % 4 else 400 for n in range(12)]
    got = [json.loads(answers[n].data)["predictions"] for n in range(12) if n % 4]
    assert got == [[n, n] for n in range(12) if n % 4]


def test_handler_describes_itself_outside_the_envelope(client: FlaskClient) -> None:
    path = "/models/kserve?customized=true"
    [described] = client.get(path, headers=basic(), environ_overrides={"SERVER_PORT": "8081"}).json
    assert described["customizedMetadata"] == {"rows": 1}


def test_archive_with_an_unknown_envelope_is_not_registered(tmp_path: Path, instance: Path) -> None:
    (tmp_path / "models").mkdir()
    name_envelope(make_archive(tmp_path / "store/all", "odd", "h.py", {"h.py": SHOWING_HANDLER}), "kfserving")
    settings = Settings(models=tmp_path / "models", store=tmp_path / "store/all/odd", instance=instance, programs="all")
    response = (
        create_app(settings)
        .test_client()
        .post(
            "/models?url=1.0",
            headers=basic(MANAGER, MANAGER_PASSWORD),
            environ_overrides={"SERVER_PORT": "8081"},
        )
    )
    assert (response.status_code, response.json["type"]) == (400, "InvalidModelException")
    assert "envelope must be one of" in response.json["message"]


def test_default_classifier_behind_an_envelope_is_left_to_its_handler(tmp_path: Path) -> None:
    archive = read_archive(make_tiny(tmp_path / "models", "tiny"), "tiny", "1.0")
    assert find_obstacle(archive) == ""
    assert find_obstacle(replace(archive, envelope="none")) == ""
    assert find_obstacle(replace(archive, envelope="kserve")) == "requests come in the envelope kserve"
