"""Requests of a user who may manage, made up from the document: each answer is as documented, the server lives on."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from schemathesis.config import SchemathesisConfig

from app.config.setting_types import PROJECT_ROOT
from app.state.worker_reports import read_reports
from tests.api.test_openapi import CHECKS, CONFIG, FRAMING, list_operations, read_document
from tests.conftest import MANAGER, MANAGER_PASSWORD, LiveServer, basic, copy_users

NAME = "pcam-classification"
VERSIONS = ("1.0", "1.1", "1.2", "1.3")
SOURCES = (
    "new",
    "broken",
    "absent",
    "../models",
    "new.zip",
    "http://127.0.0.1:9/model.mar",
    "file:///etc/passwd",
    "a" * 300,
)
NUMBERS = (-1, 0, 1, 2, 64, 2_000_000_000, 2**63)
EXAMPLES = 60
MEMORY_BYTES = 6 * 2**30
"""Address space of each of the server's processes: a number that is believed too early ends in a MemoryError."""
MANAGED = [
    path
    for path, _, operation in list_operations(read_document())
    if operation["tags"] == ["Management"] or path.startswith("/v2/repository")
]


def load_schema() -> schemathesis.BaseSchema:
    """The management API, with names of models, versions and sources of which many are right."""
    document = read_document()
    document["paths"] = {path: item for path, item in document["paths"].items() if path in MANAGED}
    parameters = document["components"]["parameters"]
    parameters["ModelName"]["schema"] = {"type": "string", "enum": [NAME, "no-model"]}
    parameters["Version"]["schema"] = {"type": "string", "enum": [*VERSIONS, "none"]}
    parameters["Url"]["schema"] = {"type": "string", "enum": [*SOURCES]}
    for name in ("MinWorker", "MaxWorker", "InitialWorkers", "BatchSize", "MaxBatchDelay"):
        parameters[name]["schema"] = {"type": "integer", "enum": [*NUMBERS]}
    config = {**CONFIG, "generation": {**CONFIG["generation"], "max-examples": EXAMPLES}}
    return schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(config))


def make_version(folder: Path, version: str) -> None:
    """Lay out a version of the shipped model."""
    shutil.copytree(PROJECT_ROOT / "models" / NAME / "1.0", folder)
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.0"', f'version = "{version}"'))


def count_served(live: LiveServer) -> int:
    """How many of the versions every worker serves."""
    wanted = {f"{NAME}/{version}" for version in VERSIONS}
    return min(len(wanted & report.states.keys()) for report in read_reports(live.instance))


def register(live: LiveServer, source: str) -> requests.Response:
    address = f"{live.management}/models?url={source}&initial_workers=1&synchronous=true"
    return requests.post(address, auth=(MANAGER, MANAGER_PASSWORD), timeout=120)


def put_back(live: LiveServer) -> None:
    """Register the versions anew that were deleted, since most of what is asked needs one."""
    for version in VERSIONS:
        answer = register(live, version)
        assert answer.status_code in (200, 409), answer.text


@pytest.fixture(scope="module")
def live(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server to be spoiled, with models, a store and users of its own and little memory."""
    folder = tmp_path_factory.mktemp("managed")
    make_version(folder / "models" / NAME / "1.0", "1.0")
    for version in VERSIONS:
        make_version(folder / "store" / version, version)
    make_version(folder / "store/new", "2.0")
    make_version(folder / "store/broken", "3.0")
    (folder / "store/broken/model.safetensors").unlink()
    copy_users(instance, folder / "instance")
    settings = {"models": folder / "models", "store": folder / "store", "workers": 2}
    environment = {f"SCANCER_{name.upper()}": str(value) for name, value in settings.items()}
    server = LiveServer(folder / "instance", folder / "log", environment)
    try:
        server.launch()
        assert server.process is not None
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        server.wait_until_answered("/health/ready")
        yield server
    finally:
        server.stop()


api = load_schema()


@api.parametrize()
def test_every_answer_to_a_manager_is_as_documented(case: schemathesis.Case, live: LiveServer) -> None:
    base_url = live.management if case.path.startswith("/models") else live.inference
    if count_served(live) < 2:
        put_back(live)
    for name in FRAMING & {name.lower() for name in case.headers}:  # made up ones are refused before there is a path
        case.headers.pop(name)
    answer = case.call(base_url=base_url, headers=basic(MANAGER, MANAGER_PASSWORD), timeout=120)
    case.validate_response(answer, checks=CHECKS)


def test_server_that_was_asked_all_this_takes_a_model_and_answers(live: LiveServer, pcam_example: bytes) -> None:
    make_version(Path(live.environment["SCANCER_STORE"]) / "last", "9.0")
    answer = register(live, "last")
    assert answer.status_code == 200, answer.text
    address, auth = f"{live.inference}/predictions/{NAME}/9.0", (MANAGER, MANAGER_PASSWORD)
    answer = requests.put(address, data=pcam_example, auth=auth, timeout=30)
    assert answer.status_code == 200, answer.text
    assert "Traceback" not in live.log.read_text()
