"""TorchServe's management calls: texts, statuses, the order of keys, and who may do what."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.api.management.management_shapes import make_registered_list
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.state.store_access import StoreAccess
from app.users import USERS_FILE
from tests.api.test_openapi import read_document, validate_answer
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic, find_first_versions

NAME = "pcam-classification"
MANAGE = basic(MANAGER, MANAGER_PASSWORD)
DOCUMENT = read_document()
KEYS = """
modelName modelVersion modelUrl runtime minWorkers maxWorkers batchSize maxBatchDelay
responseTimeout startupTimeout maxRetryTimeoutInSec clientTimeoutInMills parallelType
parallelLevel deviceType continuousBatching useJobTicket useVenv stateful sequenceMaxIdleMSec
sequenceTimeoutMSec maxNumSequence maxSequenceJobQueueSize loadedAtStartup workers
jobQueueStatus
""".split()  # noqa: SIM905  # a list of them fills the screen


class Manager:
    """Calls the management address as a user who may do everything, and checks each answer with the document."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self.client: FlaskClient = app.test_client()
        self.settings = settings

    def call(self, method: str, path: str, **more: Any) -> TestResponse:
        more = {"headers": MANAGE, "environ_overrides": {"SERVER_PORT": "8081"}} | more
        answer = self.client.open(path, method=method, **more)
        parts = path.split("?", maxsplit=1)[0].strip("/").split("/")
        names = dict(zip(range(1, 3), ("{model_name}", "{version}"), strict=False))
        rule = "/" + "/".join(names.get(number, part) for number, part in enumerate(parts))
        validate_answer(DOCUMENT, rule, answer)
        return answer

    def status(self, method: str, path: str, **more: Any) -> tuple[int, str]:
        answer = self.call(method, path, **more)
        document = answer.json
        return answer.status_code, document.get("status") or document["type"] + ": " + document["message"]

    def versions(self) -> dict[str, dict[str, Any]]:
        return {each["modelVersion"]: each for each in self.call("GET", f"/models/{NAME}/all").json}


@pytest.fixture
def manager(tmp_path: Path, instance: Path) -> Iterator[Manager]:
    """An app of its own with pcam-classification 1.0, and 2.0 in the store's folder."""
    yield from serve(tmp_path, instance)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, instance: Path) -> Iterator[Manager]:
    """The same for tests that change nothing."""
    yield from serve(tmp_path_factory.mktemp("shared"), instance)


def serve(folder: Path, known: Path) -> Iterator[Manager]:
    shutil.copytree(find_first_versions() / NAME, folder / "models" / NAME)
    shutil.copytree(PROJECT_ROOT / "models" / NAME / "1.0", folder / "store/two")
    manifest = folder / "store/two/model.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.0"', 'version = "2.0"'))
    instance = folder / "instance"
    instance.mkdir()
    shutil.copy(known / USERS_FILE, instance)
    settings = Settings(models=folder / "models", instance=instance, store=folder / "store")
    app = create_app(settings)
    yield Manager(app, settings)
    services = app.extensions["scancer"]
    services.follower.close()


def entries(count: int) -> list[Any]:
    """Entries of so many models, as far as a list needs them."""

    class Entry:
        def __init__(self, number: int) -> None:
            self.folder = type("Folder", (), {"name": f"m{number}"})
            self.wanted = type("Wanted", (), {"url": f"u{number}"})

    return [Entry(number) for number in range(count)]


@pytest.mark.parametrize(
    "count, limit, token, names, following",
    [
        (3, 100, 0, ["m0", "m1", "m2"], None),
        (3, 2, 0, ["m0", "m1"], "2"),
        (3, 2, 2, ["m2"], None),
        (3, 3, 0, ["m0", "m1", "m2"], "3"),  # also exactly at the end
        (3, 100, 3, [], None),
        (3, 100, 99, [], None),
        (3, 0, 0, [], "0"),
        (120, -1, 0, [f"m{number}" for number in range(100)], "100"),
        (120, 101, 0, [f"m{number}" for number in range(100)], "100"),
        (3, 2, -5, ["m0", "m1"], "2"),
    ],
)
def test_pages_are_those_of_torchserve(
    count: int, limit: int, token: int, names: list[str], following: str | None
) -> None:
    page = make_registered_list(entries(count), limit, token)
    assert [each["modelName"] for each in page["models"]] == names
    assert page.get("nextPageToken") == following
    assert list(page) == (["nextPageToken", "models"] if following else ["models"])


