"""Models that a user may ask: every route that names a model keeps to them, and tells of no other."""

import json
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.api.request.services import EXTENSION
from app.cli.user_commands import users_commands
from app.config.settings import Settings
from app.errors import UsersError
from app.routes import ROUTES, Cost, Surface
from app.users import User, UsersFile
from tests.conftest import PASSWORD, basic, find_first_versions

ALLOWED, FORBIDDEN, ABSENT = "pcam-classification", "isic-classification", "nope-classification"
AUTH = basic("ada")
NAMING = [
    (route, method)
    for route in ROUTES
    for method in route.methods
    if "<model_name>" in route.rule and not (Surface.MANAGEMENT in route.surfaces and route.cost is Cost.CHANGE)
]
"""All but those that need the role `manage`, whose users may ask every model."""
PORTS = {Surface.INFERENCE: "8080", Surface.MANAGEMENT: "8081"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    folder = tmp_path_factory.mktemp("allowed")
    UsersFile(folder).add("ada", "predict", PASSWORD, ["pcam-*"])
    UsersFile(folder).add("all", "predict", PASSWORD)
    return create_app(Settings(instance=folder, models=find_first_versions()))


@pytest.fixture
def client(own: Flask) -> FlaskClient:
    return own.test_client()


def fill(rule: str, name: str) -> str:
    path = rule.replace("<model_name>", name).replace("<version>", "1.0").replace("<path:url_path>", "more")
    return path.replace("<file>", "synthetic-normal.png")


def test_table_of_routes_has_those_that_name_models() -> None:
    assert len(NAMING) > 50
    for part in ("/explanations/", "/predictions/", "/v1/", "/v2/", "/drift", "/examples/", "/stats", "/invoke"):
        assert any(part in route.rule for route, _ in NAMING), part


@pytest.mark.parametrize(("route", "method"), NAMING, ids=lambda each: getattr(each, "rule", each))
def test_another_model_answers_403_be_there_one_or_not(client: FlaskClient, route, method: str) -> None:  # type: ignore[no-untyped-def]
    for surface in route.surfaces:
        ports = {"SERVER_PORT": PORTS[surface]}
        told = []
        for name in (FORBIDDEN, ABSENT):
            path = fill(route.rule, name)
            answer = client.open(path, method=method, data=b"x", headers=AUTH, environ_overrides=ports)
            assert answer.status_code == 403, path
            told.append(answer.get_data(as_text=True))
            if method != "HEAD":
                shape = json.loads(told[-1])
                message = "The user may not ask this model."
                is_protocol = path.startswith(("/v1", "/v2"))
                whole = {"code": 403, "type": "ForbiddenException", "message": message}
                assert shape == ({"error": message} if is_protocol else whole)
        assert told[0] == told[1]
        answer = client.open(fill(route.rule, ALLOWED), method=method, data=b"x", headers=AUTH, environ_overrides=ports)
        assert answer.status_code != 403
        answer.close()
        # Strangers learn nothing of either.
        assert client.open(fill(route.rule, FORBIDDEN), method=method, environ_overrides=ports).status_code == 401


def test_invocations_keep_to_the_models(client: FlaskClient, pcam_example: bytes) -> None:
    def ask(query: str) -> int:
        return client.post("/invocations" + query, data=pcam_example, headers=AUTH).status_code

    assert ask(f"?model_name={ALLOWED}") == 200
    assert ask(f"?model_name={FORBIDDEN}") == 403
    assert ask(f"?model_name={ABSENT}") == 403
    assert ask(f"?model_name={ALLOWED}&model_name={FORBIDDEN}") == 200  # the first counts, for both
    assert ask(f"?model_name={FORBIDDEN}&model_name={ALLOWED}") == 403
    assert ask("") == 400


SPELLINGS = (
    "/predictions//{}",
    "/%70redictions/{}",
    "/predictions/{}/",
    "/predictions/{}%00",
    "/predictions/%69sic-classification",
    "/predictions/../predictions/{}",
    "/models/pcam-classification/../{}",
    "/predictions/{}?model_name=pcam-classification",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_open_nothing(client: FlaskClient, isic_example: bytes, spelling: str) -> None:
    answer = client.post(spelling.format(FORBIDDEN), data=isic_example, headers=AUTH)
    assert answer.status_code in (403, 404, 405)


LISTS: dict[str, Callable[[FlaskClient, str], str]] = {
    "/models": lambda client, name: client.get("/models", headers=basic(name)).text,
    "/models page": lambda client, name: client.get("/models", headers=basic(name) | {"Accept": "text/html"}).text,
    "/ page": lambda client, name: client.get("/", headers=basic(name) | {"Accept": "text/html"}).text,
    "managed": lambda client, name: (
        client.get("/models", headers=basic(name), environ_overrides={"SERVER_PORT": "8081"}).text
    ),
    "/v2/repository/index": lambda client, name: client.post("/v2/repository/index", headers=basic(name)).text,
    "/v2/models/stats": lambda client, name: client.get("/v2/models/stats", headers=basic(name)).text,
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_show_what_the_user_may_ask(client: FlaskClient, name: str) -> None:
    assert FORBIDDEN in LISTS[name](client, "all")
    told = LISTS[name](client, "ada")
    assert ALLOWED in told
    assert FORBIDDEN not in told


def test_metrics_that_name_every_model_are_not_for_a_user_of_some(client: FlaskClient) -> None:
    far = {"Host": "elsewhere.example"}  # on loopback nobody is asked
    assert client.get("/metrics", headers=basic("all") | far).status_code == 200
    answer = client.get("/metrics", headers=AUTH | far)
    assert (answer.status_code, FORBIDDEN in answer.text) == (403, False)


def test_outcomes_of_a_model_that_the_user_may_ask_no_longer_are_refused(
    own: Flask, client: FlaskClient, isic_example: bytes, pcam_example: bytes
) -> None:
    users = UsersFile(own.extensions[EXTENSION].settings.instance)
    users.add("fay", "predict", PASSWORD)
    pictures = {FORBIDDEN: isic_example, ALLOWED: pcam_example}
    given = [client.put(f"/predictions/{name}", data=pictures[name], headers=basic("fay")).json for name in pictures]
    users.add("fay", "predict", PASSWORD, ["pcam-*"])
    for each, status in zip(given, (403, 400), strict=True):
        answer = client.post(f"/outcomes/{each['request_id']}", json={"truth": "no class"}, headers=basic("fay"))
        assert answer.status_code == status, answer.text


def test_change_of_the_models_counts_at_once_and_a_new_password_keeps_them(own: Flask, client: FlaskClient) -> None:
    users = UsersFile(own.extensions[EXTENSION].settings.instance)
    runner = own.test_cli_runner()

    def add(*options: str) -> tuple[str, ...]:
        told = runner.invoke(users_commands, ["add", "eve", "--password-stdin", *options], input=PASSWORD + "\n")
        assert told.exit_code == 0, told.output
        return users.read()["eve"].models

    assert add("--models", "pcam-*", "--models", "isic-*,pcam-*") == ("isic-*", "pcam-*")
    assert add() == ("isic-*", "pcam-*")
    assert client.get(f"/models/{FORBIDDEN}", headers=basic("eve")).status_code == 200
    assert add("--models", "pcam-?lassification") == ("pcam-?lassification",)
    assert client.get(f"/models/{FORBIDDEN}", headers=basic("eve")).status_code == 403
    assert "eve\tpredict\tpcam-?lassification\n" in runner.invoke(users_commands, ["list"]).output
    assert add("--models", "*") == ()
    assert client.get(f"/models/{FORBIDDEN}", headers=basic("eve")).status_code == 200


@pytest.mark.parametrize("pattern", ["", " ", "a:b", "a\nb", "ä*", "'; DROP TABLE scancer_users; --", "x" * 65])
def test_pattern_that_could_mean_something_else_is_refused(own: Flask, pattern: str) -> None:
    users = UsersFile(own.extensions[EXTENSION].settings.instance)
    before = users.path.read_bytes()
    with pytest.raises(UsersError, match="models are named by up to 16 patterns"):
        users.add("mallory", "predict", PASSWORD, [pattern])
    assert users.path.read_bytes() == before


def test_managers_are_not_kept_to_some_models(own: Flask) -> None:
    users = UsersFile(own.extensions[EXTENSION].settings.instance)
    with pytest.raises(UsersError, match="only a user with the role predict"):
        users.add("mallory", "manage", PASSWORD, ["pcam-*"])


@pytest.mark.parametrize(
    ("pattern", "name", "is_allowed"),
    [
        ("pcam-*", "pcam-classification", True),
        ("pcam-*", "PCAM-classification", False),
        ("pcam-*", "xpcam-classification", False),
        ("pcam", "pcam-classification", False),
        ("pcam-*", "pcam-x\nisic", True),
        ("[ip]*-classification", "isic-classification", True),
        ("[!p]*", "pcam-classification", False),
        ("p.am-*", "pcam-classification", False),
    ],
)
def test_patterns_mean_whole_names_in_their_case(pattern: str, name: str, is_allowed: bool) -> None:
    assert User("ada", "predict", "scrypt", (pattern,)).may_ask(name) is is_allowed
