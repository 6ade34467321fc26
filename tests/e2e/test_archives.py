"""Archives in the store's folder, registered with a real server: TorchServe's, and packed model folders."""

import json
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.exchange.packing import pack_model
from app.repository.model_folder import ModelFolder
from app.users import UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, LiveServer
from tests.handlers.archives import make_archive, make_config, make_tiny
from tests.repository.test_signing import make_key
from tests.test_cli import flask

AUTH = (MANAGER, MANAGER_PASSWORD)
CONFIGURED = {"modelName": "configured", "modelVersion": "1.0", "handler": "count.py", "configFile": "c.yaml"}
HANDLER = """
import os

def handle(data, context):
    if data is None:
        return None
    return [{"bytes": len(row["body"]), "pid": os.getpid()} for row in data]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's folder with an archive of each kind."""
    folder = tmp_path_factory.mktemp("archives")
    store = folder / "store"
    store.mkdir()
    files: dict[str, str | bytes] = {"count.py": HANDLER, "config.yaml": make_config(maxWorkers=1)}
    made = make_archive(folder / "unpacked", "count_bytes", "count.py", files, config_file="config.yaml")
    (folder / "source-count_bytes/count_bytes.mar").rename(store / "count_bytes.mar")
    assert (made / "MAR-INF/MANIFEST.json").is_file()
    make_tiny(folder / "unpacked", "tiny")
    (folder / "source-tiny/tiny.mar").rename(store / "tiny.mar")
    pack_model(ModelFolder(PROJECT_ROOT / "models/pcam-classification/1.0"), store / "pcam.zip")
    return store


def start(tmp_path: Path, store: Path, programs: str) -> LiveServer:
    (tmp_path / "models").mkdir()
    instance = tmp_path / "instance"
    instance.mkdir()
    UsersFile(instance).add(MANAGER, "manage", MANAGER_PASSWORD)
    settings = {
        "SCANCER_MODELS": str(tmp_path / "models"),
        "SCANCER_STORE": str(store),
        "SCANCER_PROGRAMS": programs,
        "SCANCER_WORKERS": "2",
    }
    return LiveServer(instance, tmp_path / "log", settings).start()


@pytest.fixture
def live(tmp_path: Path, store: Path) -> Iterator[LiveServer]:
    server = start(tmp_path, store, "all")
    yield server
    server.stop()


@pytest.fixture
def careful(tmp_path: Path, store: Path) -> Iterator[LiveServer]:
    server = start(tmp_path, store, "off")
    yield server
    server.stop()


def manage(server: LiveServer, method: str, path: str) -> requests.Response:
    return requests.request(method, server.management + path, auth=AUTH, timeout=120)


def ask(server: LiveServer, name: str, body: bytes = b"12345") -> requests.Response:
    return requests.put(f"{server.inference}/predictions/{name}", data=body, auth=AUTH, timeout=60)


def test_archive_of_torchserve_is_registered_scaled_and_unregistered(live: LiveServer) -> None:
    answer = manage(live, "POST", "/models?url=count_bytes.mar&initial_workers=1&synchronous=true")
    assert (answer.status_code, answer.json()["status"]) == (
        200,
        'Model "count_bytes" Version: 1.0 registered with 1 initial workers',
    )
    for _ in range(4):  # whichever worker is asked
        assert ask(live, "count_bytes").json()["bytes"] == 5
    again = manage(live, "POST", "/models?url=count_bytes.mar")
    assert (again.status_code, again.json()["message"]) == (
        409,
        "Model version 1.0 is already registered for model count_bytes",
    )
    assert manage(live, "PUT", "/models/count_bytes?min_worker=0&synchronous=true").status_code == 200
    refused = ask(live, "count_bytes")
    assert refused.status_code == 503
    assert "has no worker to serve inference request" in refused.json()["message"]
    assert manage(live, "PUT", "/models/count_bytes?min_worker=2&synchronous=true").status_code == 200
    assert ask(live, "count_bytes").status_code == 200
    described = manage(live, "GET", "/models/count_bytes").json()[0]
    assert (described["modelUrl"], described["minWorkers"]) == ("count_bytes.mar", 2)
    assert manage(live, "DELETE", "/models/count_bytes").json()["status"] == 'Model "count_bytes" unregistered'
    assert ask(live, "count_bytes").status_code == 404
    assert manage(live, "POST", "/models?url=count_bytes.mar&initial_workers=1").status_code == 200
    assert ask(live, "count_bytes").status_code == 200


