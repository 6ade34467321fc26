"""The Postman collection: complete, and all green against a running server."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.api.openapi import DOCUMENT
from app.config.setting_types import PROJECT_ROOT
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer

COLLECTION = PROJECT_ROOT / "get_started/scancer.postman_collection.json"
ENVIRONMENT = PROJECT_ROOT / "get_started/scancer.postman_environment.json"
ERRORS = "Errors"
TIMEOUT_S = 120
METHODS = {"get", "put", "post", "delete", "options", "patch"}


def list_requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request of the collection, with the name of its folder."""
    for folder in json.loads(COLLECTION.read_text(encoding="utf-8"))["item"]:
        for item in folder["item"]:
            yield folder["name"], item


REQUESTS = [pytest.param(item, id=f"{folder}: {item['name']}") for folder, item in list_requests()]


def test_every_check_of_the_collection_is_green(newman: str, shipped_server: LiveServer, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    variables = {
        "base": shipped_server.inference,
        "management": shipped_server.management,
        "metrics": shipped_server.metrics,
        "user": USER,
        "password": PASSWORD,
        "manager": MANAGER,
        "manager_password": MANAGER_PASSWORD,
    }
    command = [newman, "run", str(COLLECTION), "--environment", str(ENVIRONMENT), "--working-dir", str(PROJECT_ROOT)]
    command += [part for name, value in variables.items() for part in ("--env-var", f"{name}={value}")]
    command += ["--reporters", "cli,json", "--reporter-json-export", str(report), "--color", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads(report.read_text(encoding="utf-8"))["run"]
    assert run["failures"] == []
    assert len(run["executions"]) == len(REQUESTS)
    assert run["stats"]["assertions"]["failed"] == 0
    assert run["stats"]["assertions"]["total"] >= 2 * len(REQUESTS)


def test_every_operation_of_the_api_is_in_the_collection() -> None:
    asked = {
        (item["request"]["method"].lower(), "/" + "/".join(item["request"]["url"]["path"]))
        for folder, item in list_requests()
        if folder != ERRORS
    }
    for path, operations in json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"].items():
        pattern = re.sub(r"\{\w+\}", "[^/]+", path)
        for method in METHODS & operations.keys():
            assert any(method == verb and re.fullmatch(pattern, url) for verb, url in asked), f"{method} {path}"


@pytest.mark.parametrize("item", REQUESTS)
def test_every_request_is_described_and_checked(item: dict[str, Any]) -> None:
    assert item["request"]["description"]
    script = "\n".join(line for event in item["event"] if event["listen"] == "test" for line in event["script"]["exec"])
    assert "pm.response.to.have.status(" in script
    assert script.count("pm.test(") >= 2


@pytest.mark.parametrize("item", REQUESTS)
def test_every_file_of_a_request_is_in_the_repository(item: dict[str, Any]) -> None:
    body = item["request"].get("body", {})
    files = [part["src"] for part in [body.get("file", {}), *body.get("formdata", [])] if "src" in part]
    for file in files:
        assert not Path(file).is_absolute()
        assert (PROJECT_ROOT / file).is_file()


def test_environment_holds_every_variable_and_no_password() -> None:
    values = {entry["key"]: entry["value"] for entry in json.loads(ENVIRONMENT.read_text(encoding="utf-8"))["values"]}
    assert set(re.findall(r"\{\{(\w+)\}\}", COLLECTION.read_text(encoding="utf-8"))) == set(values)
    assert values["user"] == values["password"] == ""
