"""The worker, from outside: what clients that send slowly, oddly or not at all get, and what the others notice."""

import http.client
import json
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests

from app.routes import count_threads
from tests.conftest import PASSWORD, USER, LiveServer, basic, within

pytestmark = pytest.mark.slow

PATH = "/predictions/pcam-classification"
AUTH = (USER, PASSWORD)
HEAD = f"PUT {PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic()['Authorization']}\r\nContent-Length: %d\r\n"


@pytest.fixture(scope="module")
def live(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One worker with places for two predictions, which loses patience soon."""
    settings = {
        "SCANCER_WORKERS": "1",
        "SCANCER_THREADS": "2",
        "SCANCER_UPLOAD_TIMEOUT_S": "2",
        "GUNICORN_CMD_ARGS": "--keep-alive 1",
    }
    live = LiveServer(instance, tmp_path_factory.mktemp("worker") / "log", settings)
    try:
        yield live.start()
    finally:
        live.stop()


def connect(live: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", live.ports[0]), timeout=10)


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Read several answers, which one buffer must hold."""
    answers = []
    with connection.makefile("rb") as stream:
        for _ in range(count):
            status = int(stream.readline().split()[1])
            headers = http.client.parse_headers(stream)
            answers.append((status, stream.read(int(headers["Content-Length"]))))
    return answers


def predict(live: LiveServer, picture: bytes) -> requests.Response:
    return requests.put(live.inference + PATH, data=picture, auth=AUTH, timeout=10)


@pytest.mark.alone
def test_many_half_sent_requests_do_not_keep_others_waiting(live: LiveServer, pcam_example: bytes) -> None:
    predict(live, pcam_example)
    head = (HEAD % len(pcam_example) + "\r\n").encode()
    slow = [connect(live) for _ in range(2 * count_threads(2))]
    for number, connection in enumerate(slow):
        connection.sendall((head + pcam_example)[: 10 + number * 20])
    started = time.monotonic()
    assert predict(live, pcam_example).status_code == 200
    assert time.monotonic() - started < 1
    for connection in slow:
        status, body = read_answer(connection)
        assert (status, json.loads(body)["code"]) == (408, 408)
        connection.close()
    assert 1 < time.monotonic() - started < 9


def test_slow_request_that_ends_in_time_is_answered(live: LiveServer, pcam_example: bytes) -> None:
    message = (HEAD % len(pcam_example) + "\r\n").encode() + pcam_example
    with connect(live) as connection:
        for start in range(0, len(message), 4000):
            connection.sendall(message[start : start + 4000])
            time.sleep(0.02)
        assert read_answer(connection)[0] == 200


def test_requests_sent_ahead_are_answered_in_order(live: LiveServer) -> None:
    with connect(live) as connection:
        connection.sendall(
            b"".join(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"/ping", b"/nope", b"/ping"))
        )
        assert [status for status, _ in read_answers(connection, 3)] == [200, 404, 200]


@pytest.mark.alone
def test_thousands_of_requests_sent_ahead_keep_nobody_waiting_for_long(live: LiveServer, pcam_example: bytes) -> None:
    with requests.Session() as known:
        known.auth = AUTH
        assert known.put(live.inference + PATH, data=pcam_example, timeout=30).status_code == 200
        floods = [connect(live) for _ in range(100)]
        for flood in floods:
            flood.setblocking(False)
            flood.send(b"GET /nope HTTP/1.1\r\nHost: h\r\n\r\n" * 5000)
        waits = []
        for _ in range(5):
            for address in (live.management, live.metrics):
                waits.append(requests.get(address + "/ping", timeout=30).elapsed.total_seconds())
            answer = known.put(live.inference + PATH, data=pcam_example, timeout=30)
            assert answer.status_code == 200
            waits.append(answer.elapsed.total_seconds())
        for flood in floods:
            flood.close()
    assert max(waits) < 2  # they were 5 to 12 s where all were computed at once