def test_archives_own_configuration_says_how_many_workers_unless_the_call_does(live: LiveServer, store: Path) -> None:
    config = {"MAR-INF/MANIFEST.json": json.dumps({"runtime": "python", "model": CONFIGURED}), "count.py": HANDLER}
    with zipfile.ZipFile(store / "configured.mar", "w") as archive:
        for name, text in (config | {"c.yaml": "minWorkers: 2\nmaxWorkers: 3\n"}).items():
            archive.writestr(name, text)
    answer = manage(live, "POST", "/models?url=configured.mar")
    assert answer.json()["status"] == 'Model "configured" Version: 1.0 registered with 2 initial workers'
    described = manage(live, "GET", "/models/configured").json()[0]
    assert (described["minWorkers"], described["maxWorkers"], len(described["workers"])) == (2, 3, 2)
    assert manage(live, "DELETE", "/models/configured").status_code == 200
    answer = manage(live, "POST", "/models?url=configured.mar&initial_workers=0")
    assert answer.json()["status"].startswith('Model "configured" Version: 1.0 registered with 0 initial workers.')


def test_default_classifier_is_compiled_while_it_is_registered_and_others_are_answered(
    live: LiveServer, tmp_path: Path, pcam_example: bytes
) -> None:
    assert manage(live, "POST", "/models?url=count_bytes.mar&initial_workers=1").status_code == 200
    with ThreadPoolExecutor(1) as caller:
        registration = caller.submit(manage, live, "POST", "/models?url=tiny.mar&initial_workers=1&synchronous=true")
        while not registration.done():
            assert ask(live, "count_bytes").status_code == 200
            time.sleep(0.1)
    answer = registration.result()
    assert (answer.status_code, answer.json()["status"]) == (
        200,
        'Model "tiny" Version: 1.0 registered with 1 initial workers',
    )
    answers = [ask(live, "tiny", pcam_example).json() for _ in range(4)]  # whichever worker is asked
    assert answers == [answers[0]] * 4
    assert set(answers[0]) == {"0", "1", "2"}
    described = requests.get(f"{live.inference}/models/tiny", auth=AUTH, timeout=10).json()
    assert (described["engine"], described["not_compiled"]) == ("openvino", None)
    assert manage(live, "PUT", "/models/tiny?min_worker=0&synchronous=true").status_code == 200
    assert "has no worker to serve inference request" in ask(live, "tiny").json()["message"]
    assert manage(live, "PUT", "/models/tiny?min_worker=1&synchronous=true").status_code == 200
    assert ask(live, "tiny", pcam_example).json() == answers[0]
    assert manage(live, "DELETE", "/models/tiny").status_code == 200
    assert ask(live, "tiny").status_code == 404
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["count_bytes"]


def test_packed_model_folder_is_registered_and_answers(live: LiveServer, pcam_example: bytes) -> None:
    answer = manage(live, "POST", "/models?url=pcam.zip&initial_workers=1")
    assert answer.status_code == 200, answer.text
    assert ask(live, "pcam-classification", pcam_example).json()["version"] == "1.0"


def test_programs_are_not_taken_unless_they_are_allowed(careful: LiveServer) -> None:
    answer = manage(careful, "POST", "/models?url=count_bytes.mar&initial_workers=1")
    assert answer.status_code == 400
    assert answer.json()["type"] == "InvalidModelException"
    assert "SCANCER_PROGRAMS=all" in answer.json()["message"]
    assert manage(careful, "GET", "/models").json()["models"] == []


def test_signed_archive_runs_where_programs_are_off(careful: LiveServer, store: Path, tmp_path: Path) -> None:
    key, line = make_key(tmp_path, "publisher")
    (tmp_path / "key.pub").write_text(line)
    where = {"instance": str(careful.instance), "store": str(store), "models": str(tmp_path / "models")}
    assert flask("models", "trust", str(tmp_path / "key.pub"), **where).returncode == 0
    try:
        done = flask("models", "sign", "count_bytes.mar", "--key", str(key), **where)
        assert (done.stdout, done.stderr) == ("signed count_bytes.mar: count_bytes/1.0\n", "")
        verified = flask("models", "verify", "count_bytes.mar", **where)
        assert verified.stdout == "ok count_bytes.mar: count_bytes/1.0, signed by publisher\n"
        answer = manage(careful, "POST", "/models?url=count_bytes.mar&initial_workers=1")
        assert answer.status_code == 200, answer.text
        assert ask(careful, "count_bytes").json()["bytes"] == 5
        assert flask("models", "verify", "count_bytes", **where).stdout == "ok count_bytes/1.0: signed by publisher\n"
    finally:
        (store / "count_bytes.mar.signature.json").unlink(missing_ok=True)
