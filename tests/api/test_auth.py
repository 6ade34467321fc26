"""Passwords: who gets in, what a verified one costs, and what is refused unseen."""

import base64
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.security import check_password_hash, generate_password_hash

from app.api.login.authenticator import LOGIN_MEMORY_S, MAX_WAITING, NOBODYS_HASH, Authenticator
from app.api.login.sign_ins import FAILURES_A_MINUTE, SignIns
from app.errors import ServiceUnavailableError, TooManyLoginsError
from app.processes.shared_table import COUNTS, FAILURES
from app.users import HASH_METHOD, User, UsersFile
from tests.conftest import PASSWORD, USER, basic, no_descriptors, within

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
        header("Basic " + base64.b64encode(b"no colon").decode()),
        header("Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()),
    ],
)
def test_wrong_credentials_answer_401_with_a_challenge(client: FlaskClient, headers: dict[str, str]) -> None:
    answer = client.get(PATH, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Scancer API", charset="UTF-8"'
    assert answer.get_json()["code"] == 401


@pytest.mark.parametrize("text", ["\xe9=\xff", base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()])
def test_password_is_no_token(client: FlaskClient, text: str) -> None:
    answer = client.get(PATH, headers=header(f"Bearer {text}"))
    assert (answer.status_code, answer.json["code"]) == (401, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Scancer API", error="invalid_token"'


def test_right_credentials_answer_200(client: FlaskClient) -> None:
    assert client.get(PATH, headers=basic()).status_code == 200


def test_options_of_the_description_needs_a_password(client: FlaskClient) -> None:
    assert client.options("/").status_code == 401
    assert client.options("/", headers=basic()).status_code == 200


def test_unknown_model_is_not_told_to_strangers(client: FlaskClient) -> None:
    assert client.get("/models/nope").status_code == 401
    assert client.get("/models/nope", headers=basic()).status_code == 404


@pytest.fixture
def forget() -> None:
    """Whoever guessed before is forgotten, who is one of these tests."""
    COUNTS.clear()
    FAILURES.clear()


@pytest.fixture
def users(forget: None, tmp_path: Path) -> UsersFile:
    file = UsersFile(tmp_path)
    file.add("ada", "predict", "ada's password")
    file.add("uni", "manage", "pässwörd-日本語")
    return file


def cost_s(authenticator: Authenticator, password: str) -> float:
    started = time.process_time()
    authenticator.verify("ada", password)
    return time.process_time() - started


def test_verified_password_is_remembered_and_a_wrong_one_is_not(users: UsersFile) -> None:
    authenticator = Authenticator(users, memory_s=300)
    first = cost_s(authenticator, "ada's password")
    again = min(cost_s(authenticator, "ada's password") for _ in range(5))
    wrong = min(cost_s(authenticator, f"not the password {number}") for number in range(2))
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


def test_user_whose_line_changes_in_place_at_the_same_time_by_the_clock_is_out_at_once(users: UsersFile) -> None:
    authenticator = Authenticator(users, memory_s=300)
    assert authenticator.verify("ada", "ada's password") is not None
    status = users.path.stat()
    users.path.write_bytes(users.path.read_bytes().replace(b"ada:", b"ida:"))
    os.utime(users.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert authenticator.verify("ada", "ada's password") is None


def test_password_may_hold_any_printable_character(users: UsersFile) -> None:
    assert Authenticator(users, 300).verify("uni", "pässwörd-日本語") is not None


def test_broken_users_file_lets_nobody_in(users: UsersFile) -> None:
    authenticator = Authenticator(users, 300)
    users.path.write_text("ada:predict:$apr1$plain\n")
    assert authenticator.verify("ada", "ada's password") is None


def test_want_of_descriptors_while_the_users_change_keeps_nobody_out_for_longer(
    users: UsersFile, caplog: pytest.LogCaptureFixture
) -> None:
    authenticator = Authenticator(users, 300)
    assert authenticator.find("ada") is not None
    users.remove("uni")
    for _ in range(2):
        with no_descriptors():
            for _ in range(2):
                with pytest.raises(ServiceUnavailableError, match="The users cannot be read now"):
                    authenticator.verify("ada", "ada's password")
    assert [(each.message, each.reason) for each in caplog.records] == [  # type: ignore[attr-defined]
        ("nobody can log in", f"{users.path} cannot be read: Too many open files")
    ]
    assert authenticator.verify("ada", "ada's password") is not None
    assert authenticator.find("uni") is None
    users.path.write_text("ada:predict:$apr1$plain\n")
    for _ in range(2):
        assert authenticator.find("ada") is None
    assert len(caplog.records) == 2


def test_roles_include_the_lesser_one(users: UsersFile) -> None:
    assert users.read()["ada"].roles == ["predict"]
    assert users.read()["uni"].roles == ["predict", "manage"]


def attempt_together(authenticator: Authenticator, logins: list[tuple[str, str, str]]) -> list[str]:
    """Try logins (name, password, address) at one time; return who came in, `refused` or `wrong`, in order."""
    barrier = threading.Barrier(len(logins))

    def attempt(login: tuple[str, str, str]) -> str:
        barrier.wait()
        try:
            user = authenticator.verify(*login)
        except TooManyLoginsError:
            return "refused"
        return user.name if user is not None else "wrong"

    with ThreadPoolExecutor(len(logins)) as pool:
        return list(pool.map(attempt, logins))


def test_too_many_slow_logins_at_a_time_are_refused(users: UsersFile) -> None:
    logins = [("nobody", f"guess number {number}", f"10.1.0.{number}") for number in range(MAX_WAITING * 4)]
    outcomes = attempt_together(Authenticator(users), logins)
    assert set(outcomes) == {"refused", "wrong"}
    assert outcomes.count("wrong") >= MAX_WAITING


def test_first_logins_get_in_beside_strangers_who_fill_their_lane(users: UsersFile) -> None:
    strangers = [(f"nobody-{number}", "some password", f"10.2.0.{number}") for number in range(MAX_WAITING * 5)]
    good = [("ada", "ada's password", "10.2.1.1"), ("uni", "pässwörd-日本語", "10.2.1.1")]
    outcomes = attempt_together(Authenticator(users), [*strangers, *good])
    assert outcomes[-2:] == ["ada", "uni"]
    assert "refused" in outcomes


def test_used_password_is_remembered_for_longer(users: UsersFile) -> None:
    authenticator, header = Authenticator(users, memory_s=0.5), "Basic ada"
    ada = authenticator.verify("ada", "ada's password")
    assert ada is not None
    authenticator.remember(header, ada, "ada's password")
    assert not within(1.2, lambda: authenticator.recall(header) is None)  # it is used meanwhile
    assert cost_s(authenticator, "ada's password") < 0.02
    time.sleep(0.6)
    assert authenticator.recall(header) is None


def test_user_whose_memory_has_ended_comes_in_whatever_strangers_do(quick_users: UsersFile) -> None:
    authenticator, name = make_quick(quick_users, memory_s=0.0), next(iter(quick_users.read()))
    right = (name, "the right password 0", "10.3.0.1")
    assert authenticator.verify(*right) is not None
    assert fail_until_limited(authenticator, name, "10.3.0.1") == 10
    flood = [(each, f"guess {number}", "10.3.0.1") for number in range(20) for each in (name, "nobody")]
    outcomes = attempt_together(authenticator, [*flood, right])
    assert outcomes[-1] == name


def fail_until_limited(authenticator: Authenticator, name: str, address: str) -> int:
    """Guess one password after the other; return how many were looked at."""
    return guess_until_limited(authenticator, (name for _ in range(100)), address)


def guess_until_limited(authenticator: Authenticator, names: Iterable[str], address: str) -> int:
    """Guess a password for one name after the other; return how many were looked at."""
    waits: list[int | None] = []
    for name in names:
        try:
            assert authenticator.verify(name, f"wrong password {len(waits)}", address) is None
        except TooManyLoginsError as error:
            waits.append(error.retry_after_s)
            break
        waits.append(0)
    assert 1 <= (waits[-1] or 0) <= 60
    return len(waits) - 1


@pytest.fixture
def quick_users(forget: None, tmp_path: Path) -> UsersFile:
    """Users whose passwords take little time to hash."""
    file = UsersFile(tmp_path)
    for number in range(5):
        password_hash = generate_password_hash(f"the right password {number}", "scrypt:512:8:1")
        with file.path.open("a") as lines:
            lines.write(f"user-{tmp_path.name}-{number}:predict:{password_hash}\n")
    return file


def make_quick(users: UsersFile, memory_s: float = LOGIN_MEMORY_S) -> Authenticator:
    authenticator = Authenticator(users, memory_s)
    authenticator._nobody = User("", "predict", generate_password_hash("", "scrypt:512:8:1"))
    return authenticator


def test_unknown_user_costs_as_much_as_a_known_one_and_has_no_password() -> None:
    costs = []
    for password_hash in (generate_password_hash("the right password", HASH_METHOD), NOBODYS_HASH):
        for password in ("", "a guess"):
            started = time.thread_time()
            assert not check_password_hash(password_hash, password)
            costs.append(time.thread_time() - started)
    assert max(costs) < 2 * min(costs)


def test_guesses_are_limited_by_name_from_any_address(quick_users: UsersFile) -> None:
    authenticator, name = make_quick(quick_users), next(iter(quick_users.read()))
    assert authenticator.verify(name, "the right password 0", "10.4.0.1") is not None
    assert fail_until_limited(authenticator, name, "10.4.0.2") == 10
    with pytest.raises(TooManyLoginsError):  # from yet another address
        authenticator.verify(name, "another guess", "10.4.0.3")
    stranger = f"{name}-nobody"
    assert fail_until_limited(authenticator, stranger, "10.4.0.4") == 10  # the same for a name that does not exist
    # Where the name came in lately its owner may err, too, and nobody elsewhere can take that away.
    assert authenticator.verify(name, "a slip of the finger", "10.4.0.1") is None
    assert authenticator.verify(name, "the right password 0", "10.4.0.1") is not None


def test_wrong_tokens_from_many_addresses_free_no_name_that_is_limited(quick_users: UsersFile) -> None:
    authenticator, names, entered = make_quick(quick_users), list(quick_users.read()), 0
    for place, name in enumerate(names):
        assert fail_until_limited(authenticator, name, f"10.6.0.{place}") == 10
    for place in range(350):
        address = f"10.7.{place // 250}.{place % 250}"
        for number in range(29):
            authenticator.count_wrong_token(f"{place}-{number}", address)
            entered += SignIns().is_new_failure("wrong token", "", address)
    assert entered == FAILURES_A_MINUTE
    for place, name in enumerate(names):
        with pytest.raises(TooManyLoginsError):
            authenticator.verify(name, f"the right password {place}", "10.6.1.1")


def test_guesses_are_limited_by_address_while_users_behind_it_still_come_in(quick_users: UsersFile) -> None:
    authenticator, names = make_quick(quick_users), list(quick_users.read())
    assert guess_until_limited(authenticator, (f"nobody-{number}" for number in range(100)), "10.5.0.1") == 30
    assert authenticator.verify(names[0], "the right password 0", "10.5.0.1") is not None
    # A wrong password of a name that exists gets what one of a stranger gets, and guessing at these names ends, too.
    guesses = [(name, f"guess {number}") for number in range(10) for name in names[1:4]]
    for name, password in guesses:
        with pytest.raises(TooManyLoginsError):
            authenticator.verify(name, password, "10.5.0.1")
    with pytest.raises(TooManyLoginsError):
        authenticator.verify(names[4], "the right password 4", "10.5.0.1")
    assert authenticator.verify(names[4], "the right password 4", "10.5.0.2") is not None


def test_same_wrong_password_again_and_again_is_one_guess(quick_users: UsersFile) -> None:
    authenticator, name = make_quick(quick_users), next(iter(quick_users.read()))
    for _ in range(100):
        assert authenticator.verify(name, "an old password", "10.6.0.1") is None
    assert authenticator.verify(name, "the right password 0", "10.6.0.1") is not None


@pytest.mark.alone
def test_unknown_names_take_as_long_as_known_ones(users: UsersFile) -> None:
    authenticator = Authenticator(users)

    def measure(name: str) -> float:
        costs = []
        for number in range(7):
            started = time.process_time()
            assert authenticator.verify(name, f"guess {number}", f"10.7.0.{number}") is None
            costs.append(time.process_time() - started)
        return min(costs)

    assert measure("ada") == pytest.approx(measure("nobody at all"), rel=0.25)


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