def test_client_that_asks_first_is_told_to_continue(live: LiveServer, pcam_example: bytes) -> None:
    with connect(live) as connection:
        connection.sendall((HEAD % len(pcam_example) + "Expect: 100-continue\r\n\r\n").encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(pcam_example)
        assert read_answer(connection)[0] == 200


def test_client_that_asks_first_to_send_too_much_sends_nothing(live: LiveServer) -> None:
    with connect(live) as connection:
        connection.sendall((HEAD % (64 * 1024 * 1024) + "Expect: 100-continue\r\n\r\n").encode())
        assert read_answer(connection)[0] == 413


def test_client_that_sends_too_much_gets_its_answer_all_the_same(live: LiveServer) -> None:
    with connect(live) as connection:
        connection.sendall((HEAD % (64 * 1024 * 1024) + "\r\n").encode())
        for _ in range(64):
            connection.sendall(bytes(64 * 1024))
        status, body = read_answer(connection)
        assert (status, json.loads(body)["type"]) == (413, "BodyTooLargeException")


def test_idle_connection_is_closed_without_a_word(live: LiveServer) -> None:
    with connect(live) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_answer(connection)[0] == 200
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.5 < time.monotonic() - started < 4


@pytest.mark.parametrize(
    "junk, reason",
    [
        (b"nonsense\r\n\r\n", "Invalid method encountered"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "Invalid character in Content-Length"),
        (b"\x16\x03\x01\x02\x00", "Invalid method encountered"),
    ],
)
def test_what_is_no_request_is_answered_in_the_one_shape(live: LiveServer, junk: bytes, reason: str) -> None:
    with connect(live) as connection:
        connection.sendall(junk)
        status, body = read_answer(connection)
        assert status == 400
        assert json.loads(body) == {
            "code": 400,
            "type": "BadRequestException",
            "message": f"The request is no valid HTTP: {reason}.",
        }
        assert connection.recv(1) == b""


def test_head_is_answered_without_a_body(live: LiveServer) -> None:
    answer = requests.head(live.inference + "/ping", timeout=5)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0


def test_client_that_reads_slowly_gets_the_whole_answer(live: LiveServer) -> None:
    head = f"GET /api-description HTTP/1.1\r\nHost: h\r\nAuthorization: {basic()['Authorization']}\r\n\r\n".encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", live.ports[0]))
        connection.sendall(head * 100)  # more than the buffers of both sides hold
        time.sleep(0.3)
        assert requests.get(live.inference + "/ping", timeout=5).status_code == 200
        answers = read_answers(connection, 100)
    assert {status for status, _ in answers} == {200}
    assert all(json.loads(body)["openapi"] for _, body in answers)


def test_client_that_goes_away_costs_nothing(live: LiveServer, pcam_example: bytes) -> None:
    for _ in range(20):
        connection = connect(live)
        connection.sendall((HEAD % len(pcam_example) + "\r\n").encode() + pcam_example)
        connection.close()
    deadline = time.monotonic() + 5
    while predict(live, pcam_example).status_code != 200:  # while both places are taken
        assert time.monotonic() < deadline
    assert "Traceback" not in live.log.read_text()
    assert "failed" not in live.log.read_text()


def test_descriptors_are_given_back(live: LiveServer) -> None:
    assert live.process is not None
    (worker,) = Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text().split()

    def count() -> int:
        return len(list(Path(f"/proc/{worker}/fd").iterdir()))

    before = count()
    connections = [connect(live) for _ in range(50)]
    for connection in connections:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_answer(connection)[0] == 200
    assert count() >= before + 40
    for connection in connections:
        connection.close()
    deadline = time.monotonic() + 5
    while count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def small(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One worker that holds 2 MiB of bodies, of 256 KiB each at most, and has 60 connections."""
    settings = {
        "SCANCER_WORKERS": "1",
        "SCANCER_MAX_BODY_BYTES": "262144",
        "GUNICORN_CMD_ARGS": "--worker-connections 60",
    }
    live = LiveServer(instance, tmp_path_factory.mktemp("small") / "log", settings)
    try:
        yield live.start()
    finally:
        live.stop()


def send_half(live: LiveServer, head: str, body: bytes) -> socket.socket:
    connection = connect(live)
    connection.sendall((head % 262144 + "\r\n").encode() + body)
    return connection


def has_ended(connection: socket.socket) -> bool:
    """Whether the server has answered or closed."""
    return bool(select.select([connection], [], [], 0)[0])


STRANGER = f"PUT {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n"


def test_held_bodies_of_strangers_give_way_and_known_users_come_first(small: LiveServer, pcam_example: bytes) -> None:
    assert predict(small, pcam_example).status_code == 200  # so that the worker knows the user
    with ExitStack() as stack:
        known = stack.enter_context(send_half(small, HEAD, bytes(250_000)))
        photo = stack.enter_context(send_half(small, STRANGER, pcam_example[:1000]))
        strangers = []
        for _ in range(16):
            strangers.append(stack.enter_context(send_half(small, STRANGER, bytes(260_000))))
            assert predict(small, pcam_example).status_code == 200
        refused = [each for each in strangers if has_ended(each)]
        assert len(refused) >= 16 - 8
        for connection in refused:
            status, body = read_answer(connection)
            assert (status, json.loads(body)["message"]) == (503, "Too many uploads at a time.")
        assert strangers[-1] not in refused
        assert not has_ended(known)
        assert not has_ended(photo)
        known.sendall(bytes(262_144 - 250_000))
        assert read_answer(known)[0] == 415
        photo.sendall(bytes(262_144 - 1000))
        assert read_answer(photo)[0] == 401


def test_where_all_are_known_the_largest_and_oldest_body_gives_way(small: LiveServer, pcam_example: bytes) -> None:
    assert predict(small, pcam_example).status_code == 200
    with ExitStack() as stack:
        uploads = [stack.enter_context(send_half(small, HEAD, bytes(260_000))) for _ in range(10)]
        assert within(5, lambda: any(map(has_ended, uploads)))
        assert [has_ended(each) for each in uploads[-4:]] == [False] * 4


SILENCES = {
    "nothing": b"",
    "blank lines": b"\r\n\r\n",
    "half a head": b"GET /ping HTTP/1.1\r\nHost: h\r\n",
    "half a body": (STRANGER % 100 + "\r\nhalf").encode(),
    "an answer that is not read": b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n",
}


@pytest.mark.parametrize("silence", SILENCES)
def test_full_address_still_takes_newcomers_and_known_clients_stay(
    small: LiveServer, pcam_example: bytes, silence: str
) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(requests.Session())
        ask = partial(session.put, small.inference + PATH, data=pcam_example, auth=AUTH, timeout=10)
        assert ask().status_code == 200
        (kept,) = session.adapters["http://"].poolmanager.pools._container.values()  # type: ignore[attr-defined]
        for _ in range(150):
            stack.enter_context(connect(small)).sendall(SILENCES[silence])
        for address in (small.inference, small.management, small.metrics):
            started = time.monotonic()
            assert requests.get(address + "/ping", timeout=10).status_code == 200
            assert time.monotonic() - started < 1
        assert ask().status_code == 200
        assert kept.num_connections == 1  # the same connection
    assert 'scancer_refused_total{reason="connections"}' in requests.get(small.metrics + "/metrics", timeout=10).text


def test_flood_at_one_address_leaves_the_others_their_share(small: LiveServer) -> None:
    with ExitStack() as stack:
        metrics = stack.enter_context(socket.create_connection(("127.0.0.1", small.ports[2]), timeout=10))
        for _ in range(150):
            stack.enter_context(connect(small))
        assert not has_ended(metrics)  # it says nothing either, but its own address is not full
        metrics.sendall(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_answer(metrics)[0] == 200


def test_client_that_sends_blank_lines_alone_is_closed(live: LiveServer) -> None:
    started = time.monotonic()
    with connect(live) as slow, connect(live) as quick:
        quick.sendall(b"\r\n" * 20)
        status, body = read_answer(quick)
        assert (status, json.loads(body)["message"]) == (400, "Too many blank lines came before a request.")
        while not has_ended(slow):  # each line came long before the time was over
            assert time.monotonic() - started < 5
            slow.sendall(b"\r\n")
            select.select([slow], [], [], 0.7)
        assert slow.recv(1) == b""


def test_request_after_a_blank_line_is_answered(live: LiveServer) -> None:
    with connect(live) as connection:
        connection.sendall(b"\r\n\r\nGET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_answer(connection)[0] == 200


def has_more_than(answers: list[int], count: int) -> bool:
    return len(answers) > count


def test_reload_loses_no_request(instance: Path, tmp_path: Path, pcam_example: bytes) -> None:
    live = LiveServer(instance, tmp_path / "log", {"SCANCER_WORKERS": "2"}).start()
    assert live.process is not None
    children = Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children")
    first_workers = set(children.read_text().split())
    statuses: list[int] = []
    stops = threading.Event()

    def send() -> None:
        with requests.Session() as session:
            while not stops.is_set():
                statuses.append(
                    session.put(live.inference + PATH, data=pcam_example, auth=AUTH, timeout=20).status_code
                )

    threads = [threading.Thread(target=send) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert within(60, partial(has_more_than, statuses, len(statuses) + 8))
            live.process.send_signal(signal.SIGHUP)
        assert within(60, lambda: not first_workers & set(children.read_text().split()))
    finally:
        stops.set()
        for thread in threads:
            thread.join()
        live.stop()
    assert set(statuses) == {200}


def test_tls_from_gunicorns_own_options(instance: Path, tmp_path: Path, pcam_example: bytes) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *names], check=True, capture_output=True)
    options = f"--certfile {certificate} --keyfile {key}"
    live = LiveServer(instance, tmp_path / "log", {"SCANCER_WORKERS": "1", "GUNICORN_CMD_ARGS": options})
    address = f"https://localhost:{live.ports[0]}"
    context = ssl.create_default_context(cafile=certificate)
    try:
        live.launch()
        deadline = time.monotonic() + 30
        while True:
            try:
                with socket.create_connection(("localhost", live.ports[0]), timeout=5) as raw:
                    context.wrap_socket(raw, server_hostname="localhost").close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(certificate)
            for _ in range(3):
                assert session.put(address + PATH, data=pcam_example, auth=AUTH, timeout=20).status_code == 200
            too_large = session.put(address + PATH, data=bytes(33 * 1024 * 1024), auth=AUTH, timeout=20)
            assert too_large.status_code == 413
    finally:
        live.stop()


@pytest.mark.alone
def test_stopping_server_says_so_first_and_answers_on(instance: Path, tmp_path: Path, pcam_example: bytes) -> None:
    live = LiveServer(instance, tmp_path / "log", {"SCANCER_WORKERS": "2", "SCANCER_STOP_DELAY_S": "2"}).start()
    assert live.process is not None
    try:
        assert predict(live, pcam_example).status_code == 200
        live.process.terminate()
        started = time.monotonic()
        while requests.get(live.inference + "/health/ready", timeout=5).status_code == 200:
            assert time.monotonic() < started + 1
        assert requests.get(live.inference + "/ping", timeout=5).status_code == 500
        assert predict(live, pcam_example).status_code == 200
    finally:
        live.process.wait(15)
    assert 1.5 < time.monotonic() - started < 8


def test_gunicorns_own_grace_bounds_how_long_a_stopping_worker_waits(instance: Path, tmp_path: Path) -> None:
    options = {"SCANCER_WORKERS": "1", "SCANCER_STOP_DELAY_S": "1", "GUNICORN_CMD_ARGS": "--graceful-timeout 3"}
    live = LiveServer(instance, tmp_path / "log", options).start()
    assert live.process is not None
    with connect(live) as connection:
        connection.sendall(HEAD.encode() % 100 + b"\r\n")  # the body never comes
        time.sleep(0.5)
        started = time.monotonic()
        live.process.terminate()
        assert live.process.wait(20) == 0
        assert 2 < time.monotonic() - started < 6
    assert "Perhaps out of memory" not in live.log.read_text()  # the worker ended by itself


def test_deadline_of_the_caller_is_kept(live: LiveServer, pcam_example: bytes) -> None:
    def ask(timeout_ms: str) -> requests.Response:
        headers = {"X-Request-Timeout-Ms": timeout_ms}
        return requests.put(live.inference + PATH, data=pcam_example, auth=AUTH, headers=headers, timeout=10)

    assert ask("5000").status_code == 200
    started = time.monotonic()
    late = ask("0")
    assert time.monotonic() - started < 2
    assert (late.status_code, late.json()["type"]) == (504, "GatewayTimeoutException")
    assert ask("soon").status_code == 400
    assert ask("5000").status_code == 200


@pytest.mark.alone
def test_overload_is_turned_away_at_once_and_health_answers(
    instance: Path, tmp_path: Path, isic_example: bytes
) -> None:
    settings = {
        "SCANCER_WORKERS": "1",
        "SCANCER_THREADS": "8",
        "SCANCER_LOG_LEVEL": "WARNING",
    }
    live = LiveServer(instance, tmp_path / "log", settings).start()
    answers: list[requests.Response] = []
    stops = threading.Event()

    def hammer() -> None:
        with requests.Session() as session:
            while not stops.is_set():
                address = live.inference + "/predictions/isic-classification"
                answers.append(session.put(address, data=isic_example, auth=AUTH, timeout=20))
                time.sleep(0.01)

    threads = [threading.Thread(target=hammer) for _ in range(24)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(1)
        waits = []
        for _ in range(20):
            started = time.monotonic()
            assert requests.get(live.inference + "/health/live", timeout=5).status_code == 200
            waits.append(time.monotonic() - started)
            time.sleep(0.05)
    finally:
        stops.set()
        for thread in threads:
            thread.join()
        counted = requests.get(live.metrics + "/metrics", timeout=5).text
        live.stop()
    assert sorted(waits)[len(waits) // 2] < 0.5
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    assert {answer.json()["type"] for answer in refused} == {"ServiceUnavailableException"}
    count = re.search(r'^scancer_refused_total{reason="overload"} (.+)', counted, re.MULTILINE)
    assert count is not None
    assert float(count[1]) == len(refused)


@pytest.mark.alone
def test_client_that_never_stops_sending_is_left(live: LiveServer, pcam_example: bytes) -> None:
    connections = [connect(live) for _ in range(count_threads(2) + 1)]  # more than there are threads
    ends = [0.0] * len(connections)

    def send_for_ever(index: int) -> None:
        connection = connections[index]
        try:
            connection.sendall((HEAD % (64 * 1024 * 1024) + "\r\n").encode())
            while True:
                connection.sendall(bytes(256 * 1024))
        except OSError:
            ends[index] = time.monotonic()

    threads = [threading.Thread(target=send_for_ever, args=(index,)) for index in range(len(connections))]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    answer = predict(live, pcam_example)
    if answer.status_code == 503:  # they hold every place for a moment, and others are told when to come again
        assert answer.headers["Retry-After"] == "1"
        time.sleep(1)
        answer = predict(live, pcam_example)
    assert answer.status_code == 200
    for thread in threads:
        thread.join(10)
    for connection in connections:
        connection.close()
    assert all(0 < end - started < 8 for end in ends)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc of Linux")
def test_code_is_imported_once_for_all_workers_and_no_framework_before_they_are_made(live: LiveServer) -> None:
    assert live.process is not None
    arbiter = psutil.Process(live.process.pid)
    (worker,) = arbiter.children()
    files = [{Path(each.path).name for each in process.memory_maps()} for process in (arbiter, worker)]
    numpy, network = "_multiarray_umath", "libopenvino"
    assert [any(name.startswith(numpy) for name in found) for found in files] == [True, True]
    assert [any(name.startswith(network) for name in found) for found in files] == [False, True]
    assert arbiter.num_threads() == 1
