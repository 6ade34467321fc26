"""What a registration says of an archive's handler, and what is left of one that fails."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic
from tests.handlers.fixtures import ServeArchives

ANSWERING = """
def {function}(data, context):
    return None if data is None else [context.manifest["model"]["handler"]] * len(data)
"""
SLOW = """
import time

def handle(data, context):
    if data is None:
        return time.sleep(3)
    return ["slow"] * len(data)
"""
FILES = {"first.py": ANSWERING.format(function="handle"), "second.py": ANSWERING.format(function="entry")}


def pack(file: Path, handler: str, files: dict[str, str]) -> None:
    model = {"modelName": file.stem, "modelVersion": "1.0", "handler": handler}
    manifest = {"MAR-INF/MANIFEST.json": json.dumps({"runtime": "python", "model": model})}
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (manifest | files).items():
            archive.writestr(name, text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, serve_archives: ServeArchives) -> FlaskClient:
    """Serve no model; archives and a model folder lie in the store."""
    folder = tmp_path_factory.mktemp("registered")
    for name in ("models", "store"):
        (folder / name).mkdir()
    pack(folder / "store/two.mar", "first.py", FILES)
    pack(folder / "store/signed.mar", "first.py", FILES | {"signature.json": "{}"})
    pack(folder / "store/slow.mar", "slow.py", {"slow.py": SLOW})
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification/1.0", folder / "store/pcam")
    return serve_archives(folder / "models", store=folder / "store").test_client()


def manage(server: FlaskClient, method: str, path: str) -> tuple[int, str]:
    headers = basic(MANAGER, MANAGER_PASSWORD)
    answer: Any = server.open(path, method=method, headers=headers, environ_overrides={"SERVER_PORT": "8081"})
    return answer.status_code, answer.json.get("status") or answer.json["message"]


def ask(server: FlaskClient, name: str) -> str:
    return server.put(f"/predictions/{name}", data=b"x", headers=basic()).get_data(as_text=True)


def list_models(server: FlaskClient) -> list[str]:
    listed = server.get("/models", headers=basic()).json
    assert listed is not None
    return [model["name"] for model in listed["models"]]


@pytest.mark.parametrize("handler", ["", "first", "second.py:entry", "second:entry", "serve/ts/second.py:entry"])
def test_handler_of_the_registration_takes_the_place_of_the_archives(server: FlaskClient, handler: str) -> None:
    assert manage(server, "POST", f"/models?url=two.mar&handler={handler}&initial_workers=1")[0] == 200
    assert ask(server, "two") == (handler or "first.py")
    assert manage(server, "DELETE", "/models/two")[0] == 200


def test_handler_that_cannot_be_loaded_is_registered_and_fails_when_it_is_to_start(server: FlaskClient) -> None:
    assert manage(server, "POST", "/models?url=two.mar&handler=invalidHandler")[0] == 200
    failed = manage(server, "PUT", "/models/two?min_worker=1&synchronous=true")
    assert failed == (500, "Failed to start workers for model two version: 1.0")
    assert manage(server, "DELETE", "/models/two")[0] == 200


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("url=two.mar&handler=invalidHandler&initial_workers=1", 500, "Failed to start workers for model two version"),
        ("url=slow.mar&startup_timeout=1&initial_workers=1", 500, "Failed to start workers for model slow version"),
        ("url=two.mar&startup_timeout=0&initial_workers=1", 400, "startup_timeout=0 is not allowed: it must be a wh"),
        ("url=two.mar&handler=a-b", 400, "handler=a-b is not allowed: it must be NAME, NAME.py or NAME.py:FUNCTION"),
        ("url=two.mar&handler=../first.py", 400, "handler=../first.py is not allowed"),
        ("url=signed.mar&handler=second.py:entry", 400, "the archive is signed together with its handler"),
        ("url=pcam&handler=first.py", 400, "handler is a parameter for TorchServe's archives alone"),
        ("url=two.mar&initial_worker=1", 400, "initial_worker is no parameter of this call; did you mean initial_work"),
        ("url=two.mar&workers=1", 400, "workers is no parameter of this call; did you mean initial_workers?"),
        ("url=two.mar&Handler=second.py", 400, "Handler is no parameter of this call; did you mean handler?"),
        ("url=two.mar&xyz=1", 400, "xyz is no parameter of this call; it knows batch_size, handler, initial_workers, "),
    ],
)
def test_registration_that_fails_leaves_nothing_and_the_next_one_is_taken(
    server: FlaskClient, query: str, status: int, text: str
) -> None:
    answer = manage(server, "POST", f"/models?{query}")
    assert (answer[0], answer[1][: len(text)]) == (status, text)
    assert list_models(server) == []
    name = query.partition("&")[0].removeprefix("url=").removesuffix(".mar")
    if name in ("two", "slow"):
        assert manage(server, "POST", f"/models?url={name}.mar&initial_workers=1")[0] == 200
        assert manage(server, "DELETE", f"/models/{name}")[0] == 200


def test_parameter_that_a_change_does_not_know_changes_nothing(server: FlaskClient) -> None:
    assert manage(server, "POST", "/models?url=two.mar&s3_sse_kms=true")[0] == 200
    for method, path in (
        ("PUT", "/models/two?min_workers=1"),
        ("PUT", "/models/two/1.0/set-default?version=2.0"),
        ("DELETE", "/models/two?force=true"),
    ):
        status, message = manage(server, method, path)
        assert status == 400
        assert message.startswith(f"{path.rpartition('?')[2].partition('=')[0]} is no parameter of this call; ")
    assert list_models(server) == ["two"]
    assert manage(server, "PUT", "/models/two?min_worker=0&number_gpu=1&timeout=0")[0] == 202
    assert manage(server, "DELETE", "/models/two?synchronous=true&timeout=5")[0] == 200


def test_parameter_of_json_that_is_not_known_is_named(server: FlaskClient) -> None:
    headers, port = basic(MANAGER, MANAGER_PASSWORD), {"SERVER_PORT": "8081"}
    answer = server.post("/models", json={"url": "two.mar", "handlers": 1}, headers=headers, environ_overrides=port)
    assert answer.status_code == 400
    assert "handlers is no parameter of this call; did you mean handler?" in answer.get_data(as_text=True)
