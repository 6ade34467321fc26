"""URLs that a model may come from, and hostile ones: whether a connection was made is asked of real sockets."""

import gzip
import hashlib
import http.server
import ipaddress
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.config.setting_types import parse_hosts
from app.config.settings import MIB, Settings
from app.errors import DownloadError, ModelNotFoundError, SettingsError
from app.exchange import remote_source
from app.exchange.remote_source import is_public, open_remote

MODEL = b"PK\3\4" + bytes(200_000)
ANY = (r"http(s)?://.*",)
OTHER_ADDRESSES = """
0.0.0.0 10.1.2.3 100.64.0.1 127.9.9.9 169.254.1.1 172.31.0.1 192.0.0.1 192.0.2.1 192.168.1.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 :: ::1 ::ffff:8.8.8.8 ::8.8.8.8
64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:808:808::1 fc00::1 fe80::1 fe80::1%1 fec0::1 ff02::1
""".split()  # noqa: SIM905  # a list of them fills the screen
NAMES = {
    "loop.example": ["127.0.0.1"],
    "private.example": ["10.0.0.5"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mixed.example": ["192.0.2.7", "127.0.0.1"],
    "public-first.example": ["1.1.1.1", "127.0.0.1"],
    "nobody.example": [],
}
HOSTILE = """
http://127.0.0.1:{port}/m.mar
https://127.0.0.1:{port}/m.mar
http://127.0.0.2:{port}/m.mar
http://127.1:{port}/m.mar
http://127.0.1:{port}/m.mar
http://2130706433:{port}/m.mar
http://017700000001:{port}/m.mar
http://0177.0.0.1:{port}/m.mar
http://0x7f000001:{port}/m.mar
http://0x7f.0.0.1:{port}/m.mar
http://0x7f.1:{port}/m.mar
http://127.0.0.1.:{port}/m.mar
http://127.000.000.001:{port}/m.mar
http://0.0.0.0:{port}/m.mar
http://0:{port}/m.mar
http://localhost:{port}/m.mar
http://LOCALHOST:{port}/m.mar
http://localhost.:{port}/m.mar
http://[::1]:{port}/m.mar
http://[0:0:0:0:0:0:0:1]:{port}/m.mar
http://[::]:{port}/m.mar
http://[::ffff:127.0.0.1]:{port}/m.mar
http://[::ffff:7f00:1]:{port}/m.mar
http://[::127.0.0.1]:{port}/m.mar
http://[64:ff9b::7f00:1]:{port}/m.mar
http://[2002:7f00:1::]:{port}/m.mar
http://[fe80::1]:{port}/m.mar
http://[fe80::1%25lo]:{port}/m.mar
http://[fd00::1]:{port}/m.mar
http://[ff02::1]:{port}/m.mar
http://10.0.0.1:{port}/m.mar
http://172.16.0.1:{port}/m.mar
http://192.168.0.1:{port}/m.mar
http://100.64.0.1:{port}/m.mar
http://169.254.169.254/latest/meta-data
http://224.0.0.1:{port}/m.mar
http://255.255.255.255:{port}/m.mar
http://192.0.2.1:{port}/m.mar
http://good.example@127.0.0.1:{port}/m.mar
http://good.example:80@127.0.0.1:{port}/m.mar
http://127.0.0.1:{port}@good.example/m.mar
http://good.example%40127.0.0.1:{port}/m.mar
http://127.0.0.1:{port}#@good.example/m.mar
http://127.0.0.1:{port}\\@good.example/m.mar
http:\\\\127.0.0.1:{port}/m.mar
http:/127.0.0.1:{port}/m.mar
http:127.0.0.1:{port}/m.mar
http:///127.0.0.1:{port}/m.mar
http:// 127.0.0.1:{port}/m.mar
http://127.0.0.1:{port}/m.mar\tx
http://127.0.0.1:{port}/\r\nHost: x
http://127.0.0.1:{port}/\u00a0x
http://%31%32%37.0.0.1:{port}/m.mar
http://%2531%2532%2537.0.0.1:{port}/m.mar
http://\u2460\u2461\u2466.0.0.1:{port}/m.mar
http://\uff11\uff12\uff17.0.0.1:{port}/m.mar
http://127\u30020\u30020\u30021:{port}/m.mar
http://loc\u0430lhost:{port}/m.mar
http://127.0.0.1:0/m.mar
http://127.0.0.1:65536/m.mar
http://127.0.0.1:-1/m.mar
http://127.0.0.1:{port}0000000/m.mar
http://127.0.0.1:+{port}/m.mar
http://127.0.0.1/../m.mar
ftp://127.0.0.1:{port}/m.mar
file:///etc/passwd
file://127.0.0.1/etc/passwd
gopher://127.0.0.1:{port}/_x
dict://127.0.0.1:{port}/x
data:application/zip;base64,UEsDBA==
jar:http://127.0.0.1:{port}/m.mar!/
HTTP://127.0.0.1:{port}/m.mar
url:http://127.0.0.1:{port}/m.mar
http://loop.example:{port}/m.mar
https://loop.example:{port}/m.mar
http://private.example:{port}/m.mar
http://six.example:{port}/m.mar
http://mapped.example:{port}/m.mar
http://metadata.example/m.mar
http://mixed.example:{port}/m.mar
http://public-first.example:{port}/m.mar
http://nobody.example:{port}/m.mar
http://unknown.example:{port}/m.mar
""".strip().split("\n")


def resolve(host: str, port: int, **_: Any) -> list[Any]:
    """A resolver that knows what an attacker's would answer, and addresses, and nobody else."""
    if host == "localhost":
        addresses = ["127.0.0.1", "::1"]
    elif host in NAMES:
        addresses = NAMES[host]
    else:
        try:
            addresses = [str(ipaddress.ip_address(host))]
        except ValueError:
            raise socket.gaierror("unknown") from None
    return [(0, 0, 0, "", (address, port)) for address in addresses]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(remote_source, "DOWNLOAD_TIMEOUT_S", 2)
    return Settings(models=tmp_path / "models", instance=tmp_path, allowed_urls=ANY, max_model_bytes=MIB)


@pytest.fixture(scope="module")
def bystander() -> Iterator[tuple[int, list[Any]]]:
    """A port that listens on every address of this machine; and who has connected."""
    seen: list[Any] = []
    with ExitStack() as stack:
        four = stack.enter_context(closing(socket.create_server(("0.0.0.0", 0))))
        port = four.getsockname()[1]
        sockets = [four]
        if socket.has_ipv6:
            sockets.append(stack.enter_context(closing(socket.create_server(("::", port), family=socket.AF_INET6))))
        yield port, seen
        for each in sockets:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                seen.append(each.accept())
    assert seen == []


def fetch(url: str, settings: Settings, resolver: Callable[..., list[Any]] = resolve) -> bytes:
    with open_remote(url, settings, resolver) as file:
        data = file.path.read_bytes()
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert list(settings.models.iterdir()) == []
    return data


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) >= 80


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_url_makes_no_connection(url: str, settings: Settings, bystander: tuple[int, list[Any]]) -> None:
    with pytest.raises((ModelNotFoundError, DownloadError)):
        fetch(url.replace("{port}", str(bystander[0])), settings)
    assert list(settings.models.iterdir()) == []


