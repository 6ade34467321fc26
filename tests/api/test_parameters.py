"""No parameter of a management call, and no number kept from an earlier one, gets past its bounds."""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage

from app import create_app
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.manifest.bounds import BATCH_DELAY_MS, BATCH_SIZE, TIMEOUT_S, UNLOAD_TIMEOUT_S, WORKERS, Bound, show
from app.state.store_access import StoreAccess
from app.users import USERS_FILE
from tests.api.test_management import DOCUMENT, MANAGE, NAME, Manager, serve
from tests.conftest import find_first_versions
from tests.state.old_state import write_old_state

REGISTERING = {
    "initial_workers": WORKERS,
    "batch_size": BATCH_SIZE,
    "max_batch_delay": BATCH_DELAY_MS,
    "response_timeout": TIMEOUT_S,
    "startup_timeout": TIMEOUT_S,
}
SCALING = {"min_worker": WORKERS, "max_worker": WORKERS, "number_gpu": WORKERS, "timeout": UNLOAD_TIMEOUT_S}
TEXTS = ["2000000000", "-1", "1e9", "true", "NaN", "inf", "1.5", "9" * 65, "1" + "0" * 400, "1e400", "١", "two"]
VALUES: list[Any] = [2_000_000_000, -1, 1e9, True, float("nan"), float("inf"), 1.5, "NaN", 10**400, "9" * 65, [1], {}]
BAD = "bad-model"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, instance: Path) -> Iterator[Manager]:
    """A server that no test of this file changes."""
    yield from serve(tmp_path_factory.mktemp("parameters"), instance)


def check_refusal(manager: Manager, answer: tuple[int, str], name: str, bound: Bound) -> None:
    status, text = answer
    assert status == 400
    assert text.startswith(f"BadRequestException: {name}=")
    assert text.endswith(f" is not allowed: it must be a whole number {bound.describe()}")
    assert list(manager.versions()) == ["1.0"]
    with closing(StoreAccess(manager.settings)) as access:
        assert access.read_generation() == 0  # nothing was ever changed


@pytest.mark.parametrize("name", REGISTERING)
@pytest.mark.parametrize("text", TEXTS, ids=show)
def test_registration_refuses_a_number_of_the_query(manager: Manager, name: str, text: str) -> None:
    answer = manager.status("POST", "/models", query_string={"url": "two", name: text})
    check_refusal(manager, answer, name, REGISTERING[name])


@pytest.mark.parametrize("name", REGISTERING)
@pytest.mark.parametrize("value", VALUES, ids=show)
def test_registration_refuses_a_number_of_json(manager: Manager, name: str, value: Any) -> None:
    body = json.dumps({"url": "two", name: value})
    answer = manager.status("POST", "/models", data=body, content_type="application/json")
    check_refusal(manager, answer, name, REGISTERING[name])


@pytest.mark.parametrize("name", REGISTERING)
def test_registration_refuses_a_number_of_a_form(manager: Manager, name: str) -> None:
    file = FileStorage((PROJECT_ROOT / "README.md").open("rb"), "m.mar")
    answer = manager.status("POST", "/models", data={name: "2000000000", "model": file})
    check_refusal(manager, answer, name, REGISTERING[name])


@pytest.mark.parametrize("name", SCALING)
@pytest.mark.parametrize("text", [text for text in TEXTS if text != "-1"], ids=show)
def test_scaling_refuses_a_number(manager: Manager, name: str, text: str) -> None:
    check_refusal(manager, manager.status("PUT", f"/models/{NAME}", query_string={name: text}), name, SCALING[name])


@pytest.mark.parametrize("text", ["-2", *(text for text in TEXTS if text != "-1")], ids=show)
def test_removal_refuses_a_number(manager: Manager, text: str) -> None:
    answer = manager.status("DELETE", f"/models/{NAME}/1.0", query_string={"timeout": text})
    check_refusal(manager, answer, "timeout", UNLOAD_TIMEOUT_S)


@pytest.mark.parametrize("text", ["-0", "-x", "-1", "-01"])
def test_only_a_number_below_0_is_refused_as_one(manager: Manager, text: str) -> None:
    status, message = manager.status("PUT", f"/models/{NAME}?max_worker=x&min_worker={text}")
    assert (status, "less than 0" in message) == (400, "1" in text)


