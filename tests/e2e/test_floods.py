"""A real server of two workers whose strangers guess passwords, and whose users ask for much."""

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from app.users import UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer, copy_users, find_free_ports, within

PATH = "/predictions/pcam-classification"
AUTH, OPERATOR = (USER, PASSWORD), (MANAGER, MANAGER_PASSWORD)
REDIS = shutil.which("redis-server")


@contextmanager
def run_server(instance: Path, folder: Path, **settings: str) -> Iterator[LiveServer]:
    environment = {f"SCANCER_{name.upper()}": value for name, value in {"workers": "2", **settings}.items()}
    live = LiveServer(instance, folder / "log", environment)
    try:
        yield live.start()
    finally:
        live.stop()


def ask_each(live: LiveServer, count: int, ask: Callable[[], requests.Response]) -> list[requests.Response]:
    """Ask on many connections at a time, so that both workers are asked."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: ask(), range(count)))


def count_metric(live: LiveServer, line: str) -> float:
    text = requests.get(live.metrics + "/metrics", timeout=10).text
    return sum(float(each.split()[-1]) for each in text.splitlines() if each.startswith(line))


@pytest.fixture(scope="module")
def flooded(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    own = tmp_path_factory.mktemp("flooded")
    copy_users(instance, own / "instance")
    for number in range(6):
        UsersFile(own / "instance").add(f"newcomer-{number}", "predict", f"the password of {number}")
    with run_server(own / "instance", own) as live:
        yield live


def test_guesses_at_one_name_are_limited_in_all_workers_together(flooded: LiveServer) -> None:
    numbers = iter(range(1000))
    url = flooded.inference + "/models/pcam-classification"

    def guess() -> requests.Response:
        return requests.get(url, auth=("victim", f"open sesame {next(numbers)}"), timeout=30)

    answers = ask_each(flooded, 24, guess)
    assert {answer.status_code for answer in answers} == {401, 429}
    assert 10 <= sum(answer.status_code == 401 for answer in answers) <= 10 + 8  # those that were being looked at
    late = guess()
    assert late.json()["type"] == "TooManyLoginsException"
    assert 1 <= int(late.headers["Retry-After"]) <= 60
    assert late.elapsed.total_seconds() > 0.9  # as long as one that is looked at
    log = [json.loads(line) for line in flooded.log.read_text().splitlines() if line.startswith("{")]
    assert "10/minute failed of one name" in {line.get("reason") for line in log}
    assert sum(line["message"] == "a login failed" for line in log) >= 10
    assert "sesame" not in flooded.log.read_text()
    assert "victim" not in flooded.log.read_text()
    assert count_metric(flooded, 'scancer_failed_logins_total{reason="wrong"}') >= 10
    assert count_metric(flooded, 'scancer_failed_logins_total{reason="limited"}') >= 1


@pytest.mark.alone
def test_first_logins_and_known_users_come_in_while_strangers_flood(flooded: LiveServer, pcam_example: bytes) -> None:
    stops, tries = threading.Event(), []

    def flood(number: int) -> None:
        with requests.Session() as session:
            while not stops.is_set():
                who = (
                    (f"stranger-{number}-{len(tries)}", "a guess") if number % 2 else ("victim", f"guess {len(tries)}")
                )
                tries.append(session.get(flooded.inference + "/models", auth=who, timeout=30).status_code)

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    try:
        assert within(30, lambda: len(tries) >= len(threads))  # each guesser has been answered once
        assert requests.put(flooded.inference + PATH, data=pcam_example, auth=AUTH, timeout=30).status_code == 200
        for number in range(6):
            who = (f"newcomer-{number}", f"the password of {number}")
            first = [requests.get(flooded.inference + "/models", auth=who, timeout=30) for _ in range(4)]
            assert [answer.status_code for answer in first] == [200] * 4
        for address in (flooded.inference, flooded.management, flooded.metrics):
            assert requests.get(address + "/ping", timeout=10).elapsed.total_seconds() < 0.5
        known = requests.put(flooded.inference + PATH, data=pcam_example, auth=AUTH, timeout=30)
        assert (known.status_code, known.elapsed.total_seconds() < 1) == (200, True)
        before = len(tries)
        assert within(30, lambda: len(tries) > before)  # they still go on
    finally:
        stops.set()
        for thread in threads:
            thread.join()
    assert set(tries) <= {401, 429}


def test_user_may_ask_for_so_many_predictions_in_all_workers_together(
    own_instance: Path, tmp_path: Path, pcam_example: bytes
) -> None:
    with run_server(own_instance, tmp_path, prediction_rate="5 per minute") as live:

        def ask() -> requests.Response:
            return requests.put(live.inference + PATH, data=pcam_example, auth=AUTH, timeout=30)

        answers = ask_each(live, 12, ask)
        assert sum(answer.status_code == 200 for answer in answers) == 5
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json() == {
            "code": 429,
            "type": "TooManyRequestsException",
            "message": "A user may ask for 5 predictions a minute; wait.",
        }
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert requests.get(live.inference + "/models", auth=AUTH, timeout=10).status_code == 200
        other = requests.put(live.inference + PATH, data=pcam_example, auth=OPERATOR, timeout=30)
        assert other.status_code == 200
        assert count_metric(live, 'scancer_refused_total{reason="rate"}') == 7


@pytest.mark.skipif(REDIS is None, reason="redis-server is not installed (Debian: apt-get install redis-server)")
def test_two_servers_with_one_redis_count_together_and_each_alone_without_it(
    own_instance: Path, tmp_path: Path, pcam_example: bytes
) -> None:
    assert REDIS is not None
    (port,) = find_free_ports(1)
    command = [REDIS, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as redis:
        settings = {"limits_store": f"redis://127.0.0.1:{port}/0", "prediction_rate": "4/minute", "workers": "1"}
        (tmp_path / "second").mkdir()
        try:
            with (
                run_server(own_instance, tmp_path, **settings) as first,
                run_server(own_instance, tmp_path / "second", **settings) as second,
            ):

                def ask(live: LiveServer) -> int:
                    answer = requests.put(live.inference + PATH, data=pcam_example, auth=AUTH, timeout=30)
                    return answer.status_code

                assert [ask(live) for live in (first, second) * 3] == [200] * 4 + [429] * 2
                redis.terminate()
                redis.wait(10)
                assert [ask(first) for _ in range(5)] == [200] * 4 + [429]
                assert "Redis cannot be used" in first.log.read_text()
        finally:
            redis.terminate()


@pytest.mark.parametrize(
    "host", ["attacker.example", "localhost.attacker.example", "127.0.0.1.nip.io:80", "10.0.0.1", ""]
)
def test_where_nobody_is_asked_other_names_of_this_machine_are_refused(open_server: LiveServer, host: str) -> None:
    for port in open_server.ports:
        for method, path in (("GET", "/models"), ("GET", "/metrics"), ("GET", "/ping"), ("DELETE", "/models/x")):
            origin = f"Origin: http://{host}\r\n"
            assert ask_as(port, host, method, path, origin) == 421
            assert ask_as(port, host, method, path) == 421
    counted = requests.get(f"http://127.0.0.1:{open_server.ports[2]}/metrics", timeout=30).text
    assert re.search(r'scancer_requests_total\{[^}]*status="421"[^}]*\} [1-9]', counted)
    assert '"status": 421' in open_server.log.read_text()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:9", "127.8.0.1", "[::1]:8080", "[::1]"]
)
def test_where_nobody_is_asked_this_machine_is_served(open_server: LiveServer, host: str) -> None:
    assert [ask_as(port, host, "GET", "/ping") for port in open_server.ports] == [200] * 3
    assert ask_as(open_server.ports[2], host, "GET", "/metrics") == 200


def test_metrics_without_a_password_are_for_this_machines_names_alone(flooded: LiveServer) -> None:
    assert ask_as(flooded.ports[2], "localhost", "GET", "/metrics") == 200
    assert ask_as(flooded.ports[2], "attacker.example", "GET", "/metrics") == 401
    assert ask_as(flooded.ports[2], "attacker.example", "GET", "/ping") == 200


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that asks nobody for a password."""
    folder = tmp_path_factory.mktemp("open")
    with run_server(folder / "instance", folder, auth="off", workers="1") as live:
        yield live


def ask_as(port: int, host: str, method: str, path: str, more: str = "") -> int:
    """Ask with a `Host` header, and return the status."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n".encode())
        with connection.makefile("rb") as stream:
            return int(stream.readline().split()[1])
