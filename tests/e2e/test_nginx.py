"""The shipped nginx file, a real nginx and a real gunicorn: what a caller sees through the proxy."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.gunicorn_conf import KEEPALIVE_S
from app.users import USERS_FILE
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer, basic, find_free_ports
from tests.e2e.test_admission import WAITING_HANDLER
from tests.handlers.archives import make_archive

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
OPENSSL = shutil.which("openssl")
SHIPPED = PROJECT_ROOT / "deploy/nginx/scancer.conf"
AUTH = (USER, PASSWORD)
PCAM = "/predictions/pcam-classification"
LIMIT_BYTES = 32 * 1024 * 1024
SERVER_START = "server 127.0.0.1:8080 fail_timeout=2s;"
# What nginx itself needs, and a distribution's nginx.conf has.
FRAME = """
daemon off;
pid {folder}/pid;
{user}
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {file};
}}
"""
pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)"),
    pytest.mark.skipif(sys.platform != "linux", reason="callers of many loopback addresses need Linux"),
]


@dataclass
class Proxy:
    """A real nginx with the shipped file, edited as an operator would."""

    folder: Path
    process: "subprocess.Popen[bytes] | None" = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "scancer.log").read_text()

    def write(self, edits: dict[str, str], is_full: bool = False) -> Path:
        """Write the edited file; `is_full` takes everything out of its comments."""
        text = SHIPPED.read_text()
        if is_full:
            text = re.sub(r"^( *)#(?=[^ \n])", r"\1", text, flags=re.MULTILINE)
        self.port = find_free_ports(1)[0]
        own = {
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "/var/log/nginx": str(self.folder),
            "/dev/shm/scancer-nginx": str(self.folder / "bodies"),
        }
        for old, new in (own | edits).items():
            assert old in text, f"the shipped file no longer has {old!r}"
            text = text.replace(old, new)
        file = self.folder / "scancer.conf"
        file.write_text(text)
        return file

    def run_nginx(self, file: Path, *options: str) -> list[str]:
        user = "user root root;" if os.geteuid() == 0 else ""  # the folder is for its owner alone
        (self.folder / "nginx.conf").write_text(FRAME.format(folder=self.folder, file=file, user=user))
        assert NGINX is not None
        return [NGINX, "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr", *options]

    def start(self, edits: dict[str, str], is_full: bool = False) -> "Proxy":
        command = self.run_nginx(self.write(edits, is_full))
        with (self.folder / "stderr").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self.process.poll() is None, (self.folder / "stderr").read_text()
            time.sleep(0.02)
        raise AssertionError("nginx does not listen")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(source, 0))


StartProxy = Callable[..., Proxy]


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[StartProxy]:
    """Starts a proxy before any server: `start_proxy(target, edits)`."""
    proxy = Proxy(tmp_path / "nginx")
    proxy.folder.mkdir()

    def start(target: str, edits: dict[str, str] | None = None, is_full: bool = False) -> Proxy:
        address = target.removeprefix("http://")
        return proxy.start({SERVER_START: f"server {address};"} | (edits or {}), is_full)

    yield start
    proxy.stop()


@pytest.fixture(scope="module")
def proxy(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy before the shared server, edited by nothing but addresses and folders."""
    running = Proxy(tmp_path_factory.mktemp("nginx"))
    yield running.start({SERVER_START: f"server {server.inference.removeprefix('http://')};"})
    running.stop()


class BrokenServer:
    """Takes requests whole and never answers; `closes` ends the connection after each."""

    def __init__(self, closes: bool) -> None:
        self._closes = closes
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.seen: list[bytes] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.seen.append(client.recv(65536))
            if self._closes:
                client.close()
            else:
                self._kept.append(client)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for client in self._kept:
            client.close()


