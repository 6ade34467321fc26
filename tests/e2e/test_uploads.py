"""Models that come as the body of `POST /models`, to a real server: raw and in forms, whole, broken, too large."""

import hashlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import MIB
from app.exchange.packing import pack_model
from app.repository.model_folder import ModelFolder
from app.users import UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer, basic
from tests.handlers.archives import make_config

AUTH = (MANAGER, MANAGER_PASSWORD)
MANAGE = basic(MANAGER, MANAGER_PASSWORD)
LIMIT = 40 * MIB
NAME = "pcam-classification"
ARCHIVER = str(Path(sys.executable).with_name("torch-model-archiver"))
HANDLER = """
def handle(data, context):
    return None if data is None else [len(row["body"]) for row in data]
"""
FORMATS = {"default": "count.mar", "zip-store": "count.mar", "tgz": "count.tar.gz"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server without models that takes programs, bodies of 1 KiB and models of 40 MiB."""
    folder = tmp_path_factory.mktemp("uploads")
    (folder / "models").mkdir()
    (folder / "store").mkdir()
    instance = folder / "instance"
    instance.mkdir()
    UsersFile(instance).add(MANAGER, "manage", MANAGER_PASSWORD)
    UsersFile(instance).add(USER, "predict", PASSWORD)
    settings = {
        "SCANCER_MODELS": str(folder / "models"),
        "SCANCER_STORE": str(folder / "store"),
        "SCANCER_PROGRAMS": "all",
        "SCANCER_WORKERS": "1",
        "SCANCER_MAX_BODY_BYTES": "1024",
        "SCANCER_MAX_MODEL_BYTES": str(LIMIT),
        "SCANCER_UPLOAD_TIMEOUT_S": "1",
        "SCANCER_ALLOWED_URLS": r"http://127\.0\.0\.[12]:[0-9]+/.*,https?://models\.example/.*",
        "SCANCER_PRIVATE_HOSTS": "127.0.0.1",
    }
    server = LiveServer(instance, folder / "log", settings).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A shipped model as `models pack` writes it."""
    target = tmp_path_factory.mktemp("packed") / "pcam.zip"
    pack_model(ModelFolder(PROJECT_ROOT / "models" / NAME / "1.0"), target)
    return target.read_bytes()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `torch-model-archiver` makes of one handler, a folder for each of its formats."""
    folder = tmp_path_factory.mktemp("archives")
    (folder / "count.py").write_text(HANDLER)
    (folder / "config.yaml").write_text(make_config(maxWorkers=1))
    for kind in (*FORMATS, "no-archive"):
        (folder / kind).mkdir()
        command = [ARCHIVER, "--model-name", "count", "--version", "1.0", "--handler", "count.py"]
        command += ["--config-file", "config.yaml", "--archive-format", kind, "--export-path", str(folder / kind)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def register(server: LiveServer, query: str = "", **body: object) -> requests.Response:
    return requests.post(f"{server.management}/models{query}", auth=AUTH, timeout=120, **body)  # type: ignore[arg-type]


def left_behind(server: LiveServer) -> list[str]:
    """What is in the model repository, and nobody registered it."""
    models = Path(server.environment["SCANCER_MODELS"])
    return sorted(path.name for path in models.iterdir())


def unregister(server: LiveServer, name: str) -> None:
    assert requests.delete(f"{server.management}/models/{name}", auth=AUTH, timeout=60).status_code == 200
    assert left_behind(server) == []


def send(server: LiveServer, data: bytes) -> socket.socket:
    """Send bytes to the management address, and wait for nothing."""
    parts = urlsplit(server.management)
    client = socket.create_connection((parts.hostname, parts.port), timeout=20)
    client.sendall(data)
    return client


def read_answer(client: socket.socket) -> tuple[int, bytes]:
    """Read an answer to the end of its connection."""
    text = b""
    while piece := client.recv(65536):
        text += piece
    client.close()
    return int(text.split()[1]), text.partition(b"\r\n\r\n")[2]


def head(length: str, authorization: str = MANAGE["Authorization"], more: str = "") -> bytes:
    return f"POST /models HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\n{length}\r\n{more}\r\n".encode()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("way", ["raw", "form"])
def test_archive_of_every_format_is_registered_by_its_body(
    live: LiveServer, archives: Path, kind: str, way: str
) -> None:
    body = (archives / kind / FORMATS[kind]).read_bytes()
    if way == "raw":
        answer = register(live, "?initial_workers=1", data=body, headers={"Content-Type": "application/octet-stream"})
    else:
        answer = register(live, files={"any": ("any.mar", body)}, data={"initial_workers": "1"})
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": 'Model "count" Version: 1.0 registered with 1 initial workers'},
    )
    asked = requests.put(f"{live.inference}/predictions/count", data=b"12345", auth=AUTH, timeout=60)
    assert (asked.status_code, asked.text) == (200, "5")
    described = requests.get(f"{live.management}/models/count", auth=AUTH, timeout=10).json()[0]
    assert described["modelUrl"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    unregister(live, "count")


def test_archive_is_registered_by_a_url_of_a_private_host_that_the_operator_names(
    live: LiveServer, archives: Path
) -> None:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=archives)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as source:
        thread = threading.Thread(target=source.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{source.server_port}/tgz/count.tar.gz"
        digest = hashlib.sha256((archives / "tgz/count.tar.gz").read_bytes()).hexdigest()
        wish = {"url": url + "?key=secret", "initial_workers": 1, "sha256": digest}
        answer = register(live, json=wish)
        absent = register(live, json={"url": url + "x"})
        source.shutdown()
        thread.join()
    assert (answer.status_code, answer.json()["status"]) == (
        200,
        'Model "count" Version: 1.0 registered with 1 initial workers',
    )
    assert requests.get(f"{live.management}/models", auth=AUTH, timeout=10).json()["models"][0]["modelUrl"] == url
    assert (absent.status_code, absent.json()) == (
        400,
        {
            "code": 400,
            "type": "DownloadArchiveException",
            "message": f"Failed to download archive from: {url}x (its host answers 404)",
        },
    )
    assert digest in live.log.read_text()
    assert "secret" not in live.log.read_text()
    unregister(live, "count")


def test_url_that_is_not_allowed_is_refused_in_torchserves_words(live: LiveServer) -> None:
    for url in ("http://localhost:1/m.mar", "ftp://127.0.0.1:1/m.mar", "file:///etc/passwd"):
        answer = register(live, f"?url={url}")
        assert (answer.status_code, answer.json()["type"], answer.json()["message"]) == (
            404,
            "ModelNotFoundException",
            f"Given URL {url} does not match any allowed URL(s)",
        )
    answer = register(live, "?url=http://127.0.0.2:1/m.mar")
    reason = "its host is not on the internet; the operator can allow it: SCANCER_PRIVATE_HOSTS=127.0.0.2"
    assert answer.status_code == 400
    assert answer.json()["message"] == f"Failed to download archive from: http://127.0.0.2:1/m.mar ({reason})"
    assert left_behind(live) == []


def test_folder_of_the_archiver_is_registered_from_the_store(live: LiveServer, archives: Path) -> None:
    store = Path(live.environment["SCANCER_STORE"])
    (archives / "no-archive/count").rename(store / "count")
    assert register(live, "?url=count&initial_workers=1").status_code == 200
    asked = requests.put(f"{live.inference}/predictions/count", data=b"1234567", auth=AUTH, timeout=60)
    assert (asked.status_code, asked.text) == (200, "7")
    unregister(live, "count")


def test_packed_folder_far_over_the_limit_of_other_bodies_is_taken_in_chunks(live: LiveServer, packed: bytes) -> None:
    assert len(packed) > 10_000 * 1024
    pieces = (packed[start : start + 100_000] for start in range(0, len(packed), 100_000))
    answer = register(live, f"?sha256={hashlib.sha256(packed).hexdigest()}&model_name=my-model", data=pieces)
    assert answer.status_code == 200, answer.text
    unregister(live, "my-model")


def test_expected_continue_comes_only_when_the_body_is_wanted(live: LiveServer, archives: Path) -> None:
    expects = "Expect: 100-continue\r\n"
    stranger = send(live, head("Content-Length: 5000", basic()["Authorization"], expects))
    status, body = read_answer(stranger)
    assert (status, json.loads(body)["type"]) == (403, "ForbiddenException")
    archive = (archives / "default/count.mar").read_bytes()
    for expected in (200, 409):
        client = send(live, head(f"Content-Length: {len(archive)}", more=expects))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(archive)
        assert read_answer(client)[0] == expected
    unregister(live, "count")


@pytest.mark.parametrize("length", [f"Content-Length: {LIMIT + 1}", "Transfer-Encoding: chunked"])
def test_model_over_the_limit_answers_413_and_leaves_nothing(live: LiveServer, length: str) -> None:
    client = send(live, head(length))
    if "chunked" in length:
        chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
        for _ in range(LIMIT // MIB):
            client.sendall(chunk)
        client.sendall(b"1\r\nx\r\n0\r\n\r\n")
    status, body = read_answer(client)
    assert (status, json.loads(body)["message"]) == (413, f"The model is larger than {LIMIT} bytes.")
    assert left_behind(live) == []


def test_stranger_sends_nothing_that_reaches_the_disk(live: LiveServer) -> None:
    for authorization, expected in (("none", 401), (basic()["Authorization"], 403)):
        client = send(live, head(f"Content-Length: {10 * MIB}", authorization) + bytes(100_000))
        assert read_answer(client)[0] == expected
        assert left_behind(live) == []


def test_client_that_stops_in_the_middle_is_told_so_and_leaves_nothing(live: LiveServer) -> None:
    client = send(live, head("Content-Length: 5000") + b"PK\3\4")
    status, body = read_answer(client)
    assert (status, json.loads(body)["type"]) == (408, "RequestTimeoutException")
    assert left_behind(live) == []


def test_client_that_goes_in_the_middle_leaves_nothing(live: LiveServer) -> None:
    client = send(live, head("Content-Length: 5000") + b"PK\3\4")
    await_quarantine(live, is_there=True)
    client.close()
    await_quarantine(live, is_there=False)


def await_quarantine(server: LiveServer, is_there: bool) -> None:
    deadline = time.monotonic() + 10
    while bool(left_behind(server)) is not is_there:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def delete_quickly(server: LiveServer, is_busy: Callable[[], bool]) -> None:
    """Delete the model "count" while another is registered: it takes under a second."""
    assert is_busy()
    started = time.monotonic()
    answer = requests.delete(f"{server.management}/models/count", auth=AUTH, timeout=60)
    took_s = time.monotonic() - started
    assert (answer.status_code, is_busy()) == (200, True)
    assert took_s < 1, took_s


def test_delete_does_not_wait_for_a_model_that_is_compiled(live: LiveServer, archives: Path, packed: bytes) -> None:
    assert register(live, data=(archives / "default/count.mar").read_bytes()).status_code == 200
    models = Path(live.environment["SCANCER_MODELS"])
    with ThreadPoolExecutor(1) as caller:
        registration = caller.submit(register, live, "?initial_workers=0", data=packed)
        deadline = time.monotonic() + 20
        while not list(models.glob(".incoming-*/ready/*/*/.compiling-*")):  # the framework takes seconds from here on
            assert time.monotonic() < deadline
            time.sleep(0.01)
        delete_quickly(live, lambda: not registration.done())
    assert registration.result().status_code == 200
    unregister(live, NAME)


def test_delete_does_not_wait_for_a_model_that_comes_slowly(live: LiveServer, archives: Path) -> None:
    body = (archives / "default/count.mar").read_bytes()
    assert register(live, data=body).status_code == 200
    has_begun, is_deleted = threading.Event(), threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:100])
            has_begun.set()
            is_deleted.wait(30)
            self.wfile.write(body[100:])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as source, ThreadPoolExecutor(2) as callers:
        callers.submit(source.serve_forever, 0.01)
        url = f"http://127.0.0.1:{source.server_port}/other.mar"
        registration = callers.submit(register, live, json={"url": url, "model_name": "other", "initial_workers": 0})
        assert has_begun.wait(20)
        delete_quickly(live, lambda: not registration.done())
        is_deleted.set()
        assert registration.result().status_code == 200
        source.shutdown()
    unregister(live, "other")


def test_upload_and_delete_of_one_version_at_once_answer_what_they_did(live: LiveServer, archives: Path) -> None:
    body = (archives / "default/count.mar").read_bytes()
    answers: list[tuple[str, int]] = []

    def delete() -> None:
        answer = requests.delete(f"{live.management}/models/count", auth=AUTH, timeout=60)
        answers.append(("delete", answer.status_code))

    def upload_often() -> None:
        for _ in range(20):
            answers.append(("upload", register(live, "?initial_workers=0", data=body).status_code))

    with ThreadPoolExecutor(1) as caller:
        uploads = caller.submit(upload_often)
        while not uploads.done():
            delete()
        uploads.result()
    assert ("delete", 200) in answers
    assert {status for _, status in answers} <= {200, 404, 409}, answers
    left = answers.count(("upload", 200)) - answers.count(("delete", 200))
    assert left in (0, 1)
    registered = requests.get(f"{live.management}/models", auth=AUTH, timeout=10).json()["models"]
    assert [each["modelName"] for each in registered] == ["count"] * left
    assert left_behind(live) == ["count"] * left
    if left:
        unregister(live, "count")


def test_third_model_at_a_time_is_turned_away(live: LiveServer) -> None:
    clients = [send(live, head("Content-Length: 5000") + b"PK\3\4") for _ in range(2)]
    deadline = time.monotonic() + 10
    while len(left_behind(live)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    answer = register(live, data=b"PK\3\4")
    assert (answer.status_code, answer.json()["message"]) == (
        503,
        "Too many models are on their way; try again later.",
    )
    assert [read_answer(client)[0] for client in clients] == [408, 408]


@pytest.mark.parametrize(
    ("query", "body", "status", "text"),
    [
        ("", {"data": b"PK\3\4 and no more"}, 400, "InvalidModelException: the archive is damaged"),
        ("", {"data": b"\x80\4."}, 400, "InvalidModelException: model is a pickle, which is not taken"),
        (
            "",
            {"data": {"url": "m.mar"}},
            400,
            "BadRequestException: The body is text, and no model; parameters stand in",
        ),
        (
            "?sha256=" + 64 * "0",
            {"data": b"PK\3\4"},
            400,
            "InvalidModelException: the model is not the one that sha256",
        ),
        ("?runtime=python4", {"data": b"PK\3\4"}, 400, "BadRequestException: Invalid RuntimeType value: python4"),
        ("", {}, 400, "BadRequestException: Parameter url is required."),
        ("", {"json": {}}, 400, "BadRequestException: Parameter url is required."),
        ("", {"data": b"", "headers": {"Content-Type": "application/zip"}}, 400, "BadRequestException: Parameter url"),
        ("", {"files": {"a": ("a", b"PK"), "b": ("b", b"PK")}}, 400, "BadRequestException: The form holds more than"),
        ("", {"files": {"a": ("a", bytes(3 * MIB))}}, 400, "InvalidModelException: model is of no known format"),
        ("", {"files": {"a": (None, b"text")}}, 400, "BadRequestException: The form holds no file"),
        ("", {"files": {"a": (None, bytes(200_000))}}, 400, "BadRequestException: The form has too many parts, or"),
        (
            "",
            {"data": b"no form", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            400,
            "BadRequestException: The form is malformed.",
        ),
        ("", {"data": b"PK", "headers": {"Content-Encoding": "gzip"}}, 415, "UnsupportedMediaException: Compressed"),
        ("?url=none", {"data": b"PK\3\4"}, 404, "ModelNotFoundException: Model not found at: none"),
    ],
)
def test_body_that_is_no_model_is_refused_and_leaves_nothing(
    live: LiveServer, query: str, body: dict[str, object], status: int, text: str
) -> None:
    answer = register(live, query, **body)
    assert answer.status_code == status, answer.text
    assert f"{answer.json()['type']}: {answer.json()['message']}".startswith(text)
    assert left_behind(live) == []


def test_models_may_not_be_sent_to_the_inference_address(live: LiveServer) -> None:
    answer = requests.post(live.inference + "/models", data=b"PK\3\4", auth=AUTH, timeout=10)
    assert answer.status_code == 405
