"""From the bytes of a connection to whole requests, each as the environment of a WSGI call (PEP 3333)."""

import io
import re
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from app.server.streamed_body import StreamedBody

MAX_HEAD_BYTES = 32 * 1024
AHEAD_BYTES, PART_BYTES = 4 * 1024, 32 * 1024
"""Bytes that are read at a time where a request may end unseen, so that those behind it stay in the system; and of a
body that comes in chunks.
"""
MAX_URL_BYTES = 4096
MAX_HEADER_FIELDS = 64
HOST = re.compile(rb"(\[[\w.:%~-]+\]|([\w.~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(:[0-9]*)?")
"""A host by RFC 3986, section 3.2.2, but for the comma, which would make one of two; then perhaps a port."""
MAX_BLANK_BYTES = 16
"""Of line ends before a request: RFC 9112, section 2.2, asks to ignore one."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Refusal(NamedTuple):
    """Why the bytes are no request that is taken; the connection cannot go on after it."""

    status: HTTPStatus
    message: str


@dataclass(frozen=True)
class Request:
    """A whole request, as the environment of a WSGI call; `wsgi.input` holds the body, `CONTENT_LENGTH` its length."""

    environ: dict[str, Any]
    keeps_alive: bool
    is_oversized: bool
    """Whether its body is over the limit, and nobody will read it."""
    stream: StreamedBody | None = None
    """Its body, if that is read while the application asks for it."""
    held_bytes: int = 0
    """Of its body that are in memory."""

    def let_go(self) -> None:
        """Free a body that was held, once it is answered: an error's traceback may keep the environment for long."""
        if self.held_bytes:
            with suppress(BufferError):  # the application has lent it to somebody
                self.environ["wsgi.input"].close()

    @property
    def has_unread_body(self) -> bool:
        """Whether the client is sending a body that nobody will read."""
        return self.is_oversized or (self.stream is not None and not self.stream.is_whole)


@lru_cache(maxsize=256)
def name_variable(header: bytes) -> str | None:
    """Return the environment variable of a header; None for one with an underscore, which could pose as another."""
    if b"_" in header:
        return None
    name = header.decode("latin-1").upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name