def test_without_patterns_nothing_is_asked_of_anybody(settings: Settings) -> None:
    def fail(*_: Any, **__: Any) -> list[Any]:
        raise AssertionError("the resolver was asked")

    for url in ("http://example.org/m.mar", "https://example.org/m.mar"):
        with pytest.raises(ModelNotFoundError, match="does not match any allowed"):
            fetch(url, replace(settings, allowed_urls=()), fail)
        with pytest.raises(ModelNotFoundError):  # a pattern is for all of it
            fetch(url + "x", replace(settings, allowed_urls=(r"https?://example\.org/m\.mar",)), fail)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "private.example", "mixed.example", "[::ffff:7f00:1]"])
def test_refusal_of_a_private_host_names_the_setting_and_the_host(host: str, settings: Settings) -> None:
    exact = (re.escape(f"http://{host}/m.mar"),)  # a pattern that spells a private host does not allow it
    with pytest.raises(DownloadError) as caught:
        fetch(f"http://{host}/m.mar", replace(settings, allowed_urls=exact, private_hosts=("other.example",)))
    assert f"not on the internet; the operator can allow it: SCANCER_PRIVATE_HOSTS={host.strip('[]')}" in str(
        caught.value.message
    )


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    OTHER_ADDRESSES,
)
def test_other_addresses_are_not(address: str) -> None:
    assert not is_public(address)


# Servers that the operator names


