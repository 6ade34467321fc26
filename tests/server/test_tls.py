"""TLS from two files: on all three ports, from version 1.2, for clients that take their time, and anew after HUP."""

import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import SettingsError
from app.server.tls import make_context
from tests.conftest import PASSWORD, USER, LiveServer
from tests.e2e.test_nginx import NGINX, SERVER_START, Proxy

pytestmark = pytest.mark.slow

AUTH = (USER, PASSWORD)
PATH = "/predictions/pcam-classification"
WAIT_S = 30


def make_pair(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """Make a certificate for localhost, signed by itself, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *names], check=True, capture_output=True)
    return certificate, key


class TLSServer(LiveServer):
    """A real gunicorn with a certificate of its own."""

    certificate: Path

    def connect(self, context: ssl.SSLContext, port: int = 0) -> ssl.SSLSocket:
        raw = socket.create_connection(("localhost", self.ports[port]), timeout=10)
        return context.wrap_socket(raw, server_hostname="localhost")

    def read_certificate(self) -> str:
        """The certificate that a new connection gets."""
        return ssl.get_server_certificate(("localhost", self.ports[0]), timeout=10)

    def ask(self, path: str, port: int = 0, body: bytes | None = None) -> requests.Response:
        method = "GET" if body is None else "PUT"
        url = f"https://localhost:{self.ports[port]}{path}"
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(self.certificate)
            return session.request(method, url, data=body, auth=AUTH, timeout=20)

    def wait(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                if self.ask("/health/ready").status_code == 200:
                    return
            except requests.ConnectionError:
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)


def start(instance: Path, folder: Path, **settings: str) -> TLSServer:
    certificate, key = make_pair(folder)
    files = {"SCANCER_TLS_CERTIFICATE": str(certificate), "SCANCER_TLS_KEY": str(key)}
    live = TLSServer(instance, folder / "log", {"SCANCER_WORKERS": "1", "SCANCER_THREADS": "2", **files, **settings})
    live.certificate = certificate
    live.launch()
    live.wait()
    return live


@pytest.fixture(scope="module")
def live(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSServer]:
    """One worker of two threads, which gives a client two seconds for its handshake."""
    live = start(
        instance, tmp_path_factory.mktemp("tls"), SCANCER_UPLOAD_TIMEOUT_S="2", GUNICORN_CMD_ARGS="--keep-alive 1"
    )
    try:
        yield live
    finally:
        live.stop()


def begin_handshake() -> bytes:
    """What a client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_all_three_ports_speak_tls(live: TLSServer, pcam_example: bytes) -> None:
    assert live.ask(PATH, body=pcam_example).json()["model"] == "pcam-classification"
    assert live.ask("/models", port=1).status_code == 200
    assert "scancer_predictions_total" in live.ask("/metrics", port=2).text


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
@pytest.mark.parametrize("name, status", [("localhost", 200), ("another.example.org", 502)])
def test_nginx_reaches_the_server_by_the_lines_of_the_guide(
    live: TLSServer, tmp_path: Path, name: str, status: int
) -> None:
    guide = (PROJECT_ROOT / "get_started/tls.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- file: nginx -->\n *```\n(.*?)\n *```", guide, re.DOTALL)
    assert found is not None
    lines = found[1].replace("/etc/ssl/certs/scancer_authority.pem", str(live.certificate))
    lines = lines.replace("scan.example.org", name)
    server = {SERVER_START: f"server 127.0.0.1:{live.ports[0]};"}
    proxy = Proxy(tmp_path)
    try:
        proxy.start(server | {"proxy_pass http://scancer_inference;": lines})
        assert requests.get(proxy.url + "/ping", timeout=10).status_code == status
    finally:
        proxy.stop()


def test_plain_http_gets_no_answer(live: TLSServer) -> None:
    for port in live.ports:
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/ping", timeout=5)
    assert live.ask("/ping").status_code == 200


def test_versions_from_1_2_on_are_taken(live: TLSServer) -> None:
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = ssl.create_default_context(cafile=live.certificate)
        context.minimum_version = context.maximum_version = version
        with live.connect(context) as connection:
            assert connection.version() == name


def test_older_versions_are_refused(live: TLSServer) -> None:
    command = ["openssl", "s_client", "-connect", f"localhost:{live.ports[0]}", "-tls1_1"]
    command += ["-cipher", "ALL:@SECLEVEL=0"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
    assert b"alert protocol version" in done.stderr


@pytest.mark.alone
def test_silent_clients_cost_the_others_nothing_and_are_let_go(live: TLSServer, pcam_example: bytes) -> None:
    first = begin_handshake()
    silent = [socket.create_connection(("localhost", live.ports[number % 3]), timeout=10) for number in range(80)]
    for connection in silent[40:]:
        connection.sendall(first[:100])  # half of what a handshake begins with
    started = time.monotonic()
    assert live.ask(PATH, body=pcam_example).status_code == 200
    assert time.monotonic() - started < 1
    for connection in silent:
        assert connection.recv(1) == b""
        connection.close()
    assert 1 < time.monotonic() - started < 5


def test_handshake_that_comes_byte_by_byte_has_one_deadline(live: TLSServer) -> None:
    first = begin_handshake()
    started = time.monotonic()
    with socket.create_connection(("localhost", live.ports[0]), timeout=5) as connection:
        is_open = True
        while is_open and first:
            try:
                connection.sendall(first[:1])
                first = first[1:]
                time.sleep(0.05)
            except OSError:
                is_open = False
        assert not is_open
        assert 1.5 < time.monotonic() - started < 5


def test_slow_handshake_that_ends_in_time_is_served(live: TLSServer) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=live.certificate).wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )

    with socket.create_connection(("localhost", live.ports[0]), timeout=10) as connection:

        def exchange() -> None:
            data = outgoing.read()
            for start_ in range(0, len(data), 100):
                connection.sendall(data[start_ : start_ + 100])
                time.sleep(0.05)
            if not data or not client.version():
                incoming.write(connection.recv(65536))

        while not client.version():
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                exchange()
        client.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        connection.sendall(outgoing.read())
        answer = b""
        while b"Healthy" not in answer:
            incoming.write(connection.recv(65536))
            try:
                answer += client.read()
            except ssl.SSLWantReadError:
                continue
    assert answer.startswith(b"HTTP/1.1 200")


