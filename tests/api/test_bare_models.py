"""An artifact alone in a form of `POST /models`, with its manifest; ONNX, since that is compiled in half a second."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.api.request.services import EXTENSION, Services
from app.config.settings import Settings
from tests.engines.programs import MANIFEST, PROGRAMS, write_folder, write_onnx

pytestmark = pytest.mark.slow

TEXT = MANIFEST.format(framework="onnx", file="network.onnx")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_onnx(tmp_path_factory.mktemp("artifact")).read_bytes()


class Server:
    """A server without models, which trusts every program or none."""

    def __init__(self, folder: Path, programs: str) -> None:
        (folder / "models").mkdir()
        self.settings = replace(Settings(), models=folder / "models", instance=folder / "instance", auth="off")
        self.settings = replace(self.settings, programs=programs, store=folder / "store")
        app = create_app(self.settings)
        self.client: FlaskClient = app.test_client()
        self.services: Services = app.extensions[EXTENSION]

    def post(self, path: str = "/models?initial_workers=1", **form: Any) -> TestResponse:
        return self.client.post(path, data=form, environ_overrides={"SERVER_PORT": "8081"})

    def close(self) -> None:
        self.services.follower.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, "all")
    yield found
    found.close()


@pytest.fixture
def careful(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, "off")
    yield found
    found.close()


def file(content: bytes, name: str) -> tuple[io.BytesIO, str]:
    return io.BytesIO(content), name


@pytest.mark.parametrize("way", ["a field", "a file"])
def test_artifact_with_its_manifest_is_registered_and_answers(
    server: Server, artifact: bytes, pcam_example: bytes, way: str
) -> None:
    manifest = TEXT if way == "a field" else file(TEXT.encode(), "anything.toml")
    answer = server.post(model=file(artifact, "anything.bin"), manifest=manifest)
    assert (answer.status_code, answer.json) == (
        200,
        {"status": 'Model "tiny-programs" Version: 1.0 registered with 1 initial workers'},
    )
    prediction = server.client.put("/predictions/tiny-programs", data=pcam_example)
    assert prediction.json is not None
    assert prediction.json["class"] in ("benign", "malignant")


@pytest.mark.parametrize(
    "manifest, reason",
    [
        (None, "model comes without a manifest; name one"),
        ("", "model.toml: framework is missing"),
        (TEXT.replace("32", "64"), "takes [1, 3, 32, 32], and not [N, 3, 64, 64]"),
        (file(b"\xff", "m.toml"), "The manifest is not UTF-8 text."),
        (file(b" " * 65_537, "m.toml"), "The manifest is larger than 65536 bytes."),
    ],
    ids=["none", "empty", "of another network", "no text", "too large"],
)
def test_artifact_is_refused_with_the_reason_and_nothing_is_left(
    server: Server, artifact: bytes, manifest: Any, reason: str
) -> None:
    form = {"model": file(artifact, "m.onnx")} | ({} if manifest is None else {"manifest": manifest})
    answer = server.post(**form)
    assert answer.status_code == 400
    assert answer.json is not None
    assert reason in answer.json["message"]
    assert list(server.settings.models.iterdir()) == []


def test_program_is_not_registered_where_none_is_trusted(careful: Server, artifact: bytes) -> None:
    answer = careful.post(model=file(artifact, "m.onnx"), manifest=TEXT)
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["message"].startswith("model is an ONNX model, which is not taken: loading it can run code")
    shutil.copytree(write_folder(careful.settings.store, *PROGRAMS["ONNX"]), careful.settings.store / "brought")
    answer = careful.post("/models?url=brought&initial_workers=1")
    assert (answer.status_code, answer.json and answer.json["type"]) == (400, "InvalidModelException")
    assert answer.json is not None
    assert "SCANCER_PROGRAMS=all trusts every one" in answer.json["message"]
    assert list(careful.settings.models.iterdir()) == []
