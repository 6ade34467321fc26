"""What one request may hold: so many pictures, and so many pixels of all together, wherever it holds several."""

import base64
import gzip
import io
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse

from app import create_app
from app.api.kserve.tensors import HEADER_LENGTH
from app.api.request.bodies import SMALL_BODY_BYTES
from app.config.settings import Settings
from app.pipeline.decoding.limits import REQUEST_SHARE
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic

NAME, SIDE_PX, MAX_IMAGES = "pcam-classification", 96, 6
PREDICT, V1, V2 = f"/predictions/{NAME}", f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"
PIXELS = np.random.default_rng(5).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def client(settings: Settings) -> FlaskClient:
    """A server that takes six pictures a request, and four times the pixels of one."""
    return create_app(replace(settings, max_images=MAX_IMAGES, max_pixels=SIDE_PX**2)).test_client()


def send_json(client: FlaskClient, path: str, texts: list[str]) -> TestResponse:
    return client.post(path, json={"instances": [{"data": text} for text in texts]}, headers=basic())


def send_form(client: FlaskClient, texts: list[str]) -> TestResponse:
    files = [FileStorage(io.BytesIO(base64.b64decode(text + "===")), "p.png") for text in texts]
    return client.post(PREDICT, data={"image": files}, headers=basic())


def send_texts(client: FlaskClient, texts: list[str]) -> TestResponse:
    tensor = {"name": "x", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    return client.post(V2, json={"inputs": [tensor]}, headers=basic())


def send_binary(client: FlaskClient, datatype: str, shape: list[int], data: bytes) -> TestResponse:
    parameters = {"binary_data_size": len(data)}
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "parameters": parameters}
    text = json.dumps({"inputs": [tensor]}).encode()
    return client.post(V2, data=text + data, headers={**basic(), HEADER_LENGTH: str(len(text))})


def send_elements(client: FlaskClient, texts: list[str]) -> TestResponse:
    files = [base64.b64decode(text + "===") for text in texts]
    data = b"".join(struct.pack("<I", len(file)) + file for file in files)
    return send_binary(client, "BYTES", [len(files)], data)


def send_pixels(client: FlaskClient, texts: list[str]) -> TestResponse:
    stack = np.stack([PIXELS] * len(texts))
    return send_binary(client, "UINT8", list(stack.shape), stack.tobytes())


def send_numbers(client: FlaskClient, texts: list[str]) -> TestResponse:
    values = (np.stack([PIXELS] * len(texts)).astype(np.float32) - 127) / 128
    tensor = {"name": "x", "datatype": "FP32", "shape": list(values.shape), "data": values.tolist()}
    return client.post(V2, json={"inputs": [tensor]}, headers=basic())


Send = Callable[[FlaskClient, list[str]], TestResponse]
EACH_FOR_ITSELF: dict[str, Send] = {"JSON": lambda *sent: send_json(sent[0], PREDICT, sent[1]), "form": send_form}
ALL_OR_NONE: dict[str, Send] = {
    "KServe v1": lambda *sent: send_json(sent[0], V1, sent[1]),
    "BYTES": send_texts,
    "binary BYTES": send_elements,
    "binary UINT8": send_pixels,
    "FP32": send_numbers,
}


@pytest.mark.parametrize("name", [*EACH_FOR_ITSELF, *ALL_OR_NONE])
def test_one_picture_too_many_is_refused_before_any_is_read(client: FlaskClient, name: str) -> None:
    answer = (EACH_FOR_ITSELF | ALL_OR_NONE)[name](client, ["%" if name != "form" else "AAAA"] * (MAX_IMAGES + 1))
    assert answer.status_code == 400
    assert f"at most {MAX_IMAGES} are taken" in answer.text or f"at most {MAX_IMAGES}." in answer.text


@pytest.mark.parametrize("name", EACH_FOR_ITSELF)
def test_picture_beyond_the_pixels_of_a_request_has_its_own_error(
    client: FlaskClient, name: str, pcam_example: bytes
) -> None:
    answer = EACH_FOR_ITSELF[name](client, [base64.b64encode(pcam_example).decode()] * (REQUEST_SHARE + 1))
    assert answer.status_code == 200
    *taken, refused = answer.json["predictions"]
    assert ["class" in item for item in taken] == [True] * REQUEST_SHARE
    assert (refused["code"], refused["type"]) == (422, "UnsupportedImageException")


@pytest.mark.parametrize("name", ALL_OR_NONE)
def test_request_of_too_many_pixels_is_refused_where_all_pictures_are_answered_or_none(
    client: FlaskClient, name: str, pcam_example: bytes
) -> None:
    text = base64.b64encode(pcam_example).decode()
    answer = ALL_OR_NONE[name](client, [text] * (REQUEST_SHARE + 1))
    assert answer.status_code == 422
    assert answer.json["error"].startswith(f"Picture {REQUEST_SHARE + 1} of {REQUEST_SHARE + 1}: The pictures of the")
    assert ALL_OR_NONE[name](client, [text] * REQUEST_SHARE).status_code == 200


def test_large_tensor_of_numbers_is_answered_as_its_small_parts_are(app: Any, pcam_example: bytes) -> None:
    client, values = app.test_client(), (np.stack([PIXELS] * 8).astype(np.float32) - 127) / 128
    tensor = {"name": "x", "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}
    text = json.dumps({"inputs": [tensor]}).encode()
    assert len(text) > 2 * SMALL_BODY_BYTES
    [one], [many] = (
        client.post(V2, data=body, headers=basic() | more).json["outputs"][:1]
        for body, more in (
            (json.dumps({"inputs": [{**tensor, "shape": [1, 96, 96, 3], "data": values[0].tolist()}]}), {}),
            (gzip.compress(text, 1), {"Content-Encoding": "gzip"}),
        )
    )
    np.testing.assert_allclose(np.reshape(many["data"], (8, -1)), [one["data"]] * 8, atol=1e-5)
    for wrong in (text.replace(b"-0.", b"-0..", 1), text.replace(b"]}]}", b",0]}]}"), text.replace(b"]}]}", b"]]}]}")):
        assert client.post(V2, data=wrong, headers=basic()).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [("POST", "/v2/repository/index", 413), ("GET", "/models", 200), ("POST", "/nowhere", 404), ("PUT", "/ping", 405)],
)
def test_request_that_asks_no_model_keeps_no_large_body(
    client: FlaskClient, method: str, path: str, expected: int
) -> None:
    for size, status in ((SMALL_BODY_BYTES, 400 if expected == 413 else expected), (SMALL_BODY_BYTES + 1, expected)):
        answer = client.open(path, method=method, data=b"{" * size, headers=basic(), content_type="application/json")
        assert answer.status_code == status


@pytest.mark.parametrize("path", ["/models", "/v2/repository/models/nope/load"])
def test_management_takes_no_large_json(client: FlaskClient, path: str) -> None:
    headers = {**basic(MANAGER, MANAGER_PASSWORD), "Content-Type": "application/json"}
    answer = client.post(path, data=b'{"url": "' + b"a" * SMALL_BODY_BYTES + b'"}', headers=headers)
    assert answer.status_code == 413
    assert client.post(path, data=b"[" * SMALL_BODY_BYTES, headers=headers).status_code == 400
