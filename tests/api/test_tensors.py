"""The Open Inference Protocol's requests, sound and broken: the same pictures give the same answers, the rest 4xx."""

import base64
import gzip
import io
import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from werkzeug.test import TestResponse

from app.api.kserve.kserve_models import make_parameters
from app.api.kserve.tensors import HEADER_LENGTH
from app.api.request.services import EXTENSION
from tests.conftest import basic

PATH = "/v2/models/pcam-classification/infer"
SIDE = 96
Document = dict[str, Any]


def make_pixels(seed: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def normalize(pixels: np.ndarray) -> np.ndarray:
    """What pcam-classification's network is fed."""
    return ((pixels.astype(np.float32) - 127) / 128).astype("<f4")


def elements(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def describe(datatype: str, shape: list[int], **more: Any) -> Document:
    return {"inputs": [{"name": "image", "datatype": datatype, "shape": shape, **more}]}


def send(client: FlaskClient, document: Any, binary: bytes | None = None, **headers: str) -> TestResponse:
    """Send a request as tritonclient does: without a content type, the binary part after the JSON."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    sent = {**basic(), **{name.replace("_", "-"): value for name, value in headers.items()}}
    if binary is None:
        return client.post(PATH, data=text, headers=sent)
    return client.post(PATH, data=text + binary, headers={HEADER_LENGTH: str(len(text)), **sent})


def send_binary(client: FlaskClient, datatype: str, shape: list[int], binary: bytes, **more: Any) -> TestResponse:
    """Send a binary tensor whose size is stated rightly."""
    document = describe(datatype, shape, parameters={"binary_data_size": len(binary)})
    return send(client, {**document, **more}, binary)


def read_outputs(answer: TestResponse) -> dict[str, Any]:
    """The outputs of a JSON answer by name."""
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return {output["name"]: output for output in answer.get_json()["outputs"]}


def expect(client: FlaskClient, *pictures: np.ndarray) -> list[list[float]]:
    """The probabilities that `/predictions` answers for the same pictures as PNG files."""
    instances = [{"data": base64.b64encode(png_of(pixels)).decode()} for pixels in pictures]
    answer = client.post("/v1/models/pcam-classification:predict", json={"instances": instances}, headers=basic())
    single = client.put("/predictions/pcam-classification", data=png_of(pictures[0]), headers=basic()).get_json()
    listed = [list(each["probabilities"].values()) for each in answer.get_json()["predictions"]]
    assert listed[0] == pytest.approx(list(single["probabilities"].values()), abs=2e-6)
    return listed


def check_error(answer: TestResponse, status: int) -> str:
    assert answer.status_code == status, answer.get_data(as_text=True)
    error = answer.get_json()
    assert list(error) == ["error"]
    assert error["error"]
    return str(error["error"])


# The same picture gives the same probabilities, however it is sent


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["BYTES", "UINT8", "FP32 channels first", "FP32 channels last"])
@pytest.mark.parametrize("is_binary", [True, False])
def test_every_kind_of_input_gives_the_probabilities_of_predictions(
    count: int, kind: str, is_binary: bool, client: FlaskClient
) -> None:
    pictures = [make_pixels(seed) for seed in range(count)]
    stack = np.stack(pictures)
    tensor = {
        "UINT8": stack,
        "FP32 channels first": np.ascontiguousarray(normalize(stack).transpose(0, 3, 1, 2)),
        "FP32 channels last": normalize(stack),
    }.get(kind)
    files = [png_of(pixels) for pixels in pictures]
    shape = [count, 1] if tensor is None else list(tensor.shape)
    datatype = kind.split(" ", maxsplit=1)[0]
    if is_binary:
        answer = send_binary(client, datatype, shape, elements(*files) if tensor is None else tensor.tobytes())
    elif tensor is None:
        texts = [base64.b64encode(file).decode() for file in files]
        answer = send(client, describe(datatype, shape, data=texts, parameters={"content_type": "base64"}))
    else:
        answer = send(client, describe(datatype, shape, data=tensor.ravel().tolist()))
    output = read_outputs(answer)["probabilities"]
    assert output["shape"] == [count, 2]
    assert output["datatype"] == "FP32"
    expected = np.array(expect(client, *pictures)).ravel()
    assert output["data"] == pytest.approx(expected, abs=2e-6)


def test_pixels_of_another_size_are_resized_as_a_file_is(client: FlaskClient) -> None:
    pixels = make_pixels(5, width=150, height=70)
    output = read_outputs(send_binary(client, "UINT8", [1, 70, 150, 3], pixels.tobytes()))["probabilities"]
    assert output["data"] == pytest.approx(expect(client, pixels)[0], abs=2e-6)


def test_nested_data_is_read_as_flat_data_is(client: FlaskClient) -> None:
    pixels = make_pixels(6)[np.newaxis]
    flat = read_outputs(send(client, describe("UINT8", [1, 96, 96, 3], data=pixels.ravel().tolist())))
    assert read_outputs(send(client, describe("UINT8", [1, 96, 96, 3], data=pixels.tolist()))) == flat


def test_shape_of_files_may_leave_their_number_open(client: FlaskClient) -> None:
    file = png_of(make_pixels(1))
    for shape, count in (([-1], 2), ([-1, 1], 1), ([2], 2), ([1, 1], 1)):
        assert read_outputs(send_binary(client, "BYTES", shape, elements(*[file] * count)))["label"]["shape"] == [count]


def test_label_is_the_class_at_the_threshold(client: FlaskClient) -> None:
    files = [png_of(make_pixels(seed)) for seed in range(4)]
    told = [client.put("/predictions/pcam-classification", data=f, headers=basic()).get_json()["class"] for f in files]
    assert read_outputs(send_binary(client, "BYTES", [4], elements(*files)))["label"]["data"] == told


# What is asked for is answered


def test_only_the_outputs_asked_for_come_back_in_their_order(client: FlaskClient) -> None:
    file = elements(png_of(make_pixels(1)))
    for names in (["label"], ["probabilities"], ["label", "probabilities"]):
        answer = send_binary(client, "BYTES", [1], file, outputs=[{"name": name} for name in names])
        assert [output["name"] for output in answer.get_json()["outputs"]] == names


def test_classification_names_the_best_classes(client: FlaskClient) -> None:
    pictures = [make_pixels(seed) for seed in range(2)]
    body = elements(*map(png_of, pictures))
    rows = read_outputs(send_binary(client, "BYTES", [2], body))["probabilities"]["data"]
    for asked, told in ((1, 1), (2, 2), (9, 2)):
        outputs = [{"name": "probabilities", "parameters": {"classification": asked}}]
        output = read_outputs(send_binary(client, "BYTES", [2], body, outputs=outputs))["probabilities"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2, told])
        for place in range(2):
            row = rows[2 * place : 2 * place + 2]
            best = sorted(range(2), key=lambda index: -row[index])[:told]
            expected = [f"{row[index]:f}:{index}:{['normal', 'metastatic'][index]}" for index in best]
            assert output["data"][told * place : told * (place + 1)] == expected


def test_binary_outputs_follow_the_json(client: FlaskClient) -> None:
    body = elements(png_of(make_pixels(1)))
    plain = read_outputs(send_binary(client, "BYTES", [1], body))
    for more in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": name, "parameters": {"binary_data": True}} for name in ("probabilities", "label")]},
    ):
        answer = send_binary(client, "BYTES", [1], body, **more)
        assert answer.mimetype == "application/octet-stream"
        length = int(answer.headers[HEADER_LENGTH])
        numbers, label = json.loads(answer.data[:length])["outputs"]
        assert (numbers["parameters"], label["parameters"]["binary_data_size"]) == ({"binary_data_size": 8}, 10)
        assert np.frombuffer(answer.data[length : length + 8], "<f4").tolist() == plain["probabilities"]["data"]
        assert answer.data[length + 8 :] == elements(b"normal")[:4] + plain["label"]["data"][0].encode()


def test_an_output_may_differ_from_the_others(client: FlaskClient) -> None:
    outputs = [{"name": "probabilities", "parameters": {"binary_data": False}}, {"name": "label"}]
    body, parameters = elements(png_of(make_pixels(1))), {"binary_data_output": True}
    answer = send_binary(client, "BYTES", [1], body, outputs=outputs, parameters=parameters)
    length = int(answer.headers[HEADER_LENGTH])
    numbers, label = json.loads(answer.data[:length])["outputs"]
    assert len(numbers["data"]) == 2
    assert len(answer.data) == length + label["parameters"]["binary_data_size"]


def test_metadata_tell_the_channel_order_of_fp32_values(app: Flask) -> None:
    manifest = app.extensions[EXTENSION].registry.get("pcam-classification").manifest
    for order in ("RGB", "BGR"):
        told = make_parameters(replace(manifest, input=replace(manifest.input, channel_order=order)))
        assert told["channel_order"] == order
        assert told["fp32_input"].endswith(f": {order}, (pixel - mean) / std")
        assert told["uint8_input"].startswith("[-1, -1, -1, 3]: RGB")


def test_id_is_echoed_and_is_the_requests_where_there_is_none(client: FlaskClient) -> None:
    body = elements(png_of(make_pixels(1)))
    assert send_binary(client, "BYTES", [1], body, id="mine").get_json()["id"] == "mine"
    answer = send_binary(client, "BYTES", [1], body)
    assert answer.get_json()["id"] == answer.headers["X-Request-ID"]


def test_every_answer_says_what_it_is_for_and_which_picture_means_nothing(client: FlaskClient) -> None:
    pictures = np.stack([make_pixels(1), np.zeros((96, 96, 3), np.uint8)])
    parameters = send_binary(client, "UINT8", [2, 96, 96, 3], pictures.tobytes()).get_json()["parameters"]
    assert parameters["notice"] == "Research use only. Not for diagnosis."
    assert parameters["warnings"] == "Picture 2: The picture shows a single colour; the answer means nothing."


# What is wrong is refused

FILE = png_of(make_pixels(1))
TEXT = base64.b64encode(FILE).decode()
PIXELS = make_pixels(1)[np.newaxis].tobytes()
FP32 = [1, 3, 96, 96]

WRONG: dict[str, tuple[Any, bytes | None, int]] = {
    "empty body": (b"", None, 400),
    "no JSON": (b"{", None, 400),
    "no object": ([1], None, 400),
    "no inputs": ({}, None, 400),
    "inputs of another type": ({"inputs": {}}, None, 400),
    "two inputs": ({"inputs": describe("BYTES", [1], data=[TEXT])["inputs"] * 2}, None, 400),
    "input that is no object": ({"inputs": ["image"]}, None, 400),
    "deep JSON": (b"[" * 100_000, None, 400),
    "deep data": (
        b'{"inputs": [{"datatype": "BYTES", "shape": [1], "data": %s}]}' % (b"[" * 5000 + b"]" * 5000),
        None,
        400,
    ),
    "unknown datatype": (describe("FP16", [1], data=[1]), None, 400),
    "datatype that is a list": (describe([], [1], data=[1]), None, 400),  # type: ignore[arg-type]
    "no shape": ({"inputs": [{"datatype": "BYTES", "data": [TEXT]}]}, None, 400),
    "empty shape": (describe("BYTES", [], data=[TEXT]), None, 400),
    "zero in the shape": (describe("BYTES", [0], data=[]), None, 400),
    "shape of fractions": (describe("BYTES", [1.0], data=[TEXT]), None, 400),  # type: ignore[list-item]
    "shape of truth values": (describe("BYTES", [True], data=[TEXT]), None, 400),
    "shape of five numbers": (describe("UINT8", [1, 1, 1, 1, 3], data=[1, 2, 3]), None, 400),
    "negative pixels": (describe("UINT8", [-1, 1, 1, 3], data=[1, 2, 3]), None, 400),
    "shape that overflows 64 bits": (describe("UINT8", [1, 2**32, 2**32, 3], data=[1]), None, 400),
    "shape that overflows to nothing": (describe("UINT8", [1, 2**63, 2, 3], data=[]), None, 400),
    "shape of 4000 digits": (describe("BYTES", [int("9" * 4000)], data=[TEXT]), None, 400),
    "shape of more digits than Python reads": (
        b'{"inputs": [{"datatype": "BYTES", "shape": [%s], "data": []}]}' % (b"9" * 5000),
        None,
        400,
    ),
    "65 pictures": (describe("BYTES", [65], data=[TEXT] * 65), None, 400),
    "65 pictures, number left open": (describe("BYTES", [-1], data=[TEXT] * 65), None, 400),
    "65 pictures of pixels": (describe("UINT8", [65, 1, 1, 3], data=[1] * 195), None, 400),
    "no pictures": (describe("BYTES", [-1], data=[]), None, 400),
    "fewer files than stated": (describe("BYTES", [2], data=[TEXT]), None, 400),
    "more files than stated": (describe("BYTES", [1], data=[TEXT] * 2), None, 400),
    "files in a square": (describe("BYTES", [2, 2], data=[TEXT] * 4), None, 400),
    "files in a square, number left open": (describe("BYTES", [-1, 2], data=[TEXT] * 4), None, 400),
    "no data": (describe("BYTES", [1]), None, 400),
    "data that is a text": (describe("BYTES", [1], data=TEXT), None, 400),
    "file that is a number": (describe("BYTES", [1], data=[1]), None, 400),
    "file that is no base64": (describe("BYTES", [1], data=["%%%"]), None, 400),
    "file that is no ASCII": (describe("BYTES", [1], data=["ä"]), None, 400),
    "unknown content type": (describe("BYTES", [1], data=[TEXT], parameters={"content_type": "str"}), None, 400),
    "parameters of another type": (describe("BYTES", [1], data=[TEXT], parameters=[1]), None, 400),
    "shared memory": (describe("BYTES", [1], parameters={"shared_memory_region": "x"}), None, 400),
    "file that is no picture": (describe("BYTES", [1], data=["aGVsbG8="]), None, 415),
    "damaged picture": (describe("BYTES", [1], data=[base64.b64encode(FILE[:500]).decode()]), None, 422),
    "empty file": (describe("BYTES", [1], data=[""]), None, 400),
    "grey pixels": (describe("UINT8", [1, 2, 2, 1], data=[1] * 4), None, 400),
    "pixel of 256": (describe("UINT8", [1, 1, 1, 3], data=[1, 2, 256]), None, 400),
    "pixel of -1": (describe("UINT8", [1, 1, 1, 3], data=[1, 2, -1]), None, 400),
    "fraction of a pixel": (describe("UINT8", [1, 1, 1, 3], data=[1, 2, 0.5]), None, 400),
    "pixel that is a text": (describe("UINT8", [1, 1, 1, 3], data=[1, 2, "3"]), None, 400),
    "pixel that is null": (describe("UINT8", [1, 1, 1, 3], data=[1, 2, None]), None, 400),
    "pixels nested unevenly": (describe("UINT8", [1, 1, 1, 3], data=[[1, 2], 3]), None, 400),
    "too few pixels": (describe("UINT8", [1, 1, 2, 3], data=[1, 2, 3]), None, 400),
    "side over 16384": (describe("UINT8", [1, 1, 16385, 3], data=[1] * 3 * 16385), None, 422),
    "FP32 of another size": (describe("FP32", [1, 3, 95, 96], data=[0.0] * 27360), None, 400),
    "FP32 that is NaN": (describe("FP32", FP32, data=[float("nan")] * 27648), None, 400),
    "FP32 that is infinite": (describe("FP32", FP32, data=[1e300] * 27648), None, 400),
    "FP32 that is huge": (describe("FP32", FP32, data=[10**400] * 27648), None, 400),
    "FP32 that was not normalized": (describe("FP32", FP32, data=[200] * 27648), None, 400),
    "FP32 normalized otherwise": (describe("FP32", FP32, data=[0.3] * 27648), None, 400),
    "id that is a number": (describe("BYTES", [1], data=[TEXT]) | {"id": 5}, None, 400),
    "outputs of another type": (describe("BYTES", [1], data=[TEXT]) | {"outputs": "label"}, None, 400),
    "output of another type": (describe("BYTES", [1], data=[TEXT]) | {"outputs": ["label"]}, None, 400),
    "unknown output": (describe("BYTES", [1], data=[TEXT]) | {"outputs": [{"name": "scores"}]}, None, 400),
    "output that is a list": (describe("BYTES", [1], data=[TEXT]) | {"outputs": [{"name": []}]}, None, 400),
    "output twice": (describe("BYTES", [1], data=[TEXT]) | {"outputs": [{"name": "label"}] * 2}, None, 400),
    "classification of labels": (
        describe("BYTES", [1], data=[TEXT]) | {"outputs": [{"name": "label", "parameters": {"classification": 1}}]},
        None,
        400,
    ),
    "binary that is a number": (
        describe("BYTES", [1], data=[TEXT]) | {"parameters": {"binary_data_output": 1}},
        None,
        400,
    ),
    "binary without a size": (describe("BYTES", [1]), elements(FILE), 400),
    "size that is a text": (describe("BYTES", [1], parameters={"binary_data_size": "9"}), b"123456789", 400),
    "size that is negative": (describe("BYTES", [1], parameters={"binary_data_size": -1}), b"", 400),
    "size that is too small": (describe("BYTES", [1], parameters={"binary_data_size": 9}), elements(FILE), 400),
    "size of more than there is": (describe("BYTES", [1], parameters={"binary_data_size": 2**70}), elements(FILE), 400),
    "no bytes at all": (describe("BYTES", [1], parameters={"binary_data_size": 0}), b"", 400),
    "length that is cut": (describe("BYTES", [1], parameters={"binary_data_size": 3}), b"\0\0\0", 400),
    "length that lies": (describe("BYTES", [1], parameters={"binary_data_size": 8}), b"\xff\xff\xff\xffabcd", 400),
    "length that is short": (describe("BYTES", [1], parameters={"binary_data_size": 8}), b"\1\0\0\0abcd", 400),
    "a million empty files": (
        describe("BYTES", [-1], parameters={"binary_data_size": 4_000_000}),
        bytes(4_000_000),
        400,
    ),
    "pixels that are cut": (
        describe("UINT8", [1, 96, 96, 3], parameters={"binary_data_size": len(PIXELS) - 1}),
        PIXELS[:-1],
        400,
    ),
    "FP32 that is random": (
        describe("FP32", FP32, parameters={"binary_data_size": 110592}),
        np.random.default_rng(1).bytes(110592),
        400,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_request_gets_its_status_and_the_next_is_answered(name: str, client: FlaskClient) -> None:
    document, binary, status = WRONG[name]
    check_error(send(client, document, binary), status)
    assert send_binary(client, "BYTES", [1], elements(FILE)).status_code == 200


@pytest.mark.parametrize("length", ["", "-1", "1.0", "x", "٣", "9" * 30, "999999", "10"])
def test_wrong_length_of_the_json_answers_400(length: str, client: FlaskClient) -> None:
    document = json.dumps(describe("BYTES", [1], parameters={"binary_data_size": len(FILE) + 4})).encode()
    headers = {**basic(), HEADER_LENGTH: length.encode().decode("latin-1")}
    check_error(client.post(PATH, data=document + elements(FILE), headers=headers), 400)


@pytest.mark.parametrize("length", ["0", "000"])
def test_request_without_json_is_one_picture_and_its_answer_is_as_with_json(length: str, client: FlaskClient) -> None:
    headers = {**basic(), HEADER_LENGTH: length, "Content-Type": "application/octet-stream"}
    raw = read_outputs(client.post(PATH, data=FILE, headers=headers))
    assert raw == read_outputs(send_binary(client, "BYTES", [1], elements(FILE)))
    check_error(client.post(PATH, data=b"", headers=headers), 400)
    check_error(client.post(PATH, data=b"no picture", headers=headers), 415)


@pytest.mark.parametrize("kind", ["UINT8", "FP32 channels first", "FP32 channels last"])
@pytest.mark.parametrize("is_binary", [True, False])
def test_one_picture_may_come_without_the_number_of_pictures(kind: str, is_binary: bool, client: FlaskClient) -> None:
    values = make_pixels(1) if kind == "UINT8" else normalize(make_pixels(1))
    values = values.transpose(2, 0, 1) if kind.endswith("first") else values
    datatype, shape = kind.split(" ", 1)[0], list(values.shape)
    if is_binary:
        answer = send_binary(client, datatype, shape, values.tobytes())
    else:
        answer = send(client, describe(datatype, shape, data=values.tolist()))
    (expected,) = expect(client, make_pixels(1))
    assert read_outputs(answer)["probabilities"]["data"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("datatype", "shape"),
    [
        *(("UINT8", shape) for shape in ([96, 96], [3, 96, 96], [1, 3, 96, 96], [96, 96, 1], [65, 96, 96], [9])),
        *(("FP32", shape) for shape in ([96, 96], [96, 96, 1], [1, 1, 96, 96], [1, 3, 64, 64])),
    ],
)
def test_shape_that_is_not_taken_is_told_beside_those_that_are(
    datatype: str, shape: list[int], client: FlaskClient
) -> None:
    size = int(np.prod(shape)) * (4 if datatype == "FP32" else 1)
    told = check_error(send_binary(client, datatype, shape, bytes(size)), 400)
    assert "must have the shape [N, " in told
    assert f"{', '.join(map(str, shape))}]" in told


def test_error_of_one_picture_among_several_says_which(client: FlaskClient) -> None:
    body = elements(FILE, b"no picture", FILE)
    assert check_error(send_binary(client, "BYTES", [3], body), 415).startswith("Picture 2 of 3: ")


def test_deadline_that_has_passed_answers_504(client: FlaskClient) -> None:
    document = describe("BYTES", [1], parameters={"binary_data_size": len(FILE) + 4})
    check_error(send(client, document, elements(FILE), X_Request_Timeout_Ms="0"), 504)
    check_error(send(client, document, elements(FILE), X_Request_Timeout_Ms="soon"), 400)


# Compressed bodies


@pytest.mark.parametrize(
    "name, compress", [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
def test_compressed_body_is_answered_as_a_plain_one(name: str, compress: Any, client: FlaskClient) -> None:
    binary = elements(FILE)
    text = json.dumps(describe("BYTES", [1], parameters={"binary_data_size": len(binary)})).encode()
    headers = {**basic(), HEADER_LENGTH: str(len(text)), "Content-Encoding": name}
    answer = client.post(PATH, data=compress(text + binary), headers=headers)
    assert read_outputs(answer) == read_outputs(send_binary(client, "BYTES", [1], binary))


@pytest.mark.parametrize(
    "name, body, status",
    [
        ("gzip", gzip.compress(bytes(40 * 2**20)), 413),
        ("deflate", zlib.compress(bytes(40 * 2**20)), 413),
        ("gzip", gzip.compress(bytes(32 * 2**20)), 400),  # as large as may be, but no JSON
        ("gzip", gzip.compress(b"{}")[:-1], 400),
        ("gzip", gzip.compress(b"{}") + b"more", 400),
        ("gzip", b"{}", 400),
        ("gzip", b"", 400),
        ("deflate", gzip.compress(b"{}"), 400),
        ("br", b"{}", 415),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}")), 415),
    ],
    ids=[
        "gzip of too much",
        "deflate of too much",
        "gzip of zeros",
        "gzip cut off",
        "gzip and more",
        "plain as gzip",
        "empty as gzip",
        "gzip as deflate",
        "plain as br",
        "gzip twice",
    ],
)
def test_compressed_body_that_is_not_taken(name: str, body: bytes, status: int, client: FlaskClient) -> None:
    for path in (PATH, "/v1/models/pcam-classification:predict", "/v2/repository/index"):
        check_error(client.post(path, data=body, headers={**basic(), "Content-Encoding": name}), status)


# Anything at all

NUMBERS = st.one_of(st.integers(-2, 4), st.sampled_from([96, 2**31, 2**32, 2**63, 2**64, 10**30]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-300, 300), st.floats(), st.text(max_size=5), st.just(TEXT)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    datatype=st.sampled_from(["BYTES", "UINT8", "FP32", "INT64", None]),
    shape=st.one_of(st.lists(NUMBERS, max_size=5), VALUES, st.just([1]), st.just([1, 96, 96, 3])),
    data=VALUES,
    size=st.one_of(st.just("right"), NUMBERS, VALUES),
    binary=st.one_of(st.binary(max_size=40), st.just(elements(FILE)), st.just(PIXELS)),
    cut=st.integers(0, 8),
    outputs=st.one_of(
        st.none(), VALUES, st.lists(st.fixed_dictionaries({"name": st.just("label"), "parameters": VALUES}))
    ),
)
def test_any_request_is_answered_or_refused_in_the_one_shape(
    *, datatype: Any, shape: Any, data: Any, size: Any, binary: bytes, cut: int, outputs: Any, app: Flask
) -> None:
    part = binary[: len(binary) - cut]
    parameters = {"binary_data_size": len(part) if size == "right" else size}
    document = describe(datatype, shape, data=data, parameters=parameters) | {"outputs": outputs}
    for answer in (
        send(app.test_client(), document, part),
        send(app.test_client(), describe(datatype, shape, data=data)),
    ):
        if answer.status_code != 200:
            assert answer.status_code in (400, 415, 422)
            check_error(answer, answer.status_code)