class RequestReader:
    """Reads the requests of one connection, one after another.

    Bodies are held in memory. A request whose body is over the limit is handed over at once, without it: the
    application answers 413, and the connection ends. Where `is_streamed` says so of a request's environment, the
    application reads the body as it comes, and bounds it; the connection ends with such a request.

    Attributes:
        requests: those that are whole, in order.
        is_between: whether no request has begun since the last whole one.
        held_bytes: of the body that is not whole yet.
        wants_continue: whether the client waits for `100 Continue` before it sends its body.
        refusal: why nothing more is read, if the client sent what is no HTTP, or too long a head.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        max_body_bytes: int,
        is_streamed: Callable[[Mapping[str, Any]], bool] = lambda _: False,
    ) -> None:
        self._base, self._is_streamed, self._max_body_bytes = base, is_streamed, max_body_bytes
        self._parser = HttpRequestParser(self)
        self.requests: deque[Request] = deque()
        self.is_between = True
        self.wants_continue = self._is_closed = False
        self.refusal: Refusal | None = None
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._environ: dict[str, Any] = {}
        self._body = io.BytesIO()
        self._stream: StreamedBody | None = None
        self._head_bytes = self.held_bytes = 0

    def feed(self, data: memoryview) -> None:
        """Take what came next. Whole requests stay in `requests`, also if `refusal` is set by what follows them."""
        if self._is_closed:
            return
        self._head_bytes += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:  # whose words are the parser's own
            self._refuse(HTTPStatus.BAD_REQUEST, f"The request is no valid HTTP: {error}.")
        # Between two parts of a body there may be no more than a head's worth either: trailers have no other limit.
        if not self.is_between and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long.")
        if self.is_between and self._head_bytes > MAX_BLANK_BYTES and not self.requests:
            self._refuse(HTTPStatus.BAD_REQUEST, "Too many blank lines came before a request.")

    def _parse(self, data: memoryview) -> None:
        """Have the bytes parsed. Raises `HttpParserError` if they are no HTTP."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            if not self._ignores_upgrade:
                self._is_closed = True  # what follows CONNECT is no HTTP
                return
            head = self._write_head_without_upgrade()
            self._parser, self._url, self._headers = HttpRequestParser(self), b"", []
            self._parser.feed_data(head)

    @property
    def _ignores_upgrade(self) -> bool:
        """Whether the parser ends at a head that asks for another protocol. Nobody here speaks it, so the request is
        answered in HTTP/1.1 (RFC 9110, section 7.8): the parser gets the head once more, without that wish.
        """
        return bool(self._parser.should_upgrade()) and self._parser.get_method() != b"CONNECT"

    def _write_head_without_upgrade(self) -> bytes:
        first = b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        kept = [b"%b: %b" % header for header in self._headers if header[0].lower() != b"upgrade"]
        return b"\r\n".join([first, *kept, b"\r\n"])

    def drop(self) -> None:
        """Let go of what was read and is not answered; nothing is read after it."""
        self._is_closed = True
        self.requests.clear()
        self._begin()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._is_closed = True
        self.refusal = self.refusal or Refusal(status, message)

    @property
    def wanted_bytes(self) -> int:
        """How many bytes may come at a time: what is left of a body whose length is stated, or a few."""
        if self.refusal is not None:
            return MAX_HEAD_BYTES  # to be thrown away
        if self.is_between or not self._environ:
            return AHEAD_BYTES
        length = self._environ.get("CONTENT_LENGTH")
        return PART_BYTES if length is None else max(AHEAD_BYTES, int(length or 0) - self.held_bytes)

    @property
    def is_in_head(self) -> bool:
        """Whether a request has begun whose head is not whole."""
        return not self.is_between and not self._environ

    @property
    def head(self) -> dict[str, Any] | None:
        """The environment of the request whose body is coming, if any."""
        return self._environ or None

    # What the parser calls, in this order.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.is_between = False

    def on_url(self, url: bytes) -> None:
        """Take the target, or the next part of it."""
        self._url += url
        if len(self._url) > MAX_URL_BYTES:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "The request's path is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name, value.strip(b" \t")))  # the parser leaves what follows a value, and tabs before it
        if len(self._headers) > MAX_HEADER_FIELDS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request has too many headers.")

    def on_headers_complete(self) -> None:
        """Make the environment; look at how long the body will be."""
        if self._ignores_upgrade:
            return
        version = self._parser.get_http_version()
        self._check_head(version)
        if self._is_closed:
            return
        path, _, query = self._url.partition(b"?")
        if not path.startswith(b"/"):  # a proxy's form, `GET http://host/path`
            path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
        environ = {
            **self._base,
            "REQUEST_METHOD": self._parser.get_method().decode("ascii"),
            "PATH_INFO": (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1"),
            "QUERY_STRING": query.decode("latin-1"),
            "SERVER_PROTOCOL": "HTTP/" + version,
        }
        for name, value in self._headers:
            variable = name_variable(name)
            if variable is None or variable == "HTTP_TRANSFER_ENCODING":  # the body comes to the application whole
                continue
            text = value.decode("latin-1")
            environ[variable] = f"{environ[variable]},{text}" if variable in environ else text
        self._environ = environ
        length = int(environ.get("CONTENT_LENGTH") or 0)
        has_body = length or any(name.lower() == b"transfer-encoding" for name, _ in self._headers)
        if has_body and self._is_streamed(environ):
            environ["wsgi.input"] = self._stream = StreamedBody()
            self.requests.append(Request(environ, keeps_alive=False, is_oversized=False, stream=self._stream))
        elif length > self._max_body_bytes:
            self._hand_over(is_oversized=True)
            return
        self.wants_continue = environ.get("HTTP_EXPECT", "").lower() == "100-continue"

    def _check_head(self, version: str) -> None:
        """Refuse what the parser lets pass."""
        hosts = [value for name, value in self._headers if name.lower() == b"host"]
        codings = [value for name, value in self._headers if name.lower() == b"transfer-encoding"]
        if version not in ("1.0", "1.1"):
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 and HTTP/1.0 are spoken here.")
        elif len(hosts) > 1 or (not hosts and version == "1.1"):  # RFC 9112, section 3.2
            self._refuse(HTTPStatus.BAD_REQUEST, "A request needs one Host header.")
        elif hosts and HOST.fullmatch(hosts[0]) is None:
            self._refuse(HTTPStatus.BAD_REQUEST, "The Host header names no host.")
        elif codings and version == "1.0":  # RFC 9112, section 6.1
            self._refuse(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding.")
        elif codings and b",".join(codings).lower() != b"chunked":
            self._refuse(HTTPStatus.NOT_IMPLEMENTED, "Of Transfer-Encoding, chunked alone is spoken here.")

    def on_body(self, data: bytes) -> None:
        """Take the next part of the body."""
        if self._is_closed:
            return
        self.wants_continue = False
        self._head_bytes = 0
        if self._stream is not None:
            self._stream.add(data)
            return
        if not self.held_bytes:
            self._body = io.BytesIO(data)  # shares the bytes: a body that comes at once is not copied
        else:
            self._body.seek(0, io.SEEK_END)
            self._body.write(data)
        self.held_bytes += len(data)
        if self.held_bytes > self._max_body_bytes:
            self._hand_over(is_oversized=True)

    def on_message_complete(self) -> None:
        """Hand the request over."""
        if self._is_closed or self._ignores_upgrade:
            return
        if self._stream is not None:
            self._stream.is_whole = self._is_closed = True
        else:
            self._hand_over(is_oversized=False)

    def _hand_over(self, is_oversized: bool) -> None:
        environ = self._environ
        self._body.seek(0)
        environ["wsgi.input"] = io.BytesIO() if is_oversized else self._body
        if self.held_bytes:  # also where the body came in chunks, without a length
            environ["CONTENT_LENGTH"] = str(self.held_bytes)
        if is_oversized or self._parser.should_upgrade():  # for CONNECT
            self._is_closed = True
        self.wants_continue = False
        keeps_alive = not self._is_closed and self._parser.should_keep_alive()
        self.requests.append(Request(environ, keeps_alive, is_oversized, None, 0 if is_oversized else self.held_bytes))
        self._begin()
        self.is_between = True
