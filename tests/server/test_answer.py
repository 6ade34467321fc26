"""From a WSGI application's chunks to what is sent: whole, or as they are made."""

import io
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.errors import BrokenAnswerError
from app.server.answer import Answer, call_application
from app.server.client_presence import ClientTimes
from app.server.connection import RECEIVE_BYTES, Connection
from app.server.gunicorn_worker import make_base
from app.server.request_reader import Request, RequestReader

CHUNKS = [b"one", b"", b"two" * 10]


class Chunks:
    """What an application returns: chunks, of which some may break off; knows whether it was closed."""

    def __init__(self, chunks: list[bytes], breaks: bool = False) -> None:
        self.chunks, self.breaks, self.closed = chunks, breaks, 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        if self.breaks:
            raise BrokenAnswerError("as told")

    def close(self) -> None:
        self.closed += 1


def make_app(chunks: Chunks, *headers: tuple[str, str], status: str = "200 OK") -> Callable[..., Chunks]:
    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Chunks:
        start_response(status, list(headers))
        return chunks

    return app


def call(app: Any, protocol: str = "HTTP/1.1", method: str = "POST") -> Answer:
    environ = {"REQUEST_METHOD": method, "SERVER_PROTOCOL": protocol, "wsgi.input": io.BytesIO()}
    return call_application(app, Request(environ, keeps_alive=True, is_oversized=False), is_last=False)


def test_body_of_unknown_length_is_sent_in_chunks_as_it_is_made() -> None:
    chunks = Chunks(CHUNKS)
    answer = call(make_app(chunks))
    assert answer.streamed is not None
    assert b"\r\nTransfer-Encoding: chunked\r\n" in answer.text
    assert b"Content-Length" not in answer.text
    assert list(answer.streamed) == [b"3\r\none\r\n", b"1e\r\n" + b"two" * 10 + b"\r\n", b"0\r\n\r\n"]
    assert chunks.closed == 0
    answer.streamed.close()
    assert chunks.closed == 1


@pytest.mark.parametrize(
    ("protocol", "method", "status", "headers", "end"),
    [
        ("HTTP/1.0", "POST", "200 OK", [], b"\r\nContent-Length: 33\r\n\r\none" + b"two" * 10),
        ("HTTP/1.1", "POST", "200 OK", [("content-length", "33")], b"\r\n\r\none" + b"two" * 10),
        ("HTTP/1.1", "HEAD", "200 OK", [], b"\r\n\r\n"),
        ("HTTP/1.1", "POST", "204 No Content", [], b"\r\n\r\n"),
    ],
)
def test_other_bodies_are_gathered_first(
    protocol: str, method: str, status: str, headers: list[tuple[str, str]], end: bytes
) -> None:
    chunks = Chunks(CHUNKS)
    answer = call(make_app(chunks, *headers, status=status), protocol, method)
    assert answer.streamed is None
    assert answer.text.endswith(end)
    assert b"Transfer-Encoding" not in answer.text
    assert chunks.closed == 1


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    connection = Connection(
        ours, RequestReader(make_base("s", "s", "http"), 1000), ClientTimes(1.0, 1.0), lambda _: None
    )
    yield connection, theirs
    connection.close()
    theirs.close()


def serve(connection: Connection, app: Any) -> None:
    def answer(request: Request) -> Answer:
        return call_application(app, request, is_last=not request.keeps_alive)

    connection.serve(bytearray(RECEIVE_BYTES), answer)


def test_answer_that_breaks_off_ends_the_connection(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    chunks = Chunks(CHUNKS, breaks=True)
    serve(connection, make_app(chunks))
    with client.makefile("rb") as stream:
        received = stream.read()
    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert received.endswith(b"two\r\n")  # without the last chunk
    assert (connection.is_closed, chunks.closed) == (True, 1)


def test_client_that_takes_nothing_yet_is_not_waited_for(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    chunks = Chunks([bytes([number]) * 10_000 for number in range(1, 200)])
    serve(connection, make_app(chunks))
    assert (connection.wants_write, chunks.closed) == (True, 1)
    received = b""
    while not received.endswith(b"\r\n0\r\n\r\n"):
        received += client.recv(1_000_000)
        serve(connection, make_app(chunks))
    body = received.partition(b"\r\n\r\n")[2]
    assert body == b"".join(b"2710\r\n" + chunk + b"\r\n" for chunk in chunks.chunks) + b"0\r\n\r\n"
    assert not connection.wants_write


def test_client_that_has_gone_is_given_up(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    made: list[bytes] = []

    class Endless(Chunks):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                client.close()
                made.append(b"part")
                yield made[-1]

    chunks = Endless([])
    serve(connection, make_app(chunks))
    assert (connection.is_closed, chunks.closed) == (True, 1)
    assert len(made) < 10


def test_body_is_freed_once_it_is_answered() -> None:
    reader, read = RequestReader(make_base("s", "s", "http"), 1000), []
    reader.feed(memoryview(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"))
    request = reader.requests.popleft()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        read.append(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Length", "6")])
        return [b"answer"]

    assert call_application(application, request, is_last=False).text.endswith(b"answer")
    assert read == [b"body"]
    assert request.environ["wsgi.input"].closed