@pytest.fixture
def break_server() -> Iterator[Callable[[bool], BrokenServer]]:
    started: list[BrokenServer] = []

    def start(closes: bool) -> BrokenServer:
        started.append(BrokenServer(closes))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def assert_is_error(answer: requests.Response, code: int, kind: str) -> None:
    """The one shape of an error, as the server itself gives it."""
    assert answer.status_code == code
    assert answer.headers["Content-Type"] == "application/json"
    told = answer.json()
    assert list(told) == ["code", "type", "message"]
    assert (told["code"], told["type"]) == (code, kind)
    assert told["message"]


def receive_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    while part := connection.recv(4096):
        parts.append(part)
    return b"".join(parts)


def test_nginx_accepts_the_shipped_file_as_it_is(tmp_path: Path) -> None:
    if not os.access("/var/log/nginx", os.W_OK):
        pytest.skip("nginx's own log folder cannot be written by this user")
    command = Proxy(tmp_path).run_nginx(SHIPPED, "-t")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_figures_of_the_file_fit_the_servers_defaults() -> None:
    text, settings = SHIPPED.read_text(), Settings()

    def figure(pattern: str) -> int:
        found = re.search(rf"^ *{pattern};", text, re.MULTILINE)
        assert found is not None, pattern
        return int(found[1])

    assert f"server {settings.inference_address} fail_timeout=2s;" == SERVER_START
    assert SERVER_START in text
    assert figure(r"client_max_body_size (\d+)m") * 1024 * 1024 == settings.max_body_bytes
    upstream = re.search(r"upstream .*?\n}", text, re.DOTALL)
    assert upstream is not None
    kept = re.search(r"keepalive_timeout (\d+)s", upstream[0])
    assert kept is not None
    assert int(kept[1]) < KEEPALIVE_S
    assert figure(r"proxy_read_timeout (\d+)s") * 1000 > settings.prediction_timeout_ms
    assert 5 <= figure(r"client_header_timeout (\d+)s") <= 10
    assert 5 <= figure(r"client_body_timeout (\d+)s") <= 10
    assert figure(r"proxy_max_temp_file_size (\d+)") == 0


@pytest.mark.parametrize(
    "sent",
    [lambda body: {"data": body}, lambda body: {"files": {"image": ("patient-name.png", body)}}],
    ids=["PUT", "multipart POST"],
)
def test_prediction_is_the_same_through_the_proxy(
    server: LiveServer, proxy: Proxy, pcam_example: bytes, sent: Callable[[bytes], dict[str, object]]
) -> None:
    arguments = sent(pcam_example)
    method = "PUT" if "data" in arguments else "POST"
    direct, through = (
        requests.request(method, base + PCAM, auth=AUTH, timeout=30, **arguments)  # type: ignore[arg-type]
        for base in (server.inference, proxy.url)
    )
    assert (direct.status_code, through.status_code) == (200, 200)
    told, given = direct.json(), through.json()
    for answer in (told, given):
        del answer["request_id"]
    # A batch of another size may move the last digits.
    assert told.pop("confidence") == pytest.approx(given.pop("confidence"), abs=1e-5)
    assert told.pop("probabilities") == pytest.approx(given.pop("probabilities"), abs=1e-5)
    assert told == given
    own = {"Date", "Server", "Connection", "X-Request-ID"}
    assert {key: through.headers[key] for key in direct.headers if key not in own | {"Content-Length"}} == {
        key: value for key, value in direct.headers.items() if key not in own | {"Content-Length"}
    }


def test_server_is_not_named_with_its_version(proxy: Proxy) -> None:
    assert requests.get(proxy.url + "/ping", timeout=10).headers["Server"] == "nginx"


def test_answers_without_a_password_pass_as_the_server_gives_them(server: LiveServer, proxy: Proxy) -> None:
    direct, through = (requests.get(base + "/models", timeout=10) for base in (server.inference, proxy.url))
    assert_is_error(through, 401, "UnauthorizedException")
    assert through.json() == direct.json()
    assert through.headers["WWW-Authenticate"] == direct.headers["WWW-Authenticate"]