@dataclass
class Source:
    """A server: what it answers, and what it was asked."""

    port: int = 0
    answer: Callable[[http.server.BaseHTTPRequestHandler], None] = lambda _: None
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/m.mar?key=secret"


@contextmanager
def serve(certificate: tuple[Path, Path] | None = None) -> Iterator[Source]:
    source = Source()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            source.asked.append((self.path, self.headers["Host"]))
            source.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        source.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield source
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def source() -> Iterator[Source]:
    with serve() as served:
        yield served


def send(
    body: bytes = MODEL, status: int = 200, **headers: str
) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """Answer with a body, whose length is the stated one if there is one."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def drip(piece: bytes, *, after: bytes = b"") -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """Answer so slowly that no single step takes long, and all of them for ever."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(after)
        while True:
            handler.wfile.write(piece)
            time.sleep(0.05)

    return answer


def named(settings: Settings, host: str = "127.0.0.1") -> Settings:
    return replace(settings, allowed_urls=(r"https?://.*:\d+/.*",), private_hosts=(host,))


def test_private_host_that_the_operator_names_is_fetched_from(source: Source, settings: Settings) -> None:
    source.answer = send()
    assert fetch(source.url(), named(settings)) == MODEL
    assert source.asked == [("/m.mar?key=secret", f"127.0.0.1:{source.port}")]


