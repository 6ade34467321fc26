"""Fetches a model from a URL that the operator allows, and connects to no host that the operator would not expect.

The server may reach hosts that its callers cannot. So a URL must match `SCANCER_ALLOWED_URLS` as a whole, its host is
resolved once, and a connection goes to a checked address. Redirects and proxies are not followed.
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
from app.exchange.quarantine import IncomingFile, open_incoming

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>/[!-\"$-\[\]-~]*)?"
)
"""Visible ASCII without user, backslash, fragment or space: readers of URLs disagree about those."""
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
INTERNET_6 = ipaddress.IPv6Network("2000::/3")
EMBEDDING = tuple(map(ipaddress.IPv6Network, ("2001::/32", "2002::/16")))
"""Addresses of the internet that hold one of IPv4: a gateway may send on to that one, whatever it is."""
PIECE_BYTES = 64 * 1024
STEP_TIMEOUT_S = 20
DOWNLOAD_TIMEOUT_S = 300
"""How long fetching a model may take."""
LATE = "it takes too long"
Resolve = Callable[..., list[Any]]
RESOLVERS = threading.BoundedSemaphore(4)
"""Names that a process resolves at a time: the system's resolver cannot be told to stop."""


@dataclass(frozen=True)
class RemoteModel:
    """A URL that may be fetched: its host in lower case or as the shortest address; its target is path and query."""

    scheme: str
    host: str
    port: int
    target: str


def is_remote(url: str) -> bool:
    """Whether a text is a URL, and not a name in the store's folder."""
    return SCHEME.match(url) is not None


def parse_url(url: str, patterns: tuple[str, ...]) -> RemoteModel:
    """Read a URL that a pattern matches as a whole; else raises `ModelNotFoundError`, with texts of TorchServe's."""
    if ".." in url:
        raise ModelNotFoundError(f"Relative path is not allowed in url: {url}")
    found = URL.fullmatch(url)
    host = read_host(found["host"]) if found else None
    port = int(found["port"] or (443 if found["scheme"] == "https" else 80)) if found else 0
    if not found or host is None or not 1 <= port <= 65535 or not any(re.fullmatch(each, url) for each in patterns):
        raise ModelNotFoundError(f"Given URL {url} does not match any allowed URL(s)")
    return RemoteModel(found["scheme"], host, port, found["target"] or "/")


def read_host(text: str) -> str | None:
    """Return a plain name in lower case, or an address in its shortest form.

    None for everything else: 127.1, 0177.0.0.1 and 0x7f000001 are addresses to some readers and names to others.
    """
    host = text.lower().strip("[]")
    try:
        if text.startswith("["):
            return str(ipaddress.IPv6Address(host))
        if NUMBER.fullmatch(host.rpartition(".")[2]):
            return host if str(ipaddress.IPv4Address(host)) == host else None
    except ValueError:
        return None
    return host if NAME.fullmatch(host) else None


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and (ip not in INTERNET_6 or any(ip in network for network in EMBEDDING)):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def find_addresses(remote: RemoteModel, settings: Settings, resolve: Resolve, deadline: float) -> list[str]:
    """Resolve the host once; raises `DownloadError` unless every address may be connected to."""
    found = ask_resolver(remote, resolve, deadline)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not addresses:
        raise DownloadError("its host has no address")
    if remote.host not in settings.private_hosts and not all(map(is_public, addresses)):
        raise DownloadError(
            f"its host is not on the internet; the operator can allow it: SCANCER_PRIVATE_HOSTS={remote.host}"
        )
    return addresses


def ask_resolver(remote: RemoteModel, resolve: Resolve, deadline: float) -> list[Any]:
    """Return a resolver's answers about the host, none if it does not know the host; raises `DownloadError`.

    A thread asks. One that waits too long is left alone, and keeps its place among `RESOLVERS` until its call ends.
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
    """Connect to the first address that takes the connection; raises `DownloadError` if none does."""
    for address in addresses:
        with suppress(OSError):
            return socket.create_connection((address, remote.port), timeout=measure_rest(deadline))
    raise DownloadError("its host cannot be reached")


def measure_rest(deadline: float) -> float:
    """Return the seconds that the next step may take; raises `DownloadError` if none are left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DownloadError(LATE)
    return min(left, STEP_TIMEOUT_S)


@contextmanager
def cut_at(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Shut a connection at the deadline, even during a read: a slow head would win a new timeout with each byte."""

    def shut() -> None:
        with suppress(OSError):  # not the method of a TLS socket: it would change what another thread reads
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def download(remote: RemoteModel, settings: Settings, file: IncomingFile, resolve: Resolve) -> None:
    """Write the file that a URL answers; raises `DownloadError` if it cannot be had as a whole."""
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    try:
        with connect(remote, find_addresses(remote, settings, resolve, deadline), deadline) as plain:
            sock = plain
            if remote.scheme == "https":  # the certificate must be of this host; `SSL_CERT_FILE` may name authorities
                context = ssl.create_default_context()
                sock = context.wrap_socket(plain, server_hostname=remote.host, do_handshake_on_connect=False)
            with sock, cut_at(sock, deadline):
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                receive(remote, sock, settings.max_model_bytes, file, deadline)
    except ssl.SSLCertVerificationError:
        raise DownloadError("its host's certificate is not that of the host, or not trusted here") from None
    except (TimeoutError, http.client.HTTPException, ssl.SSLError, ConnectionError):
        raise DownloadError(LATE if time.monotonic() > deadline else "its host broke off") from None


def receive(remote: RemoteModel, sock: socket.socket, limit: int, file: IncomingFile, deadline: float) -> None:
    """Ask for the file on a connection and write the answer's body; raises `DownloadError` if it is not one file."""
    connection = http.client.HTTPConnection(remote.host, remote.port)
    connection.default_port = 443 if remote.scheme == "https" else 80  # the default is left out of the Host header
    connection.sock = sock
    connection.request("GET", remote.target, headers={"Connection": "close", "User-Agent": "scancer-api"})
    answer = connection.getresponse()
    with answer:
        measure_rest(deadline)  # http.client takes a head that was cut for a whole one
        if answer.status != 200:
            is_redirect = 300 <= answer.status < 400
            raise DownloadError("it leads elsewhere" if is_redirect else f"its host answers {answer.status}")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise DownloadError("its host sends it compressed")
        stated = answer.length
        if stated is None and not answer.chunked:  # its end would look like a broken connection
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
    """Fetch the model that a URL names into a file in quarantine, which is gone when the context ends.

    Raises `ModelNotFoundError`, `DownloadError`, `ModelFolderError` or `DiskFullError`.
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
    """Return a URL without its query, which may hold a key."""
    return url.partition("?")[0]