def test_large_body_is_read_to_its_end(live: TLSServer) -> None:
    answer = live.ask(PATH, body=bytes(20 * 1024 * 1024))
    assert (answer.status_code, answer.json()["type"]) == (415, "UnsupportedMediaException")


def test_reload_takes_the_new_certificate_and_keeps_the_old_while_the_new_is_broken(
    instance: Path, tmp_path: Path
) -> None:
    live = start(instance, tmp_path)
    assert live.process is not None
    try:
        first = live.read_certificate()
        assert first.strip() == live.certificate.read_text().strip()

        whole = live.certificate.read_text()
        live.certificate.write_text(whole[: len(whole) // 2])
        workers = children(live)
        live.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not workers & children(live))
        assert live.read_certificate() == first
        assert "the certificate in use stays" in live.log.read_text()

        certificate, key = make_pair(tmp_path, "second")
        key.replace(tmp_path / "server.key")
        certificate.replace(live.certificate)
        workers = children(live)
        live.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not workers & children(live))
        assert live.read_certificate().strip() == live.certificate.read_text().strip()
        assert live.read_certificate() != first
        assert live.ask("/ping").status_code == 200
    finally:
        live.stop()


def children(live: LiveServer) -> set[str]:
    assert live.process is not None
    return set(Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text().split())


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_start_stops_with_a_sentence_when_the_files_do_not_fit(instance: Path, tmp_path: Path) -> None:
    certificate, _ = make_pair(tmp_path)
    _, other_key = make_pair(tmp_path, "other")
    live = LiveServer(instance, tmp_path / "log")
    live.environment = {"SCANCER_TLS_CERTIFICATE": str(certificate), "SCANCER_TLS_KEY": str(other_key)}
    live.launch()
    assert live.process is not None
    assert live.process.wait(30) != 0
    expected = f"scancer: SCANCER_TLS_KEY={other_key} is not the key of SCANCER_TLS_CERTIFICATE={certificate}."
    assert live.log.read_text().strip().splitlines()[-1] == expected


def test_one_file_without_the_other_is_no_setting(tmp_path: Path) -> None:
    for name in ("SCANCER_TLS_CERTIFICATE", "SCANCER_TLS_KEY"):
        with pytest.raises(SettingsError, match="go together"):
            Settings.from_env({name: str(tmp_path / "file.pem")})


def test_missing_file_is_named(tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    with pytest.raises(SettingsError, match=r"^SCANCER_TLS_CERTIFICATE=.*none\.pem cannot be read: No such file"):
        make_context(tmp_path / "none.pem", key)
    with pytest.raises(SettingsError, match=r"^SCANCER_TLS_KEY=.* cannot be read: Is a directory"):
        make_context(certificate, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_key_is_named(tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    key.chmod(0)
    with pytest.raises(SettingsError, match=r"^SCANCER_TLS_KEY=.* cannot be read: Permission denied"):
        make_context(certificate, key)


def test_files_in_each_others_place_are_told(tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    with pytest.raises(SettingsError, match=r"^SCANCER_TLS_CERTIFICATE=.* holds no certificate in PEM form"):
        make_context(key, certificate)
    with pytest.raises(SettingsError, match=r"^SCANCER_TLS_KEY=.* holds no private key in PEM form"):
        make_context(certificate, certificate)


def test_damaged_file_is_told(tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    certificate.write_text(certificate.read_text()[:300])
    with pytest.raises(SettingsError, match=r"^SCANCER_TLS_CERTIFICATE=.* cannot be used"):
        make_context(certificate, key)


def test_encrypted_key_is_told(tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(key), "-out", str(locked), "-aes256", "-passout", "pass:secret"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(SettingsError, match=r"^SCANCER_TLS_KEY=.* is encrypted.*openssl pkey"):
        make_context(certificate, locked)


def test_client_cannot_have_the_handshake_done_again(live: TLSServer) -> None:
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"localhost:{live.ports[0]}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"R\n")  # `s_client` asks for a new handshake
        client.stdin.flush()
        said = client.stdout.read().decode()
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert live.ask("/ping").status_code == 200
