"""Loading and unloading by the Open Inference Protocol: `tritonclient` and a real server of two workers."""

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import requests
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from app.config.setting_types import PROJECT_ROOT
from app.users import UsersFile
from tests.api.test_openapi import read_document, validate
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer

MODEL = "pcam-classification"
AUTH = (MANAGER, MANAGER_PASSWORD)
NO_WORKER = f'Model "{MODEL}" has no worker to serve inference request.'


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of its own with two versions of one model."""
    folder = tmp_path_factory.mktemp("repository")
    for version in ("1.0", "2.0"):
        target = folder / "models" / MODEL / version
        shutil.copytree(PROJECT_ROOT / "models" / MODEL / "1.0", target)
        manifest = target / "model.toml"
        manifest.write_text(manifest.read_text().replace('version = "1.0"', f'version = "{version}"'))
    instance = folder / "instance"
    instance.mkdir()
    UsersFile(instance).add(MANAGER, "manage", MANAGER_PASSWORD)
    UsersFile(instance).add(USER, "predict", PASSWORD)
    settings = {"SCANCER_MODELS": str(folder / "models"), "SCANCER_WORKERS": "2"}
    server = LiveServer(instance, folder / "log", settings).start()
    yield server
    server.stop()


def connect(url: str, user: str = MANAGER, password: str = MANAGER_PASSWORD) -> InferenceServerClient:
    client = InferenceServerClient(url.removeprefix("http://"))
    client.register_plugin(BasicAuth(user, password))
    return client


def states(client: InferenceServerClient) -> list[tuple[str, str]]:
    return [(entry["version"], entry["state"]) for entry in client.get_model_repository_index()]


def infer(client: InferenceServerClient, picture: bytes) -> np.ndarray:
    tensor = InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[picture]], dtype=np.object_))
    labels: np.ndarray = client.infer(MODEL, [tensor]).as_numpy("label")
    return labels


@pytest.mark.parametrize("address", ["inference", "management"])
def test_model_that_is_unloaded_answers_503_everywhere_until_it_is_loaded(
    live: LiveServer, address: str, pcam_example: bytes
) -> None:
    with connect(getattr(live, address)) as client, connect(live.inference) as asking:
        assert "model_repository" in client.get_server_metadata()["extensions"]
        client.unload_model(MODEL)
        for _ in range(6):  # whichever worker is asked
            assert not client.is_model_ready(MODEL)
            assert not client.is_model_ready(MODEL, "1.0")
            assert states(client) == [("1.0", "UNAVAILABLE"), ("2.0", "UNAVAILABLE")]
            with pytest.raises(InferenceServerException) as caught:
                infer(asking, pcam_example)
            assert caught.value.status() == "503"
            assert caught.value.message().startswith(NO_WORKER)
        assert client.is_server_ready()  # what is not wanted is not missing
        client.load_model(MODEL)
        for _ in range(6):
            assert client.is_model_ready(MODEL)
            assert client.is_model_ready(MODEL, "1.0")
            assert states(client) == [("1.0", "READY"), ("2.0", "READY")]
            assert infer(asking, pcam_example).shape == (1,)


def test_what_is_loaded_may_be_loaded_again(live: LiveServer) -> None:
    with connect(live.inference) as client:
        client.load_model(MODEL)
        assert client.is_model_ready(MODEL)


def test_user_without_the_role_changes_nothing(live: LiveServer) -> None:
    with connect(live.inference, USER, PASSWORD) as client:
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="lacks the role") as caught:
                call(MODEL)
            assert caught.value.status() == "403"
        assert client.is_model_ready(MODEL)


def test_page_of_another_site_changes_nothing(live: LiveServer) -> None:
    url = f"{live.inference}/v2/repository/models/{MODEL}/unload"
    for header in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = requests.post(url, headers=header, auth=AUTH, timeout=10)
        assert (answer.status_code, list(answer.json())) == (403, ["error"])
    assert (
        requests.post(f"{live.metrics}/v2/repository/models/{MODEL}/unload", auth=AUTH, timeout=10).status_code == 404
    )


def test_unknown_model_and_configurations_are_refused(live: LiveServer) -> None:
    with connect(live.inference) as client:
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="Model not found: no-model") as caught:
                call("no-model")
            assert caught.value.status() == "404"
        for more in ({"config": "{}"}, {"config": "{}", "files": {"file:1/model.onnx": b"x"}}):
            with pytest.raises(InferenceServerException, match="loaded as it is registered") as caught:
                client.load_model(MODEL, **more)
            assert caught.value.status() == "400"


@pytest.mark.parametrize("word", ["load", "unload"])
def test_answers_are_as_documented(live: LiveServer, word: str) -> None:
    document = read_document()
    responses = document["paths"][f"/v2/repository/models/{{model_name}}/{word}"]["post"]["responses"]
    for body, status in ((b"{}", 200), (b"", 200), (b"[]", 400), (b"{", 400)):
        answer = requests.post(
            f"{live.inference}/v2/repository/models/{MODEL}/{word}", data=body, auth=AUTH, timeout=60
        )
        assert answer.status_code == status
        assert str(status) in responses
        if status == 200:
            validate(document, responses["200"]["content"]["application/json"]["schema"], answer.json())
