"""Fetches a model from a URL that the operator allows, and makes no connection that the operator would not expect.

The server stands where callers do not: what they could not reach themselves, this must not reach for them. So a URL is
read strictly, matched as a whole with `SCANCER_ALLOWED_URLS`, its host resolved once and every address looked at, and
the connection made to the address that was looked at. Nothing is followed: no redirect, no proxy, no second resolution.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from app.config.settings import Settings
from app.errors import DownloadError, ModelNotFoundError
from app.exchange.incoming_file import IncomingFile, open_incoming

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>/[!-\"$-\[\]-~]*)?"
)
"""Visible ASCII, with no user, backslash, fragment or space; all that readers of URLs disagree about is left out."""
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
PATTERN_HEAD = re.compile(r"\^?(?:https?|https\?|http\(s\)\?)://(\\?\[[0-9a-fA-F:.\\]+\\?\]|(?:[A-Za-z0-9-]|\\?[.-])+)")
HOST_ENDS = ("", ":", "/", "$", "(:", "\\:", "\\/")
"""What may follow a host in a pattern that names it."""
INTERNET_6 = ipaddress.IPv6Network("2000::/3")
EMBEDDING = tuple(map(ipaddress.IPv6Network, ("2001::/32", "2002::/16")))
"""Addresses of it that stand for one of IPv4, which a gateway may turn into any."""
PIECE_BYTES = 64 * 1024
STEP_TIMEOUT_S = 20
LATE = "it takes too long"
Resolve = Callable[..., list[Any]]
RESOLVERS = threading.BoundedSemaphore(4)
"""How many names a process asks for at a time: the system's resolver cannot be told to stop."""


@dataclass(frozen=True)
class RemoteModel:
    """A URL that may be fetched.

    Attributes:
        scheme, host, port, target: its parts; the host as its name or address is written, the target for the request.
        is_named: whether a pattern names the host itself, so that it may have any address.
    """

    scheme: str
    host: str
    port: int
    target: str
    is_named: bool


def is_remote(url: str) -> bool:
    """Whether a text is a URL, and not the name of something in a folder."""
    return SCHEME.match(url) is not None


def parse_url(url: str, patterns: tuple[str, ...]) -> RemoteModel:
    """Read a URL that is allowed.

    Raises:
        ModelNotFoundError: it is not; the text is TorchServe's.
    """
    if ".." in url:
        raise ModelNotFoundError(f"Relative path is not allowed in url: {url}")
    found = URL.fullmatch(url)
    matching = [pattern for pattern in patterns if re.fullmatch(pattern, url)]
    host = found["host"].lower().strip("[]") if found else ""
    if not found or not matching or not is_host(host, is_bracketed=found["host"].startswith("[")):
        raise ModelNotFoundError(f"Given URL {url} does not match any allowed URL(s)")
    port = int(found["port"] or (443 if found["scheme"] == "https" else 80))
    if not 1 <= port <= 65535:
        raise ModelNotFoundError(f"Given URL {url} does not match any allowed URL(s)")
    is_named = any(find_named_host(pattern) == host for pattern in matching)
    return RemoteModel(found["scheme"], host, port, found["target"] or "/", is_named)


def is_host(host: str, is_bracketed: bool) -> bool:
    """Whether a host is a plain name or an address as everybody writes it: 127.1 and 0x7f000001 are neither."""
    if is_bracketed:
        try:
            return isinstance(ipaddress.ip_address(host), ipaddress.IPv6Address)
        except ValueError:
            return False
    if NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(host)) == host
        except ValueError:
            return False
    return NAME.fullmatch(host) is not None


def find_named_host(pattern: str) -> str | None:
    """The host that a pattern names letter by letter after its scheme; None if it leaves any of it open."""
    found = PATTERN_HEAD.match(pattern)
    if not found:
        return None
    following = pattern[found.end() :]
    if following[:1] not in HOST_ENDS and following[:2] not in HOST_ENDS:
        return None
    return found[1].replace("\\", "").strip("[]").lower()


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and (ip not in INTERNET_6 or any(ip in network for network in EMBEDDING)):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def find_addresses(remote: RemoteModel, resolve: Resolve, deadline: float) -> list[str]:
    """Resolve the host, once; raises `DownloadError` unless every address may be connected to."""
    found = ask_resolver(remote, resolve, deadline)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not addresses:
        raise DownloadError("its host has no address")
    if not remote.is_named and not all(map(is_public, addresses)):
        raise DownloadError("its host is not on the internet, and no pattern of SCANCER_ALLOWED_URLS names it")
    return addresses