def test_named_host_is_found_however_a_url_writes_it(settings: Settings) -> None:
    asked = []

    def nowhere(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", ("127.0.0.1", port))]

    hosts = parse_hosts("Models.internal, 0:0:0:0:0:0:0:1")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    for host in ("MODELS.internal", "[::1]", "[0:0::0:1]"):
        with pytest.raises(DownloadError, match="its host cannot be reached"):
            fetch(f"http://{host}:{port}/", replace(settings, private_hosts=hosts), nowhere)
    assert asked == ["models.internal", "::1", "::1"]


@pytest.mark.parametrize(
    "text", ["http://10.0.0.7", "10.0.0.7:80", "10.0.0.0/8", "*.internal", "[::1]", "::1%lo", "1:2", "a b", "-a", ","]
)
def test_private_hosts_are_names_and_addresses_alone(text: str) -> None:
    with pytest.raises(SettingsError, match="without scheme and port, joined by commas"):
        Settings.from_env({"SCANCER_PRIVATE_HOSTS": f"models.internal,{text}" if text != "," else text})


@pytest.mark.parametrize("url", ["http://127.0.0.1/m.mar", "http://localhost/m.mar", "http://private.example/m.mar"])
def test_named_host_is_fetched_from_only_where_a_pattern_allows_the_url(url: str, settings: Settings) -> None:
    hosts = ("127.0.0.1", "localhost", "private.example")
    with pytest.raises(ModelNotFoundError, match="does not match any allowed"):
        fetch(url, replace(settings, allowed_urls=(r"https://.*",), private_hosts=hosts))


@pytest.mark.parametrize("url", [each for each in HOSTILE if "loop.example" not in each])
def test_named_host_opens_no_way_to_another(url: str, settings: Settings, bystander: tuple[int, list[Any]]) -> None:
    with pytest.raises((ModelNotFoundError, DownloadError)):
        fetch(url.replace("{port}", str(bystander[0])), replace(settings, private_hosts=("loop.example",)))


def test_chunks_are_joined(source: Source, settings: Settings) -> None:
    text = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    source.answer = send(text, **{"Content-Length": "", "Transfer_Encoding": "chunked"})
    assert fetch(source.url(), named(settings)) == b"hello world"


def test_name_is_resolved_once_and_the_address_that_was_looked_at_is_used(source: Source, settings: Settings) -> None:
    answers = iter(["127.0.0.1", "127.0.0.3", "127.0.0.4"])
    asked = []

    def rebind(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", (next(answers), port))]

    source.answer = send()
    assert fetch(source.url("rebind.example"), named(settings, "rebind.example"), rebind) == MODEL
    assert asked == ["rebind.example"]
    assert source.asked == [("/m.mar?key=secret", f"rebind.example:{source.port}")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(
    source: Source, settings: Settings, status: int, bystander: tuple[int, list[Any]]
) -> None:
    source.answer = send(b"", status, Location=f"http://127.0.0.1:{bystander[0]}/m.mar")
    with pytest.raises(DownloadError, match=r"^Failed to download archive from: http://127\S+ \(it leads elsewhere\)$"):
        fetch(source.url(), named(settings))
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (send(b"", 404), "its host answers 404"),
        (send(b"", 206), "its host answers 206"),
        (send(b"12345", **{"Content-Length": "9"}), "its host broke off"),
        (send(b"5\r\nhel", **{"Content-Length": "", "Transfer_Encoding": "chunked"}), "its host broke off"),
        (send(b"12345", **{"Content-Length": ""}), "its host does not say how long it is"),
        (send(bytes(MIB + 1)), "it is larger than the 1048576 bytes that are allowed"),
        (
            send(
                b"100001\r\n" + bytes(MIB + 1) + b"\r\n0\r\n\r\n",
                **{"Content-Length": "", "Transfer_Encoding": "chunked"},
            ),
            "it is larger than the 1048576 bytes that are allowed",
        ),
        (send(gzip.compress(MODEL), Content_Encoding="gzip"), "its host sends it compressed"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "its host broke off"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nA: " + bytes(100_000)), "its host broke off"),
    ],
)
def test_answer_that_is_not_a_whole_file_is_refused_and_leaves_nothing(
    source: Source, settings: Settings, answer: Any, reason: str
) -> None:
    source.answer = answer
    with pytest.raises(DownloadError) as caught:
        fetch(source.url(), named(settings))
    assert caught.value.message == f"Failed to download archive from: {source.url()} ({reason})"
    assert list(settings.models.iterdir()) == []


@pytest.mark.alone
@pytest.mark.parametrize(
    "answer",
    [
        drip(b"A: b\r\n", after=b"HTTP/1.1 200 OK\r\n"),
        drip(b"x", after=b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
    ],
    ids=["head", "body"],
)
def test_server_that_sends_a_little_now_and_then_is_left_in_time(
    source: Source, settings: Settings, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_source, "DOWNLOAD_TIMEOUT_S", 1)
    source.answer, started = answer, time.monotonic()
    with pytest.raises(DownloadError, match="it takes too long"):
        fetch(source.url(), named(settings))
    assert 0.9 < time.monotonic() - started < 2


def test_host_that_refuses_connections_is_told_so(settings: Settings) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    with pytest.raises(DownloadError, match="its host cannot be reached"):
        fetch(f"http://127.0.0.1:{port}/", named(settings))


def count_resolving() -> int:
    return sum(thread.name == "resolve-host" for thread in threading.enumerate())


@pytest.mark.alone
def test_resolver_that_never_answers_is_left_in_time_and_few_are_waited_for(
    source: Source, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = threading.Event()

    def wait(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        assert answer.wait(30)
        return here(host, port)

    hasty = named(settings, "slow.example")
    monkeypatch.setattr(remote_source, "DOWNLOAD_TIMEOUT_S", 0.3)
    try:
        for _ in range(6):
            started = time.monotonic()
            with pytest.raises(DownloadError, match="it takes too long"):
                fetch(source.url("slow.example"), hasty, wait)
            assert 0.2 < time.monotonic() - started < 1
            assert count_resolving() == len(asked) <= 4
    finally:
        answer.set()
    deadline = time.monotonic() + 5
    while count_resolving() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count_resolving() == 0
    source.answer = send()
    monkeypatch.setattr(remote_source, "DOWNLOAD_TIMEOUT_S", 2)
    assert fetch(source.url("slow.example"), named(settings, "slow.example"), wait) == MODEL
    assert len(source.asked) == 1


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of `models.internal`, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=models.internal"]
    command += ["-addext", "subjectAltName=DNS:models.internal"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def here(host: str, port: int, **_: Any) -> list[Any]:
    return [(0, 0, 0, "", ("127.0.0.1", port))]


def test_certificate_is_that_of_the_name_while_the_address_is_pinned(
    certificate: tuple[Path, Path], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(certificate) as source:
        source.answer = send()
        url = source.url("models.internal", "https")
        with pytest.raises(DownloadError, match="certificate"):  # nobody trusts it yet
            fetch(url, named(settings, "models.internal"), here)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert fetch(url, named(settings, "models.internal"), here) == MODEL
        assert source.asked == [("/m.mar?key=secret", f"models.internal:{source.port}")]
        with pytest.raises(DownloadError, match="certificate"):  # another name's
            fetch(source.url("others.internal", "https"), named(settings, "others.internal"), here)
        assert len(source.asked) == 1
