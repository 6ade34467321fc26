"""Behind proxies: links begin as the caller's request did, if the operator says how many proxies may be believed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from app import create_app
from app.api.request.routing import trust_proxies
from app.config.setting_types import Address
from app.config.settings import Settings
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic

FORWARDED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "scancer.example.org",
    "X-Forwarded-Prefix": "/scancer",
}
PEER = {"REMOTE_ADDR": "127.0.0.1"}
PAGE = "/models/pcam-classification"
CURL = "{}/predictions/pcam-classification -T picture.png"


Trust = Callable[[int], Client]


@pytest.fixture
def trust(app: Flask) -> Trust:
    """Makes a client of the shared app behind so many believed proxies."""
    return lambda count: Client(trust_proxies(app.wsgi_app, count))


def know_caller(count: int, headers: dict[str, str]) -> list[str]:
    """What an app behind so many believed proxies knows of a caller."""

    @Request.application
    def tell(request: Request) -> Response:
        return Response(json.dumps([request.remote_addr, request.root_url, request.environ["SERVER_PORT"]]))

    told: list[str] = json.loads(
        Client(trust_proxies(tell, count)).get("/", headers=headers, environ_overrides=PEER).data
    )
    return told


def read_page(client: Client, headers: dict[str, str]) -> str:
    return client.get(PAGE, headers={**basic(), "Accept": "text/html", **headers}).get_data(as_text=True)


def test_links_begin_as_the_callers_request_did(trust: Trust) -> None:
    client = trust(1)
    page = read_page(client, FORWARDED)
    assert CURL.format("https://scancer.example.org/scancer") in page
    assert 'href="/scancer/static/style.css"' in page
    answer = client.get(PAGE, headers=basic() | FORWARDED).json
    assert answer["predict_url"] == "/scancer/predictions/pcam-classification"
    assert all(url.startswith("/scancer/models/") for url in answer["examples"])
    listed = client.get("/models", headers=basic() | FORWARDED).json["models"]
    assert {model["url"].split("/models/", 1)[0] for model in listed} == {"/scancer"}
    led = client.get("/", headers=basic() | FORWARDED)
    assert (led.status_code, led.headers["Location"]) == (303, "/scancer/models")


@pytest.mark.parametrize("prefix", ["/a/", "/", "/a/b", "/ä", "/a b"])
def test_any_prefix_leads_back(prefix: str, trust: Trust) -> None:
    sent = basic() | FORWARDED | {"X-Forwarded-Prefix": prefix.encode().decode("latin-1")}
    url = trust(1).get(PAGE, headers=sent).json["predict_url"]
    assert url.startswith("/")
    assert not url.startswith("//")
    assert url.endswith("/predictions/pcam-classification")


def test_nobody_is_believed_by_default(trust: Trust) -> None:
    assert Settings().trusted_proxies == 0
    assert read_page(trust(0), FORWARDED) == read_page(trust(0), {})
    assert know_caller(0, FORWARDED) == ["127.0.0.1", "http://localhost/", "80"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, ["10.0.0.2", "https://inner/in", "80"]), (2, ["203.0.113.9", "http://outer/out", "80"])],
)
def test_what_a_caller_wrote_before_the_proxies_is_not_believed(count: int, expected: list[str]) -> None:
    sent = {
        "X-Forwarded-For": "198.51.100.1, 203.0.113.9, 10.0.0.2",
        "X-Forwarded-Proto": "ftp, http, https",
        "X-Forwarded-Host": "forged:8081, outer, inner",
        "X-Forwarded-Prefix": "//forged, /out, /in",
    }
    remote, root, port = know_caller(count, sent)
    assert [remote, root.rstrip("/"), port] == expected


def test_fewer_proxies_than_are_trusted_are_not_believed() -> None:
    assert know_caller(2, FORWARDED) == ["127.0.0.1", "http://localhost/", "80"]


def test_no_header_leads_to_another_ports_routes(settings: Settings, trust: Trust) -> None:
    ports = {"SERVER_PORT": str(settings.inference_address.port)}
    for host in ("127.0.0.1:8081", "127.0.0.1:8082", ":8082"):
        sent = {**basic(MANAGER, MANAGER_PASSWORD), "X-Forwarded-Host": host, "X-Forwarded-Port": host[-4:]}
        for path in ("/models/none", "/models/pcam-classification/none"):
            answer = trust(1).delete(path, headers=sent, environ_overrides=ports)
            assert answer.status_code == 405
        assert trust(1).get("/metrics", headers=sent, environ_overrides=ports).status_code == 404


@pytest.mark.parametrize("value", ["", ",", "a b", "[", "http://x", "\x80", "x" * 5000, '"', "x:99999999"])
@pytest.mark.parametrize("name", FORWARDED)
def test_odd_values_are_no_fault_of_the_server(name: str, value: str, trust: Trust) -> None:
    for headers in ({name: value}, {name: value, "Origin": "http://x", "Accept": "text/html"}):
        assert trust(1).get(PAGE, headers=basic() | headers).status_code in (200, 400)


def test_change_is_asked_for_by_the_own_page_behind_a_proxy(settings: Settings, trust: Trust) -> None:
    ports = {"SERVER_PORT": str(settings.management_address.port)}
    sent = {**basic(MANAGER, MANAGER_PASSWORD), **FORWARDED}
    for origin, status in (("https://scancer.example.org", 404), ("https://other.example.org", 403)):
        answer = trust(1).delete("/models/none", headers={**sent, "Origin": origin}, environ_overrides=ports)
        assert answer.status_code == status


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9000", "scancer.example.org"])
@pytest.mark.parametrize("count", [0, 1])
def test_host_of_a_caller_opens_no_metrics_that_a_trusted_proxy_leads_to(tmp_path: Path, host: str, count: int) -> None:
    near = Address("127.0.0.1", 9000)
    settings = Settings(metrics_address=near, models=tmp_path, instance=tmp_path, trusted_proxies=count)
    ports, is_local = {"SERVER_PORT": "9000"}, host != "scancer.example.org"
    sent = {**FORWARDED, "Host": host, "X-Forwarded-Host": host}
    alone = create_app(settings).test_client()
    for headers, is_open in (({"Host": host}, is_local), (sent, is_local and not count)):
        answer = alone.get("/metrics", headers=headers, environ_overrides=ports)
        assert answer.status_code == (200 if is_open else 401)
    shared = create_app(replace(settings, inference_address=near)).test_client()
    for headers in ({"Host": host}, sent):  # a proxy that leads to predictions may write less than it should
        answer = shared.get("/metrics", headers=headers, environ_overrides=ports)
        assert answer.status_code == (200 if is_local and not count else 401)


@pytest.mark.parametrize("name", [*FORWARDED, "Forwarded"])
def test_where_nobody_is_asked_for_a_password_no_proxy_comes_in(tmp_path: Path, name: str) -> None:
    settings = Settings(models=tmp_path, instance=tmp_path, trusted_proxies=1, auth="off")
    client, sent = (
        create_app(settings).test_client(),
        {"Host": "localhost", name: FORWARDED.get(name, "for=203.0.113.9")},
    )
    assert client.get("/models", headers={"Host": "localhost"}).status_code == 200
    assert client.get("/models", headers=sent).status_code == 421