@pytest.mark.parametrize(
    "method, path", [("POST", "/models"), ("PUT", f"/models/{NAME}"), ("DELETE", f"/models/{NAME}")]
)
def test_change_with_a_parameter_twice_is_refused(manager: Manager, method: str, path: str) -> None:
    answer = manager.status(method, f"{path}?synchronous=true&synchronous=true")
    assert answer == (400, "BadRequestException: synchronous is given more than once; give it once.")


def test_form_with_a_field_twice_is_refused(manager: Manager) -> None:
    file = FileStorage((PROJECT_ROOT / "README.md").open("rb"), "m.mar")
    answer = manager.status("POST", "/models", data={"batch_size": ["1", "2"], "model": file})
    assert answer == (400, "BadRequestException: The form gives batch_size more than once; give it once.")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e400", "nan", "inf", "9" * 30, "5,6"], ids=show)
def test_deadline_that_is_no_number_is_refused_with_its_name(manager: Manager, text: str) -> None:
    headers = {**MANAGE, "X-Request-Timeout-Ms": text}
    answer = manager.client.put(f"/predictions/{NAME}", data=b"x", headers=headers)
    message = "is not allowed: it must be a whole number from 0 to 999999999 ms"
    assert (answer.status_code, answer.json["message"]) == (400, f"X-Request-Timeout-Ms={show(text)} {message}")


def test_json_of_thousands_of_digits_is_refused(manager: Manager) -> None:
    body = '{"url": "two", "batch_size": 1' + "0" * 5000 + "}"
    answer = manager.status("POST", "/models", data=body, content_type="application/json")
    assert answer == (400, "BadRequestException: The body is not JSON.")


@pytest.mark.parametrize("text", ["2000000000", "-1", "NaN", "9" * 65])
def test_page_that_is_no_page_is_the_first_as_in_torchserve(manager: Manager, text: str) -> None:
    answer = manager.call("GET", "/models", query_string={"limit": text, "next_page_token": "-1"})
    assert (answer.status_code, len(answer.json["models"])) == (200, 1)


@pytest.mark.parametrize(
    "name, value, most",
    [
        ("url", "a" * 300, 255),
        ("url", "a/" * 2100, 255),
        ("url", "é" * 200, 255),
        ("url", "https://a.org/" + "a" * 9000, 8192),
        ("url", 5, 8192),
        ("url", ["two"], 8192),
        ("url", "\ud800", 8192),
        ("model_name", 5, 255),
        ("model_name", "a" * 300, 255),
        ("model_name", {}, 255),
        ("sha256", 5, 64),
        ("sha256", "a" * 65, 64),
        ("runtime", 5, 255),
    ],
    ids=show,
)
def test_text_that_is_none_or_too_long_is_refused_with_its_name(
    manager: Manager, name: str, value: Any, most: int
) -> None:
    status, text = manager.status("POST", "/models", json={"url": "two", name: value})
    assert (status, text.split("=")[0]) == (400, f"BadRequestException: {name}")
    assert text.endswith(f" is not allowed: it must be a text of at most {most} bytes")
    assert len(text) < 150


def test_empty_parameter_counts_as_absent_and_null_too(manager: Manager) -> None:
    path = "/models?url=nothing&batch_size=&initial_workers="
    assert manager.status("POST", path)[0] == 404
    assert manager.status("POST", path, json={"max_batch_delay": None, "model_name": None})[0] == 404


def test_document_has_the_same_bounds() -> None:
    bounds = REGISTERING | {"min_worker": WORKERS, "max_worker": WORKERS}
    schemas = {each["name"]: each["schema"] for each in DOCUMENT["components"]["parameters"].values()}
    told = {name: (schemas[name]["minimum"], schemas[name]["maximum"]) for name in bounds.keys() & schemas.keys()}
    assert told == {name: bounds[name][:2] for name in told}
    assert len(told) == 7


def test_habits_of_torchserves_clients_are_taken(tmp_path: Path, instance: Path) -> None:
    for manager in serve(tmp_path, instance):
        habits = "batch_size=128&max_batch_delay=5000&response_timeout=1200&startup_timeout=3600&initial_workers=0"
        assert manager.status("POST", f"/models?url=two&{habits}")[0] == 200
        described = manager.versions()["2.0"]
        told = [described[key] for key in ("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout")]
        assert told == [128, 5000, 1200, 3600]


# Numbers that an earlier release kept