def test_list_and_description_have_torchserves_shape_on_its_port_alone(shared: Manager) -> None:
    answer = shared.call("GET", "/models?limit=nonsense")
    assert answer.get_data(as_text=True) == (
        '{\n  "models": [\n    {\n      "modelName": "pcam-classification",\n'
        '      "modelUrl": "pcam-classification/1.0"\n    }\n  ]\n}\n'
    )
    described = shared.call("GET", f"/models/{NAME}").json
    assert [list(each) for each in described] == [KEYS]
    worker = described[0]["workers"][0]
    assert list(worker) == ["id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage"]
    assert (worker["id"], worker["status"]) == ("9000", "READY")
    assert worker["memoryUsage"] > 50_000_000
    assert described[0]["jobQueueStatus"] == {"remainingCapacity": 16, "pendingRequests": 0}
    elsewhere = {"environ_overrides": {"SERVER_PORT": "8080"}}
    assert shared.call("GET", "/models", **elsewhere).json["models"][0]["name"] == NAME
    assert shared.call("GET", f"/models/{NAME}", **elsewhere).json["default_version"] == "1.0"
    page = shared.client.get(
        "/models", headers=MANAGE | {"Accept": "text/html"}, environ_overrides={"SERVER_PORT": "8081"}
    )
    assert page.mimetype == "text/html"


def test_customized_description_holds_ours(manager: Manager) -> None:
    described = manager.call("GET", f"/models/{NAME}?customized=true").json[0]
    assert list(described) == [*KEYS, "customizedMetadata"]
    assert described["customizedMetadata"]["output"]["classes"] == ["normal", "metastatic"]
    assert "customizedMetadata" not in manager.call("GET", f"/models/{NAME}?customized=nonsense").json[0]
    manager.call("PUT", f"/models/{NAME}?min_worker=0&synchronous=true")
    assert manager.status("GET", f"/models/{NAME}?customized=true") == (
        503,
        f'ServiceUnavailableException: Model "{NAME}" has no worker to serve describe request. '
        "Please use scale workers API to add workers.",
    )


def test_life_of_a_version(manager: Manager, pcam_example: bytes) -> None:
    def answering() -> tuple[int, str]:
        answer = manager.client.put(f"/predictions/{NAME}", data=pcam_example, headers=MANAGE)
        return answer.status_code, answer.json.get("version") or answer.json["message"]

    assert manager.status("POST", "/models?url=two") == (
        200,
        f'Model "{NAME}" Version: 2.0 registered with 0 initial workers. '
        "Use scale workers API to add workers for the model.",
    )
    assert manager.versions()["2.0"]["minWorkers"] == 0
    assert manager.versions()["2.0"]["workers"] == []
    assert manager.status("POST", "/models?url=two") == (
        409,
        f"ConflictStatusException: Model version 2.0 is already registered for model {NAME}",
    )
    assert manager.status("PUT", f"/models/{NAME}/2.0?min_worker=3&synchronous=TRUE") == (
        200,
        f"Workers scaled to 3 for model: {NAME}, version: 2.0",
    )
    assert answering() == (200, "1.0")
    assert manager.status("PUT", f"/models/{NAME}/2.0/set-default") == (
        200,
        f'Default version successfully updated for model "{NAME}" to "2.0"',
    )
    assert answering() == (200, "2.0")
    assert manager.status("DELETE", f"/models/{NAME}") == (
        403,
        f"InvalidModelVersionException: Cannot remove default version for model {NAME}",
    )
    assert manager.status("PUT", f"/models/{NAME}?min_worker=0&synchronous=true") == (
        200,
        f"Workers scaled to 0 for model: {NAME}",
    )
    status, text = answering()
    assert (status, text.split(". ")[0]) == (503, f'Model "{NAME}" has no worker to serve inference request')
    assert manager.client.get("/ping").status_code == 200
    assert manager.status("DELETE", f"/models/{NAME}/1.0") == (200, f'Model "{NAME}" unregistered')
    assert manager.status("DELETE", f"/models/{NAME}") == (200, f'Model "{NAME}" unregistered')
    assert manager.call("GET", "/models").json == {"models": []}
    assert sorted(path.name for path in (manager.settings.models / NAME).iterdir()) == ["1.0"]


def test_links_from_a_versions_card_lead_to_that_version(manager: Manager, pcam_example: bytes) -> None:
    def answer_at(url: str) -> str:
        version: str = manager.client.put(url, data=pcam_example, headers=MANAGE).json["version"]
        return version

    manager.call("POST", "/models?url=two&initial_workers=1&synchronous=true")
    for default, other in (("1.0", "2.0"), ("2.0", "1.0")):
        manager.call("PUT", f"/models/{NAME}/{default}/set-default")
        for version, chosen in ((default, ""), (other, f"/{other}")):
            path = f"/models/{NAME}/{version}"
            card = manager.client.get(path, headers=MANAGE).json
            assert card["predict_url"] == f"/predictions/{NAME}{chosen}"
            assert answer_at(card["predict_url"]) == version
            assert {url.rpartition("/")[0] for url in card["examples"]} == {f"/models/{NAME}{chosen}/examples"}
            assert manager.client.get(card["examples"][0], headers=MANAGE, buffered=True).status_code == 200
            page = manager.client.get(path, headers=MANAGE | {"Accept": "text/html"}).text
            assert f"localhost{card['predict_url']} -T" in page
            assert all(f'src="{url}"' in page for url in card["examples"])


