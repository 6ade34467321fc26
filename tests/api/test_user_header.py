"""Single sign-on: a proxy that signs in itself names its user, and nobody else can by any header."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from app import create_app
from app.api.predict.handler_predictions import read_headers
from app.api.request.services import EXTENSION, Services
from app.config.settings import Settings
from app.errors import SettingsError
from app.processes.shared_table import COUNTS, FAILURES, SIGN_INS
from app.users import UsersFile
from tests.conftest import PASSWORD, basic, find_first_versions

HEADER = "X-Scancer-User"
PATH = "/models/pcam-classification"
Headers = dict[str, str]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    folder = tmp_path_factory.mktemp("header")
    users = UsersFile(folder)
    users.add("ada", "predict", PASSWORD, ["pcam-*"])
    users.add("keeper", "manage", PASSWORD)
    users.add("gate", "proxy", PASSWORD)
    users.add("gate2", "proxy", PASSWORD)
    app = create_app(Settings(instance=folder, models=find_first_versions(), trusted_proxies=1, user_header=HEADER))
    yield app
    app.extensions[EXTENSION].audit.close()


@pytest.fixture
def client(own: Flask) -> FlaskClient:
    COUNTS.clear()
    FAILURES.clear()
    SIGN_INS.clear()
    return own.test_client()


@pytest.fixture(scope="module")
def proxy(own: Flask) -> Headers:
    """What the proxy sends to sign in itself."""
    text, _ = UsersFile(own.extensions[EXTENSION].settings.instance).add_token("gate", None)
    return {"Authorization": f"Bearer {text}"}


def test_proxy_names_its_user_with_role_and_models(client: FlaskClient, proxy: Headers) -> None:
    for signed_in in (proxy, basic("gate")):
        assert client.get(PATH, headers=signed_in | {HEADER: "ada"}).status_code == 200
        assert client.get("/models/isic-classification", headers=signed_in | {HEADER: "ada"}).status_code == 403
        assert client.put(PATH, headers=signed_in | {HEADER: "ada"}).status_code == 403
        assert client.options(PATH, headers=signed_in | {HEADER: "ada"}).status_code == 200
    assert client.put(PATH + "?min_worker=1", headers=proxy | {HEADER: "keeper"}).status_code == 202


@pytest.mark.parametrize(
    "name",
    ["", "nobody", "ADA", "ada ", "ada,keeper", "ada, keeper", "gate", "gate2", "äda", "ada\x00", "*", "a" * 9000],
)
def test_name_that_no_user_has_answers_401(client: FlaskClient, proxy: Headers, name: str) -> None:
    answer = client.get(PATH, headers=proxy, environ_overrides={"HTTP_X_SCANCER_USER": name.encode().decode("latin-1")})
    assert (answer.status_code, answer.json["message"]) == (401, "The proxy names no user of this server.")


def test_proxy_that_names_nobody_may_do_nothing(client: FlaskClient, proxy: Headers) -> None:
    assert client.get(PATH, headers=proxy).status_code == 401
    assert client.options(PATH, headers=proxy).status_code == 401
    assert client.options(PATH, headers=basic("gate2")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-User": "keeper"}, {"Authorization": "Bearer scancer_"}],
)
def test_header_of_a_client_opens_nothing(client: FlaskClient, headers: Headers) -> None:
    assert client.get(PATH, headers=headers | {HEADER: "keeper"}).status_code == 401


def test_header_of_a_user_makes_no_other_of_them(client: FlaskClient) -> None:
    assert client.put(PATH + "?min_worker=1", headers=basic("ada") | {HEADER: "keeper"}).status_code == 403
    assert client.get("/models/isic-classification", headers=basic("ada") | {HEADER: "keeper"}).status_code == 403


def test_user_who_is_removed_is_out_at_once(own: Flask, client: FlaskClient, proxy: Headers) -> None:
    users = UsersFile(own.extensions[EXTENSION].settings.instance)
    users.add("eve", "predict", PASSWORD)
    assert client.get(PATH, headers=proxy | {HEADER: "eve"}).status_code == 200
    users.remove("eve")
    assert client.get(PATH, headers=proxy | {HEADER: "eve"}).status_code == 401


def test_trail_names_the_user_and_the_proxy(own: Flask, client: FlaskClient, proxy: Headers) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.77"}
    client.get(PATH, headers=proxy | forwarded | {HEADER: "ada"})
    client.get(PATH, headers=proxy | forwarded | {HEADER: "jane doe"})
    services: Services = own.extensions[EXTENSION]
    services.audit.close()
    told = [(each.actor, each.action, each.subject) for each in services.audit.read() if each.client == "203.0.113.77"]
    assert told == [("ada", "signed in", "proxy gate"), ("gate", "sign-in failed", "the proxy names no user")]


def test_proxy_may_do_nothing_where_the_setting_is_off(tmp_path: Path) -> None:
    UsersFile(tmp_path).add("gate", "proxy", PASSWORD)
    UsersFile(tmp_path).add("ada", "predict", PASSWORD)
    client = create_app(Settings(instance=tmp_path, models=find_first_versions())).test_client()
    for path in (PATH, "/models", "/docs", "/api-description"):
        assert client.get(path, headers=basic("gate") | {HEADER: "ada"}).status_code == 403, path
    assert client.options(PATH, headers=basic("gate") | {HEADER: "ada"}).status_code == 403


def test_setting_needs_proxies_and_a_header_of_its_own() -> None:
    with pytest.raises(SettingsError, match="SCANCER_USER_HEADER needs SCANCER_TRUSTED_PROXIES"):
        Settings.from_env({"SCANCER_USER_HEADER": HEADER})
    for name in ("Authorization", "Host", "X-Forwarded-For", "X-Request-ID", "X_User", "X-", "X-Käse", "X-A:"):
        with pytest.raises(SettingsError, match=r"SCANCER_USER_HEADER=.* is not allowed"):
            Settings.from_env({"SCANCER_USER_HEADER": name, "SCANCER_TRUSTED_PROXIES": "1"})
    assert Settings.from_env({"SCANCER_USER_HEADER": "OFF"}).user_header == "off"


def test_programs_of_archives_get_nobodys_name(own: Flask) -> None:
    headers = {HEADER: "ada", "Authorization": "Bearer x", "X-Foo": "7"}
    with own.test_request_context("/", headers=headers):
        assert set(read_headers(request, [])) & {HEADER, *headers} == {"X-Foo"}