def test_headers_of_the_caller_reach_the_server(proxy: Proxy, isic_example: bytes) -> None:
    named = requests.get(proxy.url + "/ping", headers={"X-Request-ID": "abcd-1234"}, timeout=10)
    assert named.headers["X-Request-ID"] == "abcd-1234"
    url, hasty = proxy.url + "/predictions/isic-classification", {"X-Request-Timeout-Ms": "1"}
    late = requests.put(url, data=isic_example, auth=AUTH, headers=hasty, timeout=30)
    assert_is_error(late, 504, "GatewayTimeoutException")
    assert "deadline" in late.json()["message"]


def test_management_and_metrics_are_not_behind_the_proxy(proxy: Proxy) -> None:
    assert requests.get(proxy.url + "/metrics", auth=(MANAGER, MANAGER_PASSWORD), timeout=10).status_code == 404


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length told", "chunked"])
def test_body_over_the_limit_answers_413_in_the_one_shape(proxy: Proxy, pcam_example: bytes, is_chunked: bool) -> None:
    body = (bytes(1024 * 1024) for _ in range(33)) if is_chunked else bytes(LIMIT_BYTES + 1)
    answer = requests.put(proxy.url + PCAM, data=body, auth=AUTH, timeout=30)  # type: ignore[arg-type]
    assert_is_error(answer, 413, "BodyTooLargeException")
    assert requests.put(proxy.url + PCAM, data=pcam_example, auth=AUTH, timeout=30).status_code == 200


def test_body_of_just_the_limit_reaches_the_server_and_leaves_no_file(proxy: Proxy) -> None:
    answer = requests.put(proxy.url + PCAM, data=bytes(LIMIT_BYTES), auth=AUTH, timeout=30)
    assert_is_error(answer, 415, "UnsupportedMediaException")
    assert list((proxy.folder / "bodies").rglob("*")) == []


