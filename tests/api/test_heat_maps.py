"""`/explanations/<model>` of our own models: a map of what the score rests on, as numbers and as a picture."""

import io
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from app import create_app
from app.config.settings import Settings
from app.engines.compiled.openvino_engine import OpenVINOEngine
from tests.evaluation.tiny_model import SIDE_PX, write_tiny_model

PATH = "/explanations/tiny-brightness"


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    write_tiny_model(tmp_path / "models")
    return create_app(Settings(models=tmp_path / "models", instance=tmp_path / "instance", auth="off")).test_client()


def draw(size: int = SIDE_PX) -> bytes:
    """A dark picture whose upper left quarter is brighter."""
    pixels = np.full((size, size, 3), 98, dtype=np.uint8)
    pixels[: size // 2, : size // 2] = 106
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("method", ["put", "post"])
@pytest.mark.parametrize("path", [PATH, f"{PATH}/1.0"])
def test_answer_is_the_prediction_and_its_heat_map(client: FlaskClient, method: str, path: str) -> None:
    answer = getattr(client, method)(path, data=draw()).get_json()
    heat_map = answer.pop("heat_map")
    prediction = client.put("/predictions/tiny-brightness", data=draw()).get_json()
    assert {**answer, "request_id": ""} == {**prediction, "request_id": ""}
    values = np.array(heat_map["values"])
    assert values.shape == (SIDE_PX, SIDE_PX)
    assert values[:3, :3].min() > 0 > values[-3:, -3:].max()
    assert heat_map["class"] == "bright"
    assert [entry["value"] for entry in heat_map["legend"]] == [-abs(values).max(), 0, abs(values).max()]


def test_target_names_the_class_that_is_explained(client: FlaskClient) -> None:
    bright, dark = (client.put(f"{PATH}?target={name}", data=draw()).get_json() for name in ("bright", "dark"))
    assert np.allclose(np.array(bright["heat_map"]["values"]), -np.array(dark["heat_map"]["values"]), atol=1e-4)


@pytest.mark.parametrize(
    "accept, kind",
    [
        ("image/png", "image/png"),
        ("image/png,application/json;q=0.5", "image/png"),
        ("*/*", "application/json"),
        ("application/json, image/png", "application/json"),
        ("text/html", "application/json"),
    ],
)
def test_picture_is_answered_where_one_is_asked_for(client: FlaskClient, accept: str, kind: str) -> None:
    response = client.put(PATH, data=draw(300), headers={"Accept": accept})
    assert (response.status_code, response.mimetype) == (200, kind)
    if kind == "image/png":
        assert response.headers["X-Notice"] == "Research use only. Not for diagnosis."
        with Image.open(io.BytesIO(response.data)) as picture:
            assert picture.width >= 384


@pytest.mark.parametrize(
    "query, body, status, message",
    [
        ("?target=pink", draw(), 400, 'has no class "pink": target must be one of dark, bright'),
        ("?target=", draw(), 400, "target must be one of"),
        ("", b"", 400, ""),
        ("", b"no picture", 415, ""),
        ("", draw()[:-20], 422, ""),
    ],
)
def test_what_cannot_be_explained_is_refused_and_the_next_is_answered(
    client: FlaskClient, query: str, body: bytes, status: int, message: str
) -> None:
    response = client.put(PATH + query, data=body)
    assert response.status_code == status
    assert message in response.get_json()["message"]
    assert client.put(PATH, data=draw()).status_code == 200


def test_several_pictures_are_refused(client: FlaskClient) -> None:
    form = {"one": (io.BytesIO(draw()), "a.png"), "two": (io.BytesIO(draw()), "b.png")}
    response = client.post(PATH, data=form)
    assert response.status_code == 400
    assert "takes one picture; the request has 2" in response.get_json()["message"]


def test_model_that_fails_meanwhile_is_an_error_of_the_model(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.put(PATH, data=draw()).status_code == 200
    monkeypatch.setattr(OpenVINOEngine, "infer", lambda self, batch: np.full((len(batch), 2), np.nan, np.float32))
    assert client.put(PATH, data=draw()).status_code == 500
    monkeypatch.undo()
    assert client.put(PATH, data=draw()).status_code == 200
