"""What the server says of an archive that says nothing of it itself, and who goes before whom."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.conftest import MANAGER, MANAGER_PASSWORD, basic
from tests.handlers.archives import make_archive, make_config
from tests.handlers.fixtures import ServeArchives

WAITING_HANDLER = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep(float(data[0]["body"].decode()))
    return ["done"] * len(data)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, serve_archives: ServeArchives) -> FlaskClient:
    """Serve a handler that says nothing, one that says all, and one of a short queue; the first two are also stored."""
    folder = tmp_path_factory.mktemp("defaults")
    files: dict[str, str | bytes] = {"w.py": WAITING_HANDLER}
    (folder / "store").mkdir()
    make_archive(folder / "models", "silent", "w.py", files)
    config = make_config(minWorkers=1, maxWorkers=2, responseTimeout=30, startupTimeout=40, jobQueueSize=7)
    make_archive(folder / "models", "says", "w.py", files | {"c.yaml": config}, config_file="c.yaml")
    short = {"c.yaml": make_config(jobQueueSize=2)}
    make_archive(folder / "models", "short", "w.py", files | short, config_file="c.yaml")
    for name in ("silent", "says"):
        (folder / f"source-{name}/{name}.mar").rename(folder / f"store/{name}.mar")
    return serve_archives(folder / "models", store=folder / "store", response_timeout_s=2).test_client()


def manage(server: FlaskClient, method: str, path: str) -> Any:
    port = {"SERVER_PORT": "8081"}
    return server.open(path, method=method, headers=basic(MANAGER, MANAGER_PASSWORD), environ_overrides=port).json


def ask(server: FlaskClient, name: str, seconds: float) -> Any:
    client = server.application.test_client()
    return client.post(f"/predictions/{name}", data=str(seconds).encode(), headers=basic())


def tell(server: FlaskClient, name: str) -> tuple[int, ...]:
    [described] = manage(server, "GET", f"/models/{name}")
    keys = ("minWorkers", "maxWorkers", "responseTimeout", "startupTimeout")
    return *(described[key] for key in keys), described["jobQueueStatus"]["remainingCapacity"]


def test_archive_that_says_nothing_has_the_servers_limits_and_another_its_own(server: FlaskClient) -> None:
    assert tell(server, "silent") == (1, 1, 2, 120, 100)
    assert tell(server, "says") == (1, 2, 30, 40, 7)


@pytest.mark.parametrize(
    ("query", "workers", "told"),
    [
        ("url=silent.mar", 0, (0, 0, 2, 120, 100)),
        ("url=says.mar", 1, (1, 2, 30, 40, 7)),
        ("url=silent.mar&response_timeout=9&startup_timeout=50&initial_workers=1", 1, (1, 1, 9, 50, 100)),
        ("url=says.mar&response_timeout=120&initial_workers=2", 2, (2, 2, 120, 40, 7)),
        ("url=says.mar&initial_workers=0", 0, (0, 0, 30, 40, 7)),
    ],
)
def test_registration_goes_before_the_archive_and_that_before_the_server(
    server: FlaskClient, query: str, workers: int, told: tuple[int, ...]
) -> None:
    status = manage(server, "POST", f"/models?model_name=other&{query}")["status"]
    try:
        assert status.startswith(f'Model "other" Version: 1.0 registered with {workers} initial workers')
        assert tell(server, "other") == told
    finally:
        manage(server, "DELETE", "/models/other")


def test_queue_of_an_archive_is_as_long_as_it_says(server: FlaskClient) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(server, "short", 0.5), range(8)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 4 <= len(refused) <= 6  # two wait, and one is in work, unless all came before it left the line
    assert {answer.status_code for answer in refused} == {503}
    assert refused[0].json["message"].startswith('Model "short" has no worker to serve inference request.')
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(server, "says", 0.2), range(8)))
    assert sum(answer.status_code == 200 for answer in answers) >= 7


def test_handler_that_is_slower_than_the_server_allows_is_ended(server: FlaskClient) -> None:
    assert ask(server, "says", 2.5).status_code == 200
    answer = ask(server, "silent", 20)
    assert (answer.status_code, answer.json["message"]) == (500, "Worker died.")
