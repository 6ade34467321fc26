"""TorchServe's older paths answer as `/predictions/<model>` does."""

from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config.settings import Settings
from tests.conftest import basic

MODEL = "pcam-classification"


@pytest.mark.parametrize(
    "path",
    [f"/models/{MODEL}/invoke", f"/{MODEL}/predict", f"/{MODEL}/1.0/predict", f"/invocations?model_name={MODEL}"],
)
def test_older_path_answers_the_same(path: str, client: FlaskClient, pcam_example: bytes) -> None:
    expected = client.post(f"/predictions/{MODEL}", data=pcam_example, headers=basic()).json
    answer = client.post(path, data=pcam_example, headers=basic())
    assert answer.status_code == 200
    assert {**answer.json, "request_id": expected["request_id"]} == expected


@pytest.mark.parametrize(
    "path", [f"/models/{MODEL}/invoke", f"/{MODEL}/predict", f"/invocations?model_name={MODEL}", "/nope/predict"]
)
def test_older_path_wants_a_password(path: str, client: FlaskClient, pcam_example: bytes) -> None:
    assert client.post(path, data=pcam_example).status_code == 401


def test_unknown_model_is_not_found_by_an_older_path(client: FlaskClient, pcam_example: bytes) -> None:
    for path in ("/nope/predict", "/models/nope/invoke", "/invocations?model_name=nope"):
        answer = client.post(path, data=pcam_example, headers=basic())
        assert (answer.status_code, answer.json["message"]) == (404, "Model not found: nope")


def test_older_paths_are_not_served_at_the_management_address(client: FlaskClient, pcam_example: bytes) -> None:
    answer = client.post(
        f"/{MODEL}/predict", data=pcam_example, headers=basic(), environ_overrides={"SERVER_PORT": "8081"}
    )
    assert answer.status_code == 404


def test_invocation_without_a_name_is_refused_where_there_are_two_models(
    client: FlaskClient, pcam_example: bytes
) -> None:
    answer = client.post("/invocations", data=pcam_example, headers=basic())
    assert (answer.status_code, answer.json["message"]) == (400, "Parameter model_name is required.")


def test_invocation_without_a_name_asks_the_only_model(tmp_path: Path, settings: Settings, pcam_example: bytes) -> None:
    (tmp_path / MODEL).symlink_to(settings.models / MODEL)
    app = create_app(replace(settings, models=tmp_path))
    answer = app.test_client().post("/invocations", data=pcam_example, headers=basic())
    assert answer.json["model"] == MODEL


def test_more_path_is_for_programs_alone(client: FlaskClient, pcam_example: bytes) -> None:
    answer = client.post(f"/predictions/{MODEL}/1.0/more", data=pcam_example, headers=basic())
    assert (answer.status_code, answer.json["type"]) == (404, "ResourceNotFoundException")


def test_options_of_a_model_describe_how_it_is_asked(client: FlaskClient) -> None:
    answer = client.options(f"/predictions/{MODEL}", headers=basic())
    assert answer.json["info"]["title"] == f"RESTful API for: {MODEL}"
    assert list(answer.json["paths"]) == [f"/predictions/{MODEL}"]
    assert client.options("/predictions/nope", headers=basic()).status_code == 404
    assert client.options(f"/predictions/{MODEL}").status_code == 401
