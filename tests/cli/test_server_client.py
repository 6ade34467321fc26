"""The client of `flask classify --url`: what a server that fails on a picture, or on all, does to the run."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.cli.classifying.server_client import MOST_FAULTS, ServerClient
from app.errors import PicturesError

MODEL = {"name": "m", "version": "1", "output": {"threshold": 0.5}}
FAULT = {"code": 500, "type": "InternalServerException", "message": "Prediction failed"}


class Handler(BaseHTTPRequestHandler):
    """Knows one model, which fails on pictures that are called bad."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, MODEL)

    def do_PUT(self) -> None:
        is_bad = self.rfile.read(int(self.headers["Content-Length"])) == b"bad"
        self.answer(*(500, FAULT) if is_bad else (200, {"class": "a"}))

    def answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[ServerClient]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = ServerClient(f"http://127.0.0.1:{server.server_port}", "m", None, 1, False)
        yield client
        client.close()
        server.shutdown()
        thread.join()


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, str]:
    for name in ("good", "bad"):
        (tmp_path / name).write_bytes(name.encode())
    return {name: str(tmp_path / name) for name in ("good", "bad")}


def test_picture_on_which_the_server_fails_is_a_row_and_the_run_goes_on(
    client: ServerClient, pictures: dict[str, str]
) -> None:
    order = ["good", *["bad"] * MOST_FAULTS, "good", *["bad"] * MOST_FAULTS]
    answers = client.ask([pictures[name] for name in order])
    assert [answer.get("class") or answer["message"] for answer in answers] == [
        {"good": "a", "bad": "Prediction failed"}[name] for name in order
    ]


def test_server_that_fails_on_every_picture_ends_the_run(client: ServerClient, pictures: dict[str, str]) -> None:
    with pytest.raises(PicturesError, match="answers 500: Prediction failed"):
        client.ask([pictures["bad"]] * (MOST_FAULTS + 1))
