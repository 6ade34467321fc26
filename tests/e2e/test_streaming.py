"""Answers in parts behind a real gunicorn: when each part comes, and what clients see of one that breaks off."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.users import UsersFile
from tests.conftest import PASSWORD, USER, LiveServer, basic, within
from tests.handlers.archives import make_archive, make_config

HANDLER = """
import os, time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    order, _, rest = data[0]["body"].partition(" ")

    def send(part):
        send_intermediate_predict_response([part], context.request_ids, "ok", 200, context)

    if order == "mute":
        return ["whole"]
    if order == "status":
        context.set_response_status(207, "Odd", 0)
        context.set_response_content_type(0, "text/csv")
    if order == "large":
        for number in range(64):
            send(bytes([number]) * 500_000)
        return [b"end"]
    send("one ")
    if order == "wait":
        while not os.path.exists(rest):
            time.sleep(0.01)
    if order == "crash":
        os._exit(3)
    if order == "raise":
        raise ValueError("secret of a patient")
    if order == "endless":
        while True:
            time.sleep(0.01)
    send("")
    send({"two": 2})
    return ["three"]
"""
PARTS = [b"one ", b'{\n  "two": 2\n}', b"three"]
QUEUE_SIZE = 4
ASKED = "waits-for-a-sign"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("streaming")
    instance = folder / "instance"
    instance.mkdir()
    UsersFile(instance).add(USER, "predict", PASSWORD)
    config = make_config(minWorkers=2, maxWorkers=2, responseTimeout=2, jobQueueSize=QUEUE_SIZE)
    files: dict[str, str | bytes] = {"s.py": HANDLER, "c.yaml": config}
    make_archive(folder / "models", "parts", "s.py", files, config_file="c.yaml")
    settings = {
        "SCANCER_WORKERS": "1",
        "SCANCER_PROGRAMS": "all",
        "SCANCER_MODELS": str(folder / "models"),
    }
    server = LiveServer(instance, folder / "log", settings)
    yield server.start()
    server.stop()


def connect(live: LiveServer, order: str, protocol: str = "HTTP/1.1") -> socket.socket:
    """Send a request, and nothing more."""
    connection = socket.create_connection(("127.0.0.1", live.ports[0]), timeout=20)
    send(connection, order, protocol)
    return connection


def send(connection: socket.socket, order: str, protocol: str = "HTTP/1.1") -> None:
    head = f"POST /predictions/parts {protocol}\r\nHost: h\r\nAuthorization: {basic()['Authorization']}\r\n"
    head += f"X-Request-ID: {ASKED}\r\n" if order.startswith("wait") else ""
    head += f"Content-Type: text/plain\r\nContent-Length: {len(order)}\r\n\r\n{order}"
    connection.sendall(head.encode())


def read_head(stream: Any) -> tuple[str, http.client.HTTPMessage]:
    status = stream.readline().decode().strip()
    return status, http.client.parse_headers(stream)


def read_chunk(stream: Any) -> bytes:
    """Read one chunk as it was framed; raises `EOFError` at the end of a connection."""
    line = stream.readline()
    if not line:
        raise EOFError
    body = stream.read(int(line, 16) + 2)
    assert body.endswith(b"\r\n")
    return bytes(body[:-2])


def ask(live: LiveServer, order: str, protocol: str = "HTTP/1.1") -> tuple[int, bytes]:
    with connect(live, order, protocol) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


def test_each_part_is_a_chunk_and_comes_when_it_is_made(live: LiveServer, tmp_path: Path) -> None:
    sign = tmp_path / "go"
    with connect(live, f"wait {sign}") as connection, connection.makefile("rb") as stream:
        status, headers = read_head(stream)
        assert status == "HTTP/1.1 200 OK"
        assert (headers["Transfer-Encoding"], headers["Content-Length"]) == ("chunked", None)
        assert (headers["X-Model-Version"], headers["Content-Type"]) == ("1.0", None)
        assert headers["X-Request-ID"]
        assert headers["X-Accel-Buffering"] == "no"
        assert read_chunk(stream) == PARTS[0]
        sign.touch()  # the handler waits for it before it goes on
        assert [read_chunk(stream) for _ in range(3)] == [*PARTS[1:], b""]
        send(connection, "mute")  # and the connection goes on
        status, headers = read_head(stream)
        assert (headers["Transfer-Encoding"], stream.read(int(headers["Content-Length"]))) == (None, b"whole")


def test_status_and_headers_are_those_of_the_first_part(live: LiveServer) -> None:
    with connect(live, "status") as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, response.reason, response.headers["Content-Type"]) == (207, "Odd", "text/csv")
        assert response.read() == b"".join(PARTS)


@pytest.mark.parametrize("order", ["crash", "raise", "endless"])
def test_answer_that_breaks_off_ends_the_connection_without_the_last_chunk(live: LiveServer, order: str) -> None:
    before = live.log.read_text().count("answer broken off")
    with connect(live, order) as connection, connection.makefile("rb") as stream:
        read_head(stream)
        assert read_chunk(stream) == PARTS[0]
        with pytest.raises(EOFError):
            read_chunk(stream)
    assert within(5, lambda: live.log.read_text().count("answer broken off") == before + 1)
    assert "secret" not in live.log.read_text()
    assert ask(live, "any") == (200, b"".join(PARTS))


@pytest.mark.parametrize(("order", "status"), [("any", 200), ("raise", 503), ("crash", 500)])
def test_client_of_http_1_0_gets_the_whole_or_the_error(live: LiveServer, order: str, status: int) -> None:
    code, body = ask(live, order, "HTTP/1.0")
    assert code == status
    assert (body == b"".join(PARTS)) == (status == 200)
    with connect(live, "any", "HTTP/1.0") as connection, connection.makefile("rb") as stream:
        _, headers = read_head(stream)
        assert (headers["Transfer-Encoding"], headers["Content-Length"]) == (None, str(len(b"".join(PARTS))))


def test_clients_that_leave_take_no_room(live: LiveServer, tmp_path: Path) -> None:
    places = QUEUE_SIZE + 2  # one for each process of the handler
    for number in range(places + 1):
        sign = tmp_path / f"go-{number}"
        with connect(live, f"wait {sign}") as connection, connection.makefile("rb") as stream:
            read_head(stream)
            read_chunk(stream)
        sign.touch()
    assert ask(live, "any") == (200, b"".join(PARTS))
    assert within(5, lambda: sum(line["outcome"] != "OK" for line in list_lines(live)) == places + 1)
    assert {line.get("outcome") for line in list_lines(live)[-places - 1 :]} == {"GatewayTimeoutException"}


def test_client_that_reads_slowly_gets_all_and_keeps_no_handler_waiting(live: LiveServer) -> None:
    expected = hashlib.sha256(b"".join(bytes([number]) * 500_000 for number in range(64)) + b"end").digest()
    with connect(live, "large") as slow:
        started = time.monotonic()
        with ThreadPoolExecutor(2) as threads:  # both handlers, of which one has the slow client
            others = list(threads.map(lambda _: ask(live, "large"), range(2)))
        assert {(status, hashlib.sha256(body).digest()) for status, body in others} == {(200, expected)}
        assert time.monotonic() - started < 20
        response = http.client.HTTPResponse(slow)
        response.begin()
        assert hashlib.sha256(response.read()).digest() == expected


def list_lines(live: LiveServer) -> list[dict[str, Any]]:
    """The log's lines of the requests that waited for a sign and are over."""
    lines = [json.loads(line) for line in live.log.read_text().splitlines() if ASKED in line]
    return [line for line in lines if line["message"] == "request"]


def test_log_line_comes_at_the_end(live: LiveServer, tmp_path: Path) -> None:
    sign, before = tmp_path / "go", len(list_lines(live))
    with connect(live, f"wait {sign}") as connection, connection.makefile("rb") as stream:
        read_head(stream)
        read_chunk(stream)
        time.sleep(0.3)
        assert len(list_lines(live)) == before
        sign.touch()
        while read_chunk(stream):
            pass
    assert within(5, lambda: len(list_lines(live)) == before + 1)
    line = list_lines(live)[-1]
    assert (line["status"], line["model"], line["ms"] >= 300, line["outcome"]) == (200, "parts", True, "OK")