@pytest.mark.parametrize(
    ("head", "code", "kind"),
    [
        ("GET /ping HTTP/1.1\r\n\r\n", 400, "BadRequestException"),
        ("TRACE /ping HTTP/1.1\r\nHost: x\r\n\r\n", 405, "MethodNotAllowedException"),
        ("PUT /ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "NotImplementedException"),
        (f"GET /ping HTTP/1.1\r\nHost: x\r\nX: {'x' * 9000}\r\n\r\n", 431, "RequestHeaderFieldsTooLargeException"),
    ],
)
def test_what_nginx_refuses_itself_has_the_one_shape(proxy: Proxy, head: str, code: int, kind: str) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == code
        told = json.loads(response.read())
        assert (told["code"], told["type"]) == (code, kind)


def test_server_that_is_down_answers_502_in_the_one_shape(start_proxy: StartProxy, pcam_example: bytes) -> None:
    proxy = start_proxy(f"127.0.0.1:{find_free_ports(1)[0]}")
    answer = requests.put(proxy.url + PCAM, data=pcam_example, auth=AUTH, timeout=10)
    assert_is_error(answer, 502, "BadGatewayException")
    assert answer.headers["Retry-After"] == "1"


SPELLINGS = {
    "/predictions/{}": True,
    "//predictions/{}": True,
    "///predictions/{}/": True,
    "/predictions/{}/1.0": True,
    "/%70redictions/{}": True,
    "/predictions%2F{}": True,
    "/{}/predict": True,
    "//v2/models/{}/infer": True,
    "/v1/models/{}:predict": True,
    "/predictions//{}": False,
    "/./predictions/{}": False,
    "/predictions/./{}": False,
    "/models/../predictions/{}": False,
    "/%2e/predictions/{}": False,
    "/predictions;a/{}": False,
    "/PREDICTIONS/{}": False,
}
"""Paths of a prediction, and whether they are served."""


def test_every_spelling_of_a_path_is_counted_or_not_served(
    own_instance: Path, tmp_path: Path, start_proxy: StartProxy
) -> None:
    make_archive(tmp_path / "models", "slow", "w.py", {"w.py": WAITING_HANDLER})
    settings = {"SCANCER_WORKERS": "1", "SCANCER_THREADS": "1", "SCANCER_PROGRAMS": "all"}
    live = LiveServer(own_instance, tmp_path / "log", settings | {"SCANCER_MODELS": str(tmp_path / "models")})
    try:
        proxy, sign = start_proxy(live.start().inference), tmp_path / "go"
        with ThreadPoolExecutor(1) as pool:
            url, deadline = live.inference + "/predictions/slow", time.monotonic() + 30

            def ask(timeout_ms: int) -> int:
                headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
                return requests.put(url, data=str(sign), auth=AUTH, headers=headers, timeout=30).status_code

            waiting = pool.submit(lambda: next(status for status in iter(lambda: ask(30_000), 0) if status != 503))
            while ask(50) != 503:  # until the other one has the only place
                assert time.monotonic() < deadline
            for spelling, is_served in SPELLINGS.items():
                with closing(proxy.connect()) as connection:
                    connection.request("POST", spelling.format("slow"), str(sign).encode(), basic())
                    status = connection.getresponse().status
                assert status == 503 if is_served else status in (404, 405), spelling
            assert requests.get(proxy.url + "/health/live", timeout=5).status_code == 200
            sign.touch()
            assert waiting.result(30) == 200
    finally:
        live.stop()


def test_503_of_the_server_passes_with_its_retry_after(
    own_instance: Path, tmp_path: Path, start_proxy: StartProxy, pcam_example: bytes
) -> None:
    broken = tmp_path / "models/broken-classification/1.0"
    broken.mkdir(parents=True)
    (broken / "model.toml").write_text("name = 'broken-classification'\n")
    settings = {"SCANCER_MODELS": str(tmp_path / "models"), "SCANCER_WORKERS": "1"}
    live = LiveServer(own_instance, tmp_path / "log", settings)
    try:
        live.start(wait_for="/health/live")
        url = start_proxy(live.inference).url + "/predictions/broken-classification"
        answer = requests.put(url, data=pcam_example, auth=AUTH, timeout=10)
        assert_is_error(answer, 503, "ServiceUnavailableException")
        assert answer.headers["Retry-After"] == "1"
        assert "X-Request-ID" in answer.headers  # the server's answer, not nginx's
    finally:
        live.stop()


@pytest.mark.parametrize(("method", "times"), [("POST", 1), ("PUT", 2)])
def test_request_whose_server_died_is_sent_again_if_it_is_a_put_and_once(
    start_proxy: StartProxy,
    break_server: Callable[[bool], BrokenServer],
    pcam_example: bytes,
    method: str,
    times: int,
) -> None:
    servers = [break_server(True) for _ in range(3)]
    others = "".join(f"server {each.address};\n    " for each in servers[1:])
    proxy = start_proxy(servers[0].address, {"keepalive 32;": f"{others}keepalive 32;"})
    answer = requests.request(method, proxy.url + PCAM, data=pcam_example, auth=AUTH, timeout=10)
    assert_is_error(answer, 502, "BadGatewayException")
    assert sum(len(each.seen) for each in servers) == times
    guide = (PROJECT_ROOT / "deploy/README.md").read_text(encoding="utf-8")
    assert "a `PUT` that was sent is then computed once more, a `POST` never" in guide


def test_callers_meet_no_replica_that_is_down(server: LiveServer, start_proxy: StartProxy, pcam_example: bytes) -> None:
    down = f"server 127.0.0.1:{find_free_ports(1)[0]};\n    keepalive 32;"
    proxy = start_proxy(server.inference, {"keepalive 32;": down})
    for method in ("PUT", "POST") * 4:
        assert requests.request(method, proxy.url + PCAM, data=pcam_example, auth=AUTH, timeout=10).status_code == 200


def test_server_that_never_answers_is_given_up_with_504(
    start_proxy: StartProxy, break_server: Callable[[bool], BrokenServer], pcam_example: bytes
) -> None:
    proxy = start_proxy(break_server(False).address, {"proxy_read_timeout 65s": "proxy_read_timeout 1s"})
    answer = requests.put(proxy.url + PCAM, data=pcam_example, auth=AUTH, timeout=10)
    assert_is_error(answer, 504, "GatewayTimeoutException")


def test_caller_who_goes_away_is_told_to_the_server(
    start_proxy: StartProxy, break_server: Callable[[bool], BrokenServer], pcam_example: bytes
) -> None:
    silent = break_server(False)
    proxy = start_proxy(silent.address)
    connection = proxy.connect()
    connection.request("PUT", PCAM, pcam_example, basic())
    deadline = time.monotonic() + 10
    while not silent.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    connection.close()
    upstream = silent._kept[0]
    upstream.settimeout(5)
    receive_all(upstream)  # ends when nginx closes


def test_request_reaches_the_server_only_when_it_is_whole(
    start_proxy: StartProxy, break_server: Callable[[bool], BrokenServer]
) -> None:
    broken = break_server(True)
    proxy = start_proxy(broken.address)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(f"PUT {PCAM} HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf".encode())
        time.sleep(0.3)  # nginx needs under a millisecond to begin with what it would pass on
        assert broken.seen == []
        connection.sendall(b"half")
        assert b"502" in connection.recv(4096)
    assert len(broken.seen) == 1


def count_statuses(proxy: Proxy, count: int, source: str, headers: dict[str, str]) -> list[int]:
    statuses = []
    with closing(proxy.connect(source)) as connection:
        for _ in range(count):
            connection.request("GET", "/ping", headers=headers)
            response = connection.getresponse()
            statuses.append(response.status)
            text = response.read()
            if response.status == 429:
                assert json.loads(text)["type"] == "TooManyRequestsException"
                assert response.headers["Retry-After"] == "1"
    return statuses


def test_one_address_sends_so_many_requests_in_a_second_and_fewer_without_a_password(
    server: LiveServer, start_proxy: StartProxy
) -> None:
    slow = {"rate=200r/s": "rate=1r/s", "burst=400": "burst=20", "rate=20r/s": "rate=1r/s", "burst=100": "burst=5"}
    proxy = start_proxy(server.inference, slow)
    assert count_statuses(proxy, 12, "127.0.3.1", {}).count(200) in (6, 7)
    assert count_statuses(proxy, 12, "127.0.3.2", basic()).count(200) == 12
    assert count_statuses(proxy, 30, "127.0.3.2", basic()).count(200) in (9, 10)
    assert count_statuses(proxy, 3, "127.0.3.3", {}).count(200) == 3


def test_server_that_trusts_the_proxy_knows_the_callers_own_address(
    own_instance: Path, tmp_path: Path, start_proxy: StartProxy, pcam_example: bytes
) -> None:
    settings = {"SCANCER_WORKERS": "1", "SCANCER_TRUSTED_PROXIES": "1"}
    live = LiveServer(own_instance, tmp_path / "log", settings)
    try:
        proxy = start_proxy(live.start().inference)
        for source in ("127.0.4.1", "127.0.4.2"):
            with closing(proxy.connect(source)) as connection:
                connection.request("PUT", PCAM, pcam_example, {"X-Forwarded-For": "127.0.4.9", **basic()})
                assert connection.getresponse().status == 200
    finally:
        live.stop()
    lines = [json.loads(line) for line in live.log.read_text().splitlines() if '"/predictions/<model_name>"' in line]
    assert [line["client"] for line in lines] == ["127.0.4.1", "127.0.4.2"]


@pytest.mark.alone
def test_half_sent_requests_of_two_hundred_callers_stop_nobody(proxy: Proxy, pcam_example: bytes) -> None:
    head = f"PUT {PCAM} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic()['Authorization']}\r\n"
    half_head, half_body = head.encode(), f"{head}Content-Length: {len(pcam_example)}\r\n\r\n".encode()
    half_body += pcam_example[:100]
    with ExitStack() as stack:
        for number in range(200):
            address = ("127.0.0.1", proxy.port), 10, (f"127.0.1.{number + 1}", 0)
            connection = stack.enter_context(socket.create_connection(*address))
            connection.sendall(half_body if number % 2 else half_head)
        waits = []
        for _ in range(10):
            started = time.monotonic()
            assert requests.put(proxy.url + PCAM, data=pcam_example, auth=AUTH, timeout=10).status_code == 200
            waits.append(time.monotonic() - started)
        assert max(waits) < 3


def test_one_address_has_so_many_requests_at_a_time_and_others_go_on(proxy: Proxy, pcam_example: bytes) -> None:
    half = f"PUT {PCAM} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode()
    with ExitStack() as stack:
        for _ in range(64):
            address = ("127.0.0.1", proxy.port), 10, ("127.0.2.1", 0)
            stack.enter_context(socket.create_connection(*address)).sendall(half)
        deadline, statuses = time.monotonic() + 5, [200]
        while statuses[-1] == 200 and time.monotonic() < deadline:  # until nginx has read all the halves
            full = stack.enter_context(closing(proxy.connect("127.0.2.1")))
            full.request("GET", "/ping")
            response = full.getresponse()
            statuses.append(response.status)
            text = response.read()
        told = json.loads(text)
        assert (statuses[-1], told["code"], told["type"]) == (429, 429, "TooManyRequestsException")
        assert response.headers["Retry-After"] == "1"
        assert requests.put(proxy.url + PCAM, data=pcam_example, auth=AUTH, timeout=10).status_code == 200


@pytest.mark.parametrize("part", ["head", "body"])
def test_slow_upload_is_ended(server: LiveServer, start_proxy: StartProxy, part: str) -> None:
    edits = {f"client_{part}_timeout 10s": f"client_{part}_timeout 1s" for part in ("header", "body")}
    proxy = start_proxy(server.inference, edits)
    text = f"PUT {PCAM} HTTP/1.1\r\nHost: x\r\n" + ("Content-Length: 100\r\n\r\nhalf" if part == "body" else "")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(text.encode())
        started = time.monotonic()
        assert receive_all(connection) == b""  # closed
        assert time.monotonic() - started < 5
    assert '"status":408' in proxy.log


def test_log_holds_neither_user_nor_query_string_nor_file_name(proxy: Proxy, pcam_example: bytes) -> None:
    files = {"image": ("jane-doe.png", pcam_example)}
    answer = requests.post(proxy.url + PCAM + "?patient=jane-doe", files=files, auth=AUTH, timeout=30)
    requests.get(proxy.url + "/jane-doe.png", auth=("jane-doe", "secret"), headers={"Referer": "jane-doe"}, timeout=10)
    requests.get(proxy.url + "/ping", timeout=10)
    requests.request("JANEDOE", proxy.url + "/models/jane-doe", timeout=10)
    requests.put(proxy.url + PCAM + "?jane-doe", data=bytes(LIMIT_BYTES + 1), auth=AUTH, timeout=30)
    written = "".join(path.read_text().lower() for path in proxy.folder.glob("*.log"))
    for secret in ("jane", USER, PASSWORD, "127.0.0.1"):
        assert secret not in written
    records = [json.loads(line) for line in proxy.log.splitlines()]
    known = [each for each in records if each["request_id"] == answer.headers["X-Request-ID"]]
    assert [(each["method"], each["route"], each["status"]) for each in known] == [("POST", "/predictions", 200)]
    assert ("GET", "/ping") in {(each["method"], each["route"]) for each in records}
    assert ("other", "/models") in {(each["method"], each["route"]) for each in records}


def make_certificate(folder: Path) -> dict[str, str]:
    """Make a key and a certificate of 127.0.0.1; return the edits that name them in the shipped file."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return {"/etc/ssl/certs/scancer.pem": str(certificate), "/etc/ssl/private/scancer.key": str(key)}


def test_with_all_comments_taken_away_tls_and_the_operators_port_work(
    server: LiveServer, start_proxy: StartProxy, tmp_path: Path, pcam_example: bytes
) -> None:
    files = make_certificate(tmp_path)
    public, operators = find_free_ports(2)
    edits = {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{public} ssl http2;",
        "listen [::]:443 ssl http2;": "",
        "10.0.0.5:8444": f"127.0.0.1:{operators}",
        "10.0.0.0/24": "127.0.0.0/24",
        "127.0.0.1:8081": server.management.removeprefix("http://"),
        "127.0.0.1:8082": server.metrics.removeprefix("http://"),
    }
    start_proxy(server.inference, edits | files, is_full=True)
    url, operators_url = f"https://127.0.0.1:{public}", f"https://127.0.0.1:{operators}"
    with requests.Session() as session:
        session.trust_env, session.verify = (
            False,
            files["/etc/ssl/certs/scancer.pem"],
        )  # a machine may name certificates of its own
        assert session.put(url + PCAM, data=pcam_example, auth=AUTH, timeout=30).status_code == 200
        assert "scancer_requests_total" in session.get(operators_url + "/metrics", timeout=10).text
        assert session.get(operators_url + "/models", auth=(MANAGER, MANAGER_PASSWORD), timeout=10).status_code == 200
        body = bytes(2_000_000)
        model = session.post(operators_url + "/models", data=body, auth=(MANAGER, MANAGER_PASSWORD), timeout=30)
        assert (model.status_code, model.json()["code"]) == (400, 400)  # the server's own, larger than nginx's default
    plain = requests.get(f"http://127.0.0.1:{public}/ping", timeout=10)
    assert_is_error(plain, 400, "BadRequestException")


@pytest.fixture(scope="module")
def trusting(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that believes one proxy, with the users of the shared one."""
    folder = tmp_path_factory.mktemp("trusting")
    (folder / "instance").mkdir()
    shutil.copy(instance / USERS_FILE, folder / "instance")
    live = LiveServer(folder / "instance", folder / "log", {"SCANCER_WORKERS": "1", "SCANCER_TRUSTED_PROXIES": "1"})
    yield live.start()
    live.stop()


FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "forged.example.org:8081",
    "X-Forwarded-Prefix": "//forged.example.org",
    "X-Forwarded-Port": "8081",
}
BEFORE_THE_SERVICE = {
    "location / {": "location /scancer/ {",
    "proxy_pass http://scancer_inference;": "proxy_pass http://scancer_inference/;",
    'X-Forwarded-Prefix "";': "X-Forwarded-Prefix /scancer;",
}