def test_broken_folder_put_there_meanwhile_takes_no_server_out(manager: Manager) -> None:
    folder = manager.settings.models / "broken-x/1.0"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('name = "broken"')
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        shown = manager.client.get("/models/broken-x", headers=MANAGE).json
        if shown.get("state", "LOADING") != "LOADING":
            break
        time.sleep(0.1)
    ready = manager.client.get("/health/ready")
    assert (ready.status_code, ready.json) == (
        200,
        {"ready": True, "models": {"broken-x": {"1.0": "UNAVAILABLE"}, NAME: {"1.0": "READY"}}},
    )
    assert [manager.client.get(path).status_code for path in ("/ping", "/v2/health/ready")] == [200, 200]
    later = create_app(manager.settings)  # it was there when this one started
    assert [later.test_client().get(path).status_code for path in ("/ping", "/v2/health/ready")] == [500, 503]
    later.extensions["scancer"].follower.close()


def test_parameters_may_come_as_json(manager: Manager) -> None:
    wish = {"url": "two", "model_name": "my-model", "initial_workers": 1, "batch_size": 5, "max_batch_delay": "60"}
    assert manager.status("POST", "/models", json={**wish, "response_timeout": 7, "synchronous": True}) == (
        200,
        'Model "my-model" Version: 2.0 registered with 1 initial workers',
    )
    described = manager.call("GET", "/models/my-model").json[0]
    told = {key: described[key] for key in ("modelUrl", "batchSize", "maxBatchDelay", "responseTimeout")}
    assert told == {"modelUrl": "two", "batchSize": 5, "maxBatchDelay": 60, "responseTimeout": 7}
    assert (described["minWorkers"], described["loadedAtStartup"]) == (1, False)


def test_call_that_is_not_synchronous_answers_202(manager: Manager) -> None:
    assert manager.status("POST", "/models?url=two&initial_workers=1&synchronous=no") == (
        202,
        "Processing worker updates...",
    )
    assert manager.status("PUT", f"/models/{NAME}") == (202, "Processing worker updates...")


@pytest.mark.parametrize(
    "method, path, status, text",
    [
        ("POST", "/models", 400, "BadRequestException: Parameter url is required."),
        ("POST", "/models?url=a&runtime=python4", 400, "BadRequestException: Invalid RuntimeType value: python4"),
        ("POST", "/models?url=", 404, "ModelNotFoundException: empty url"),
        ("POST", "/models?url=f.mar", 404, "ModelNotFoundException: Model not found at: f.mar"),
        ("POST", "/models?url=/etc", 404, "ModelNotFoundException: Model not found at: /etc"),
        (
            "POST",
            "/models?url=../f.mar",
            404,
            "ModelNotFoundException: Relative path is not allowed in url: ../f.mar",
        ),
        (
            "POST",
            "/models?url=https://a.org/b.mar",
            404,
            "ModelNotFoundException: Given URL https://a.org/b.mar does not match any allowed URL(s)",
        ),
        (
            "POST",
            "/models?url=https://a.org/../b.mar",
            404,
            "ModelNotFoundException: Relative path is not allowed in url: https://a.org/../b.mar",
        ),
        ("GET", "/models/nope", 404, "ModelNotFoundException: Model not found: nope"),
        ("GET", "/models/nope/all", 404, "ModelNotFoundException: Model not found: nope"),
        (
            "GET",
            f"/models/{NAME}/9",
            404,
            f"ModelVersionNotFoundException: Model version: 9 does not exist for model: {NAME}",
        ),
        ("PUT", "/models/nope", 404, "ModelNotFoundException: Model not found: nope"),
        (
            "PUT",
            f"/models/{NAME}?model_version=9",
            404,
            f"ModelVersionNotFoundException: Model version: 9 does not exist for model: {NAME}",
        ),
        (
            "PUT",
            f"/models/{NAME}?min_worker=2&max_worker=1",
            400,
            "BadRequestException: max_worker cannot be less than min_worker.",
        ),
        ("PUT", f"/models/{NAME}?min_worker=-1", 400, "BadRequestException: min_worker cannot be less than 0."),
        ("PUT", "/models/nope/1/set-default", 404, "ModelNotFoundException: Model not found: nope"),
        (
            "PUT",
            f"/models/{NAME}/0.0/set-default",
            404,
            f"ModelVersionNotFoundException: Model version 0.0 does not exist for model {NAME}",
        ),
        ("DELETE", "/models/nope", 404, "ModelNotFoundException: Model not found: nope"),
        (
            "DELETE",
            f"/models/{NAME}/9",
            404,
            f"ModelVersionNotFoundException: Model version: 9 does not exist for model: {NAME}",
        ),
    ],
)
def test_errors_are_torchserves(shared: Manager, method: str, path: str, status: int, text: str) -> None:
    assert shared.status(method, path) == (status, text)
    assert list(shared.versions()) == ["1.0"]


