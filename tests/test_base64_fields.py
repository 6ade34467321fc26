"""base64 in requests: what is decoded, and where an error says that it stands."""

import base64
import io
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from app.api.kserve.handler_instances import read_instance_parts
from app.api.predict.classifier_predictions import read_picture
from app.api.predict.handler_predictions import Part
from app.base64_fields import decode_base64, unwrap_picture
from app.errors import BadRequestError
from app.handlers.worker.envelopes import OPENERS, Asked
from tests.conftest import basic

FILE = bytes(range(256))
GOOD = base64.b64encode(FILE).decode()
ASKED = Asked("id", is_explained=False, model={})


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        base64.encodebytes(FILE).decode(),
        base64.encodebytes(FILE).decode().replace("\n", " "),
        f" {GOOD}\r\n\t",
        "\n  ".join(GOOD[start : start + 77] for start in range(0, len(GOOD), 77)),
        GOOD.rstrip("="),
        base64.urlsafe_b64encode(FILE).decode(),
        base64.urlsafe_b64encode(FILE).decode().rstrip("="),
        "data:image/png;base64," + GOOD,
        "data:image/png;charset=utf-8;base64, " + GOOD.rstrip("="),
        "\nDATA:;BASE64," + GOOD.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
    ],
)
def test_base64_is_taken_as_clients_write_it(text: str) -> None:
    assert decode_base64(text, "data") == FILE


@pytest.mark.parametrize(
    "text", ["%", "ä", "eAx=eA==", "e", "eAeAe", "=eAA", "e=A=", "eA===", "data:,eA%", "a;base64,eA=="]
)
def test_what_is_no_base64_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(BadRequestError, match=r"^inputs\[0\]\.data\[3\] is (not base64|a data URL without base64); "):
        decode_base64(text, "inputs[0].data[3]")


@pytest.mark.parametrize("text", [GOOD.replace("+", " "), base64.encodebytes(FILE).decode().replace("+", " ")])
def test_plus_that_a_form_turned_into_a_space_is_named(text: str) -> None:
    with pytest.raises(BadRequestError, match=r"^data holds spaces where base64 had a plus sign; percent-encode it"):
        decode_base64(text, "data")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_picture_in_base64_is_known_by_its_beginning(format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format)
    picture = file.getvalue()
    for text in (base64.b64encode(picture), base64.urlsafe_b64encode(picture), base64.encodebytes(picture)):
        assert unwrap_picture(text, "The body") == unwrap_picture(b"data:;base64," + text, "The body") == picture
    assert unwrap_picture(picture, "The body") == picture


@pytest.mark.parametrize("value", [None, 3, b"eA==", ["eA=="], {}])
def test_value_that_is_no_text_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^data must be a text"):
        decode_base64(value, "data")


def test_every_surface_names_the_field_that_is_no_base64(client: FlaskClient) -> None:
    instances = {"instances": [{"data": "eA=="}, {"b64": "%"}]}
    answer = client.post("/predictions/pcam-classification", json=instances, headers=basic())
    assert answer.json["predictions"][1]["message"].startswith("instances[1].b64 is not base64")
    answer = client.post("/v1/models/pcam-classification:predict", json={"instances": [{"data": "%"}]}, headers=basic())
    assert answer.json["error"].startswith("instances[0].data is not base64")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": ["eA==", "%"]}
    answer = client.post("/v2/models/pcam-classification/infer", json={"inputs": [tensor]}, headers=basic())
    assert answer.json["error"].startswith("inputs[0].data[1] is not base64")
    with pytest.raises(BadRequestError, match=r"^instances\[1\]\.data is not base64"):
        read_instance_parts(b'{"instances": ["eA==", {"data": "%"}]}', 2)
    with pytest.raises(BadRequestError, match=r"^instances\[1\]\.image\.b64 is not base64"):
        OPENERS["json"]({"body": b'{"instances": [1, {"image": {"b64": "%"}}]}'}, ASKED)
    with pytest.raises(BadRequestError, match=r'^The text of part "data" is not base64'):
        read_picture([Part("data", "text/plain", b"%")])
