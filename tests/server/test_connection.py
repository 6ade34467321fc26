"""`Connection` on a socket pair: what is withheld, and what is refused, reaches the client whole."""

import json
import logging
import socket
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from app.server.answer import Answer
from app.server.client_presence import ClientTimes
from app.server.connection import RECEIVE_BYTES, REQUEST_BYTES, Connection, State
from app.server.gunicorn_worker import make_base
from app.server.request_reader import AHEAD_BYTES, Request, RequestReader

LIMIT = 1000
OVERSIZED = b"PUT /p HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n" + bytes(500)
TEXT = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    base = make_base("socket", "socket", "http")
    connection = Connection(ours, RequestReader(base, LIMIT), ClientTimes(1.0, 1.0), lambda _: None)
    yield connection, theirs
    connection.close()
    theirs.close()


def withhold(request: Request) -> Answer:
    return Answer(TEXT, is_last=not request.keeps_alive, delay_s=0.01)


def serve(connection: Connection) -> None:
    connection.serve(bytearray(RECEIVE_BYTES), withhold)


def test_withheld_answer_goes_out_on_release_and_not_before(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    serve(connection)
    assert connection.due is not None
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    connection.release()
    assert client.recv(1000) == TEXT
    assert (connection.due, connection.is_closed) == (None, False)


def test_withheld_refusal_of_an_oversized_body_reaches_the_client(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(OVERSIZED)
    serve(connection)
    connection.release()
    assert client.recv(1000) == TEXT
    assert client.recv(1000) == b""  # the end; what is still sent is thrown away
    client.sendall(bytes(500))
    serve(connection)
    assert not connection.is_closed


def test_requests_after_a_withheld_answer_wait_for_it(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    serve(connection)
    connection.release()
    assert client.recv(1000) == TEXT
    assert connection.wants_write  # there is another to answer
    serve(connection)
    connection.release()
    assert client.recv(1000) == TEXT


def test_refused_upload_is_let_go_and_refused_once(
    pair: tuple[Connection, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    connection, client = pair
    client.sendall(b"PUT /p HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n" + bytes(500))
    serve(connection)
    assert connection.held_bytes == 500
    connection.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many uploads at a time.", 1)
    assert (connection.held_bytes, connection.state) == (0, State.REFUSING)
    head, _, body = client.recv(1000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["code"] == 503
    [record] = [record for record in caplog.records if record.message == "no whole request"]
    assert f"\r\nX-Request-ID: {record.__dict__['request_id']}\r\n".encode() in head


def test_client_that_never_pauses_is_left_at_its_deadline(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(OVERSIZED)
    serve(connection)
    connection.release()
    connection.deadline = 0.0
    client.sendall(bytes(500))
    serve(connection)
    assert connection.is_closed


def test_upload_that_never_pauses_is_refused_at_its_deadline(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"PUT /p HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n" + bytes(500))
    serve(connection)
    connection.deadline = 0.0
    client.sendall(bytes(100))
    serve(connection)
    assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert connection.is_closed


def test_idle_client_is_answered_even_after_its_deadline(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    connection.deadline = 0.0
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    serve(connection)
    assert connection.due is not None


def test_requests_sent_ahead_are_answered_one_a_turn_and_no_more_is_read_meanwhile(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, client = pair
    request, answers = b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 0

    def answer(_: Request) -> Answer:
        nonlocal answers
        answers += 1
        return Answer(TEXT, is_last=False)

    client.sendall(2000 * request)
    held = []
    for turn in range(1, 2001):
        assert connection.wants_write or turn == 1 or not held[-1]
        connection.serve(bytearray(RECEIVE_BYTES), answer)
        assert answers == turn  # others have their turn after each
        assert client.recv(len(TEXT)) == TEXT
        held.append(connection.held_bytes)
    most = (AHEAD_BYTES // len(request)) * REQUEST_BYTES
    assert 0.9 * most < max(held) <= most
    assert (held[-1], connection.wants_write) == (0, False)


def test_rest_of_a_body_is_read_at_once_and_what_follows_it_is_not(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"PUT /p HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + bytes(10))
    serve(connection)
    client.sendall(bytes(990) + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 1000)
    serve(connection)
    connection.release()
    assert connection.held_bytes <= (AHEAD_BYTES // 27) * REQUEST_BYTES


def test_refused_client_has_no_request_waiting(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
    serve(connection)
    assert connection.held_bytes == 2 * REQUEST_BYTES
    connection.release()
    connection.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many uploads at a time.", 1)
    assert (connection.held_bytes, connection.state) == (0, State.REFUSING)


def test_client_whose_requests_wait_is_not_idle(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    buffer = bytearray(RECEIVE_BYTES)
    connection.serve(buffer, lambda _: Answer(TEXT, is_last=False))
    assert not connection.is_idle
    connection.serve(buffer, lambda _: Answer(TEXT, is_last=False))
    assert connection.is_idle


@pytest.mark.parametrize(
    "behind, told",
    [
        (b"no HTTP\r\n\r\n", b"HTTP/1.1 400 "),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"HTTP/1.1 100 "),
    ],
    ids=["what is no request", "a body that waits to be asked for"],
)
def test_client_is_told_what_came_of_bytes_behind_a_withheld_answer(
    pair: tuple[Connection, socket.socket], behind: bytes, told: bytes
) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + behind)
    serve(connection)
    connection.release()
    assert connection.wants_write  # the socket has nothing to report
    serve(connection)
    assert client.recv(5000).startswith(TEXT + told)


def test_refusal_comes_behind_an_answer_that_is_withheld(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    serve(connection)
    connection.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too much.")
    connection.release()
    assert client.recv(5000).startswith(TEXT + b"HTTP/1.1 503 ")