@pytest.mark.slow
def test_model_that_cannot_be_loaded_is_not_registered(manager: Manager) -> None:
    compiled = manager.settings.store / "two/compiled/model.xml"
    report = manager.settings.store / "two/compiled/report.json"
    shutil.rmtree(compiled.parent)
    text = (manager.settings.store / "two/model.toml").read_text()
    (manager.settings.store / "two/model.toml").write_text(text.replace("efficientnet_lite0", "efficientnet_lite9"))
    assert not report.exists()
    assert manager.status("POST", "/models?url=two&initial_workers=1") == (
        500,
        f"InternalServerException: Failed to start workers for model {NAME} version: 2.0",
    )
    assert list(manager.versions()) == ["1.0"]
    assert [path.name for path in (manager.settings.models / NAME).iterdir()] == ["1.0"]


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda folder: (folder / "model.toml").unlink(), "two is not a model folder: it has no model.toml"),
        (
            lambda folder: (folder / "model.toml").write_text("="),
            "model.toml is not TOML: Invalid statement (at line 1, column 1)",
        ),
        (
            lambda folder: (folder / "link").symlink_to("/etc/passwd"),
            "two holds a link, a pipe or a device; only plain files are allowed",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
            "model.safetensors is not the file that the manifest's sha256 names",
        ),
    ],
    ids=["no manifest", "broken manifest", "a link", "another artifact"],
)
def test_folder_that_is_no_model_is_refused_and_leaves_nothing(manager: Manager, damage: Any, reason: str) -> None:
    damage(manager.settings.store / "two")
    before = sorted(manager.settings.models.rglob("*"))
    assert manager.status("POST", "/models?url=two") == (400, f"InvalidModelException: {reason}")
    assert sorted(manager.settings.models.rglob("*")) == before


def test_changes_need_the_role_and_no_page_of_another_site(manager: Manager) -> None:
    for method, path in (
        ("POST", "/models?url=two"),
        ("PUT", f"/models/{NAME}?min_worker=0"),
        ("PUT", f"/models/{NAME}/1.0/set-default"),
        ("DELETE", f"/models/{NAME}/1.0"),
    ):
        assert manager.call(method, path, headers={}).status_code == 401
        assert manager.call(method, path, headers=basic()).status_code == 403
        origins = (
            "http://evil.example",
            "http://localhost.evil.example",
            "http://[",
            "//[",
            "null",
            "localhost",
            "\xff",
        )
        for header in ({"Sec-Fetch-Site": "cross-site"}, *({"Origin": origin} for origin in origins)):
            assert manager.call(method, path, headers=MANAGE | header).status_code == 403
        elsewhere = manager.call(method, path, environ_overrides={"SERVER_PORT": "8080"})
        # There the paths but one are also those of descriptions.
        expected = (404, "ResourceNotFound") if path.endswith("default") else (405, "MethodNotAllowed")
        assert (elsewhere.status_code, elsewhere.json["type"]) == (expected[0], expected[1] + "Exception")
    with closing(StoreAccess(manager.settings)) as access:
        assert access.read_generation() == 0  # nothing was ever changed


def test_changes_are_taken_from_a_page_of_this_site(manager: Manager) -> None:
    own = MANAGE | {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert manager.call("DELETE", "/models/absent-model/1.0", headers=own).status_code == 404


def test_document_is_sent_for_a_model(shared: Manager) -> None:
    assert (
        shared.client.open(
            f"/models/{NAME}", method="OPTIONS", headers=MANAGE, environ_overrides={"SERVER_PORT": "8081"}
        ).json
        == read_document()
    )


def test_with_auth_off_nobody_is_asked(manager: Manager, tmp_path: Path) -> None:
    app = create_app(Settings(models=manager.settings.models, instance=tmp_path / "other", auth="off"))
    client = app.test_client()
    assert client.get("/models").status_code == 200
    there = {"SERVER_PORT": "8081"}
    assert client.put(f"/models/{NAME}", environ_overrides=there).status_code == 202
    services = app.extensions["scancer"]
    services.follower.close()