def ask_resolver(remote: RemoteModel, resolve: Resolve, deadline: float) -> list[Any]:
    """Return what a resolver says of the host, nothing if it knows none; raises `DownloadError` if it takes too long.

    It is asked in a thread that is left alone then: it ends whenever the resolver gives up, and none takes its place
    before.
    """
    answers: SimpleQueue[list[Any]] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(remote.host, remote.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))
        except (OSError, UnicodeError):
            answers.put([])
        finally:
            RESOLVERS.release()

    if not RESOLVERS.acquire(timeout=measure_rest(deadline)):
        raise DownloadError(LATE)
    threading.Thread(target=ask, name="resolve-host", daemon=True).start()
    try:
        return answers.get(timeout=measure_rest(deadline))
    except Empty:
        raise DownloadError(LATE) from None


def connect(remote: RemoteModel, addresses: list[str], deadline: float) -> socket.socket:
    """Connect to the first address that takes it."""
    for address in addresses:
        with suppress(OSError):
            return socket.create_connection((address, remote.port), timeout=measure_rest(deadline))
    raise DownloadError("its host cannot be reached")


def measure_rest(deadline: float) -> float:
    """Seconds that the next step may take; raises `DownloadError` if there are none left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DownloadError(LATE)
    return min(left, STEP_TIMEOUT_S)


@contextmanager
def cut_at(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Shut a connection at the deadline, wherever it is read just then: each byte of a head would win a new timeout."""

    def shut() -> None:
        with suppress(OSError):  # the socket's own, also of TLS: that of TLS would change what another thread reads
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def download(remote: RemoteModel, settings: Settings, file: IncomingFile, resolve: Resolve) -> None:
    """Write what a URL answers into a file; raises `DownloadError` if it cannot be had, or not all of it."""
    deadline = time.monotonic() + settings.download_timeout_s
    try:
        with connect(remote, find_addresses(remote, resolve, deadline), deadline) as plain:
            sock = wrap(plain, remote) if remote.scheme == "https" else plain
            with sock, cut_at(sock, deadline):
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                receive(remote, sock, settings.max_model_bytes, file, deadline)
    except ssl.SSLCertVerificationError:
        raise DownloadError("its host's certificate is not that of the host, or not trusted here") from None
    except (TimeoutError, http.client.HTTPException, ssl.SSLError, ConnectionError):
        raise DownloadError(LATE if time.monotonic() > deadline else "its host broke off") from None


def wrap(sock: socket.socket, remote: RemoteModel) -> socket.socket:
    """Speak TLS with the host that the URL names, whatever its address; `SSL_CERT_FILE` may name whom to trust."""
    context = ssl.create_default_context()
    return context.wrap_socket(sock, server_hostname=remote.host, do_handshake_on_connect=False)


def receive(remote: RemoteModel, sock: socket.socket, limit: int, file: IncomingFile, deadline: float) -> None:
    """Ask for the file on a connection, and write the answer's body."""
    connection = http.client.HTTPConnection(remote.host, remote.port)
    connection.default_port = 443 if remote.scheme == "https" else 80  # which is left out of the Host header
    connection.sock = sock
    connection.request("GET", remote.target, headers={"Connection": "close", "User-Agent": "scancer-api"})
    answer = connection.getresponse()
    with answer:
        measure_rest(deadline)  # a head that was cut counts as whole
        if answer.status != 200:
            is_redirect = 300 <= answer.status < 400
            raise DownloadError("it leads elsewhere" if is_redirect else f"its host answers {answer.status}")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise DownloadError("its host sends it compressed")
        stated = answer.length
        if stated is None and not answer.chunked:  # its end could not be told from a connection that broke
            raise DownloadError("its host does not say how long it is")
        while piece := answer.read1(PIECE_BYTES):
            if file.size + len(piece) > limit:
                raise DownloadError(f"it is larger than the {limit} bytes that are allowed")
            file.write(piece)
            sock.settimeout(measure_rest(deadline))
        measure_rest(deadline)
        if stated is not None and file.size != stated:
            raise DownloadError("its host broke off")


@contextmanager
def open_remote(url: str, settings: Settings, resolve: Resolve = socket.getaddrinfo) -> Iterator[IncomingFile]:
    """Have the model that a URL names as a file in quarantine for a while.

    Raises:
        ModelNotFoundError: the URL is not allowed.
        DownloadError: it cannot be had.
        ModelFolderError: it cannot be written.
    """
    remote = parse_url(url, settings.allowed_urls)
    with open_incoming(settings) as file:
        try:
            download(remote, settings, file, resolve)
        except DownloadError as error:
            raise DownloadError(f"Failed to download archive from: {url} ({error.message})") from error
        file.close()
        yield file


def forget_query(url: str) -> str:
    """A URL without its query, which may hold a key."""
    return url.partition("?")[0]