@pytest.mark.parametrize(("prefix", "edits"), [("", {}), ("/scancer", BEFORE_THE_SERVICE)], ids=["root", "prefix"])
def test_links_lead_back_through_tls_and_prefix_whatever_the_caller_writes(
    trusting: LiveServer, start_proxy: StartProxy, tmp_path: Path, prefix: str, edits: dict[str, str]
) -> None:
    files, public = make_certificate(tmp_path), find_free_ports(1)[0]
    certificate, key = files.values()
    tls = f"listen 127.0.0.1:{public} ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; server_tokens off;"
    start_proxy(trusting.inference, edits | {"server_tokens off;": tls})
    root = f"https://127.0.0.1:{public}{prefix}"
    with requests.Session() as session:
        session.trust_env, session.verify, session.auth = False, certificate, AUTH
        for headers in ({}, FORGED):
            page = session.get(root + "/", headers=headers | {"Accept": "text/html"}, timeout=10)
            assert page.url == root + "/"
            assert f'href="{prefix}/static/style.css"' in page.text
            model = session.get(root + "/models/pcam-classification", headers=page.request.headers, timeout=10)
            assert f"curl --user name:password {root}{PCAM} -T picture.png" in model.text
            described = session.get(root + "/models/pcam-classification", headers=headers, timeout=10).json()
            assert described["predict_url"] == prefix + PCAM
            for url in described["examples"]:
                assert session.get(f"https://127.0.0.1:{public}{url}", headers=headers, timeout=10).status_code == 200
            assert session.delete(root + "/models/pcam-classification", headers=headers, timeout=10).status_code == 405
            assert session.get(root + "/metrics", headers=headers, timeout=10).status_code == 404