def start(folder: Path, known: Path, numbers: dict[str, Any], is_archive: bool = False) -> Flask:
    """Serve pcam-classification beside a model whose numbers an earlier release kept."""
    shutil.copytree(find_first_versions() / NAME, folder / "models" / NAME)
    place = folder / "models" / BAD / "1.0"
    if is_archive:
        (place / "MAR-INF").mkdir(parents=True)
        model = {"modelName": BAD, "modelVersion": "1.0", "handler": "h.py"}
        (place / "MAR-INF/MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
        (place / "h.py").write_text("def handle(data, context):\n    return ['done'] * len(data)\n")
    else:
        shutil.copytree(PROJECT_ROOT / "models" / NAME / "1.0", place)
        text = (place / "model.toml").read_text()
        (place / "model.toml").write_text(text.replace(f'name = "{NAME}"', f'name = "{BAD}"'))
    (folder / "i").mkdir()
    shutil.copy(known / USERS_FILE, folder / "i")
    write_old_state(folder / "i/state.db", {(BAD, "1.0"): numbers, (NAME, "1.0"): {}})
    return create_app(Settings(models=folder / "models", instance=folder / "i", programs="all"))


def stop(app: Flask) -> None:
    app.extensions["scancer"].follower.close()


@pytest.mark.parametrize("is_archive", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize(
    "name, value", [("min_workers", 2_000_000_000), ("batch_size", 2_000_000_000), ("batch_size", "x")], ids=show
)
def test_kept_number_out_of_bounds_makes_its_model_alone_unavailable(
    tmp_path: Path, instance: Path, pcam_example: bytes, name: str, value: object, is_archive: bool
) -> None:
    app = start(tmp_path, instance, {name: value}, is_archive)
    manager = Manager(app, app.extensions["scancer"].settings)
    try:
        bad = manager.client.get(f"/models/{BAD}", headers=MANAGE).json
        assert bad["state"] == "UNAVAILABLE"
        assert bad["reason"].startswith(f"the state store says {name}={value} is not allowed: it must be ")
        assert manager.client.put(f"/predictions/{BAD}", data=pcam_example, headers=MANAGE).status_code == 503
        answer = manager.client.put(f"/predictions/{NAME}", data=pcam_example, headers=MANAGE)
        assert (answer.status_code, answer.json["model"]) == (200, NAME)
        [described] = manager.call("GET", f"/models/{BAD}").json
        assert (described["minWorkers"], described["batchSize"] < 129) == (1, True)
    finally:
        stop(app)


def test_model_comes_back_when_it_is_scaled(tmp_path: Path, instance: Path, pcam_example: bytes) -> None:
    app = start(tmp_path, instance, {"min_workers": 2_000_000_000, "batch_size": 2_000_000_000})
    manager = Manager(app, app.extensions["scancer"].settings)
    try:
        path = f"/models/{BAD}?min_worker=1&synchronous=true"
        assert manager.status("PUT", path) == (200, f"Workers scaled to 1 for model: {BAD}")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            answer = manager.client.put(f"/predictions/{BAD}", data=pcam_example, headers=MANAGE)
            if answer.status_code == 200:
                break
        assert (answer.status_code, answer.json["model"]) == (200, BAD)
        with closing(sqlite3.connect(manager.settings.instance / "state.db")) as connection:
            row = connection.execute("SELECT min_workers, batch_size FROM scancer_versions WHERE name = ?", [BAD])
            assert row.fetchone() == (1, None)
    finally:
        stop(app)


def test_store_of_a_later_release_answers_503_and_is_left_alone(tmp_path: Path, instance: Path) -> None:
    for manager in serve(tmp_path, instance):
        write_old_state(manager.settings.instance / "state.db", {}, "PRAGMA user_version = 2")
        for method, path in (("PUT", f"/models/{NAME}"), ("DELETE", f"/models/{NAME}"), ("POST", "/models?url=two")):
            status, text = manager.status(method, path)
            assert (status, text.split(":")[0]) == (503, "ServiceUnavailableException")


def test_scaling_reads_json_and_refuses_a_form(manager: Manager) -> None:
    answer = manager.status("PUT", f"/models/{NAME}", json={"min_worker": -1})
    assert answer[1].startswith("BadRequestException: min_worker")
    answer = manager.status("PUT", f"/models/{NAME}", data={"min_worker": "2"})
    assert answer == (
        400,
        "BadRequestException: Parameters stand in the query or in a JSON object; this body is a form.",
    )
