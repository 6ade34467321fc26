"""Passwords: who gets in, what a verified one costs, and what is refused unseen."""

import base64
import threading
import time
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.api.request.auth import MAX_WAITING, Authenticator
from app.errors import TooManyLoginsError
from app.users import UsersFile
from tests.conftest import PASSWORD, USER, basic

PATH = "/models/pcam-classification"


def header(text: str) -> dict[str, str]:
    return {"Authorization": text}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(USER, "wrong password"),
        basic("nobody", PASSWORD),
        basic("", ""),
        basic(USER, ""),
        basic(USER, PASSWORD + "\0"),
        basic(USER, PASSWORD + "\r\n"),
        basic(USER + "\n", PASSWORD),
        header("Basic"),
        header("Basic !!!"),
        header("Basic \xfc"),
        header("Basic \xff\xff=="),
        header("Bearer \xe9=\xff"),
        header("Basic " + base64.b64encode(b"no colon").decode()),
        header("Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()),
        header("Bearer " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()),
    ],
)
def test_wrong_credentials_answer_401_with_a_challenge(client: FlaskClient, headers: dict[str, str]) -> None:
    answer = client.get(PATH, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Scancer API", charset="UTF-8"'
    assert answer.get_json()["code"] == 401


def test_right_credentials_answer_200(client: FlaskClient) -> None:
    assert client.get(PATH, headers=basic()).status_code == 200


def test_options_of_the_description_needs_a_password(client: FlaskClient) -> None:
    assert client.options("/").status_code == 401
    assert client.options("/", headers=basic()).status_code == 200


def test_unknown_model_is_not_told_to_strangers(client: FlaskClient) -> None:
    assert client.get("/models/nope").status_code == 401
    assert client.get("/models/nope", headers=basic()).status_code == 404


@pytest.fixture
def users(tmp_path: Path) -> UsersFile:
    file = UsersFile(tmp_path)
    file.add("ada", "predict", "ada's password")
    file.add("uni", "manage", "pässwörd-日本")
    return file


def cost_s(authenticator: Authenticator, password: str) -> float:
    started = time.process_time()
    authenticator.verify("ada", password)
    return time.process_time() - started


def test_verified_password_is_remembered_and_a_wrong_one_is_not(users: UsersFile) -> None:
    authenticator = Authenticator(users, memory_s=300)
    first = cost_s(authenticator, "ada's password")
    again = min(cost_s(authenticator, "ada's password") for _ in range(5))
    wrong = min(cost_s(authenticator, "not the password") for _ in range(2))
    assert again < first / 50
    assert wrong > again * 50


def test_remembered_password_is_forgotten_in_time(users: UsersFile) -> None:
    authenticator = Authenticator(users, memory_s=0)
    assert authenticator.verify("ada", "ada's password") is not None
    assert cost_s(authenticator, "ada's password") > 0.02


def test_removed_user_is_out_at_once(users: UsersFile) -> None:
    authenticator = Authenticator(users, memory_s=300)
    assert authenticator.verify("ada", "ada's password") is not None
    users.remove("ada")
    assert authenticator.verify("ada", "ada's password") is None


def test_password_may_hold_any_printable_character(users: UsersFile) -> None:
    assert Authenticator(users, 300).verify("uni", "pässwörd-日本") is not None


def test_broken_users_file_lets_nobody_in(users: UsersFile) -> None:
    authenticator = Authenticator(users, 300)
    users.path.write_text("ada:predict:$apr1$plain\n")
    assert authenticator.verify("ada", "ada's password") is None


def test_roles_include_the_lesser_one(users: UsersFile) -> None:
    assert users.read()["ada"].roles == ["predict"]
    assert users.read()["uni"].roles == ["predict", "manage"]


def test_too_many_slow_logins_at_a_time_are_refused(users: UsersFile) -> None:
    authenticator = Authenticator(users, 300)
    outcomes: list[str] = []
    barrier = threading.Barrier(MAX_WAITING * 4)

    def attempt(number: int) -> None:
        barrier.wait()
        try:
            authenticator.verify("ada", f"guess number {number}")
            outcomes.append("verified")
        except TooManyLoginsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(MAX_WAITING * 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "refused" in outcomes
    assert outcomes.count("verified") >= MAX_WAITING


def test_first_burst_of_one_client_is_one_login(users: UsersFile) -> None:
    authenticator = Authenticator(users, 300)
    barrier = threading.Barrier(24)
    verified = []

    def attempt() -> None:
        barrier.wait()
        verified.append(authenticator.verify("ada", "ada's password"))

    threads = [threading.Thread(target=attempt) for _ in range(24)]
    started = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [user.name for user in verified if user] == ["ada"] * 24
    one = cost_s(Authenticator(users, 300), "ada's password")
    assert time.process_time() - started < 6 * one
