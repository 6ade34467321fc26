"""Tokens beside passwords: what they open, how they end, and what is told of a wrong one."""

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from app import create_app
from app.api.login.authenticator import Authenticator
from app.api.request.services import EXTENSION
from app.cli.user_commands import users_commands
from app.config.settings import ANSWER_DELAY_S, Settings
from app.errors import UsersError
from app.processes.shared_table import COUNTS, FAILURES
from app.users import USERS_FILE, User, UsersFile
from app.users.user import MAX_TOKENS, make_token
from tests.conftest import PASSWORD, basic, find_first_versions

PATH = "/models/pcam-classification"
PREDICTION = "/predictions/pcam-classification"
CHALLENGE = 'Bearer realm="Scancer API", error="invalid_token"'


def bearer(text: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {text}"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """An app whose users the tests of this file may change."""
    folder = tmp_path_factory.mktemp("tokens")
    UsersFile(folder).add("ada", "predict", PASSWORD)
    UsersFile(folder).add("keeper", "manage", PASSWORD)
    return create_app(Settings(instance=folder, models=find_first_versions()))


@pytest.fixture
def users(own: Flask) -> UsersFile:
    COUNTS.clear()
    FAILURES.clear()
    return UsersFile(own.extensions[EXTENSION].settings.instance)


@pytest.fixture
def client(own: Flask) -> FlaskClient:
    return own.test_client()


def test_token_works_wherever_a_password_does(users: UsersFile, client: FlaskClient, pcam_example: bytes) -> None:
    text, _ = users.add_token("ada", 60)
    for path in ("/models", PATH, "/v2", "/v2/models/pcam-classification", "/v1/models/pcam-classification", "/docs"):
        assert client.get(path, headers=bearer(text)).status_code == 200, path
    assert client.options("/models/pcam-classification", headers=bearer(text)).status_code == 200
    assert client.put(PREDICTION, data=pcam_example, headers=bearer(text)).status_code == 200
    assert client.put(PREDICTION, data=pcam_example, headers=bearer(text, "bearer")).status_code == 200
    assert client.put(PATH + "?min_worker=1", headers=bearer(text)).status_code == 403
    managing, _ = users.add_token("keeper", None)
    assert client.put(PATH + "?min_worker=1", headers=bearer(managing)).status_code == 202


def test_only_a_hash_of_a_token_is_kept(users: UsersFile) -> None:
    text, token = users.add_token("ada", 60)
    assert text not in users.path.read_text()
    assert text.split("_", 2)[2] not in users.path.read_text()
    assert token.digest in users.path.read_text()
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600
    assert users.read()["ada"].tokens[-1] == token


def flip(text: str) -> str:
    return text[:-1] + ("A" if text[-1] != "A" else "B")


@pytest.mark.parametrize(
    "change",
    [
        flip,
        str.upper,
        lambda text: text + "A",
        lambda text: text[:-1],
        lambda text: text + "\0",
        lambda text: text + ", " + text,
        lambda text: text.replace("scancer_", "scancer_ffffffff_"),
        lambda _: make_token(60)[0],
        lambda _: "",
        lambda _: "scancer_",
        lambda _: "A" * 7000,
        lambda _: "scancer_' OR 1=1 --_" + "A" * 43,
    ],
)
def test_wrong_token_answers_401_with_its_own_challenge(users: UsersFile, client: FlaskClient, change) -> None:  # type: ignore[no-untyped-def]
    text, _ = users.add_token("ada", 60)
    answer = client.get(PATH, headers=bearer(change(text)))
    assert answer.status_code == 401
    assert answer.headers.getlist("WWW-Authenticate") == [CHALLENGE]
    assert answer.json == {
        "code": 401,
        "type": "UnauthorizedException",
        "message": "The token is wrong, or was revoked.",
    }
    assert client.get(PATH, headers=bearer(text)).status_code == 200
    while users.read()["ada"].tokens:
        users.revoke_token("ada", users.read()["ada"].tokens[0].id)


def test_wrong_token_answers_in_the_shape_of_the_protocol(users: UsersFile, client: FlaskClient) -> None:
    answer = client.get("/v2/models/pcam-classification", headers=bearer("none"))
    assert (answer.status_code, answer.json) == (401, {"error": "The token is wrong, or was revoked."})


def test_expired_token_says_so_and_revoked_one_is_wrong(
    users: UsersFile, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, token = users.add_token("ada", 60)
    assert client.get(PATH, headers=bearer(text)).status_code == 200
    now = time.time()
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: now + 61)
        answer = client.get(PATH, headers=bearer(text))
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, CHALLENGE)
    assert answer.json["message"] == "The token has expired; ask the operator for another one."
    users.revoke_token("ada", token.id)
    answer = client.get(PATH, headers=bearer(text))
    assert (answer.status_code, answer.json["message"]) == (401, "The token is wrong, or was revoked.")


def test_removed_users_tokens_are_gone_even_if_the_name_comes_back(users: UsersFile, client: FlaskClient) -> None:
    users.add("bob", "predict", PASSWORD)
    text, _ = users.add_token("bob", None)
    assert client.get(PATH, headers=bearer(text)).status_code == 200
    users.remove("bob")
    assert client.get(PATH, headers=bearer(text)).status_code == 401
    users.add("bob", "predict", PASSWORD)
    assert client.get(PATH, headers=bearer(text)).status_code == 401


def test_new_password_leaves_the_tokens(users: UsersFile, client: FlaskClient) -> None:
    text, token = users.add_token("ada", 60)
    users.add("ada", "predict", PASSWORD)
    assert token in users.read()["ada"].tokens
    assert client.get(PATH, headers=bearer(text)).status_code == 200


def test_wrong_tokens_are_limited_by_address_and_a_right_one_comes_in(users: UsersFile, client: FlaskClient) -> None:
    text, _ = users.add_token("ada", 60)

    def ask(token: str) -> tuple[int, bool]:
        place = {"REMOTE_ADDR": "10.9.0.1"}
        answer = client.get(PATH, headers=bearer(token), environ_overrides=place)
        return answer.status_code, "Retry-After" in answer.headers

    assert [ask("the same") for _ in range(40)] == [(401, False)] * 40  # which is one guess
    guesses = [ask(f"guess-{number}") for number in range(31)]
    assert guesses == [(401, False)] * 28 + [(429, True)] * 3
    assert not FAILURES.has(FAILURES.hash("wrong token", "guess-30"))  # each that is remembered takes a place
    assert ask(text) == (200, False)


def test_failed_token_takes_as_long_as_a_failed_password(users: UsersFile, client: FlaskClient) -> None:
    delays = []
    for headers in (bearer("wrong"), bearer(flip(users.add_token("ada", 60)[0])), basic("ada", "a wrong password")):
        environ = EnvironBuilder(PATH, headers=headers).get_environ()
        list(client.application.wsgi_app(environ, lambda *_: lambda _: None))
        delays.append(environ[ANSWER_DELAY_S])
    assert all(0.5 < delay <= 1 for delay in delays)


def test_known_token_makes_its_connection_known(users: UsersFile) -> None:
    authenticator = Authenticator(users)
    text, _ = users.add_token("ada", 60)
    assert authenticator.knows({"HTTP_AUTHORIZATION": f"Bearer {text}"})
    assert not authenticator.knows({"HTTP_AUTHORIZATION": f"Bearer {flip(text)}"})
    assert not authenticator.knows({"HTTP_AUTHORIZATION": f"Basic {text}"})


def test_tokens_of_a_user_are_bounded(users: UsersFile) -> None:
    users.add("many", "predict", PASSWORD)
    for _ in range(MAX_TOKENS):
        users.add_token("many", 60)
    with pytest.raises(UsersError, match="32 tokens at most"):
        users.add_token("many", 60)
    users.remove("many")


@pytest.mark.parametrize(
    "line",
    [
        "ada:token:0123abcd:1:never:" + "a" * 63,
        "ada:token:../../x:1:never:" + "a" * 64,
        "ada:token:0123abcd:x:never:" + "a" * 64,
        "eve:token:0123abcd:1:never:" + "a" * 64,
        "eve:models:pcam-*",
        "ada:models:",
        "ada:models:pcam;isic",
        "ada:model:pcam-*",
        "ada:tokens:0123abcd:1:never:" + "a" * 64,
    ],
)
def test_line_of_tokens_or_models_that_cannot_be_lets_nobody_in(tmp_path: Path, line: str) -> None:
    file = UsersFile(tmp_path)
    file.add("ada", "predict", PASSWORD)
    with file.path.open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(UsersError, match=rf"line 2 of {file.path} is not name:role:scrypt:…, name:models"):
        file.read()


def test_two_tokens_of_one_id_let_nobody_in(tmp_path: Path) -> None:
    file = UsersFile(tmp_path)
    for name in ("ada", "bob"):
        file.add(name, "predict", PASSWORD)
    _, token = file.add_token("ada", None)
    with file.path.open("a") as lines:
        lines.write(f"bob:token:{token.id}:1:never:{'a' * 64}\n")
    with pytest.raises(UsersError, match="line 4 of"):
        file.read()


def test_second_line_of_a_name_does_not_widen_its_models(tmp_path: Path) -> None:
    file = UsersFile(tmp_path)
    file.add("ada", "predict", PASSWORD, ["pcam-*"])
    with file.path.open("a") as lines:
        lines.write(file.path.read_text().splitlines()[0] + "\n")
    assert file.read()["ada"].models == ("pcam-*",)


def test_file_of_the_release_before_is_read(tmp_path: Path) -> None:
    (tmp_path / USERS_FILE).write_text("# users\n\nada:manage:scrypt:32768:8:1$salt$hash\n")
    (tmp_path / USERS_FILE).chmod(0o600)
    assert UsersFile(tmp_path).read() == {"ada": User("ada", "manage", "scrypt:32768:8:1$salt$hash")}


@pytest.mark.parametrize("name", ["*", "a*", "[ab]", "?", "", "ä", "a b", "a:b", "a\n", "-a", "system:root", "x" * 65])
def test_name_that_could_be_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsersError, match="a name is 1 to 64 letters"):
        UsersFile(tmp_path).add(name, "predict", PASSWORD)
    assert not (tmp_path / USERS_FILE).exists()


def test_changes_of_the_file_by_many_at_a_time_are_all_kept(tmp_path: Path) -> None:
    file = UsersFile(tmp_path)
    for name in ("ada", "bob"):
        file.add(name, "predict", PASSWORD)
    authenticator, (text, _) = Authenticator(file), file.add_token("ada", None)
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(file.add_token, "bob", 60) for _ in range(16)]
        removed = pool.submit(file.remove, "ada")
        seen = [authenticator.recall(f"Bearer {text}") for _ in range(200)]
        removed.result()
    tokens = {each.result()[1] for each in made}
    assert set(file.read()["bob"].tokens) == tokens
    assert authenticator.recall(f"Bearer {text}") is None
    known = [user is not None for user in seen]
    assert known == sorted(known, reverse=True)  # once removed, never seen again


def test_commands_make_list_and_revoke_tokens(own: Flask, users: UsersFile, client: FlaskClient) -> None:
    runner = own.test_cli_runner()
    users.add("cli", "predict", PASSWORD)
    made = runner.invoke(users_commands, ["token", "cli", "--expires", "12h"])
    text = made.stdout.strip()
    (token,) = users.read()["cli"].tokens
    assert token.expires == token.made + 12 * 3600
    assert made.stderr.startswith(f"token {token.id} of cli expires ")
    assert client.get(PATH, headers=bearer(text)).status_code == 200
    listed = runner.invoke(users_commands, ["tokens", "cli"]).output
    assert listed.startswith(f"{token.id}\tmade ")
    assert text not in listed
    assert token.digest not in listed
    assert runner.invoke(users_commands, ["revoke", "cli", token.id]).output == f"revoked {token.id} of cli\n"
    assert client.get(PATH, headers=bearer(text)).status_code == 401
    for arguments in (["token", "nobody"], ["tokens", "nobody"], ["revoke", "cli", token.id]):
        told = runner.invoke(users_commands, arguments)
        assert (told.exit_code, told.output.splitlines()[-1][:7]) == (1, "Error: ")
    for span in ("0d", "90", "d", "-1d", "1.5h", "١d", "999999d"):
        assert runner.invoke(users_commands, ["token", "cli", "--expires", span]).exit_code == 2
    assert users.read()["cli"].tokens == ()


def test_user_without_a_password_comes_in_by_a_token_alone(own: Flask, users: UsersFile, client: FlaskClient) -> None:
    told = own.test_cli_runner().invoke(users_commands, ["add", "robot", "--no-password"])
    assert told.output == "added robot (predict)\n"
    text, _ = users.add_token("robot", 60)
    assert client.get(PATH, headers=bearer(text)).status_code == 200
    assert client.get(PATH, headers=basic("robot", "")).status_code == 401
    assert replace(users.read()["robot"], tokens=()).password_hash.startswith("scrypt:")
