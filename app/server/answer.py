"""From a whole request to the bytes of its answer, through a WSGI application."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

from app.config.settings import ANSWER_DELAY_S
from app.server.request_reader import Request

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

BODILESS = ("204", "304")
LINE_BREAK = re.compile(r"[\r\n\0]")


class StreamedAnswer:
    """The body of an answer that is sent while it is made, as the chunks of HTTP/1.1; close it in any case."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        """Yield what is to be sent, the mark of the end last; raises what the application raises meanwhile."""
        for chunk in self._chunks:
            if chunk:  # an empty one would be that mark
                yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
        yield b"0\r\n\r\n"

    def close(self) -> None:
        """Tell the application that nothing more is sent."""
        close_chunks(self._chunks)


class Answer(NamedTuple):
    """What goes back for one request; `text` is status line, headers and body, unless that is still being made."""

    text: bytes
    is_last: bool
    """Whether the connection ends with it."""
    delay_s: float = 0.0
    """How long it is withheld."""
    streamed: StreamedAnswer | None = None


def call_application(app: WSGIApp, request: Request, is_last: bool) -> Answer:
    """Return the application's answer: whole, unless its length is not known yet. Raises as `write_answer`."""
    head: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], None]:
        head[:] = status, headers  # called again, with an exception, the later ones count: nothing was sent yet
        return written.append

    chunks = app(request.environ, start_response)
    omits_body = request.environ["REQUEST_METHOD"] == "HEAD"
    try:
        if can_be_streamed(head, request) and not written:
            headers = [*head[1], ("Transfer-Encoding", "chunked")]
            text = write_answer(head[0], headers, b"", omits_body, is_last, has_length=False)
            streamed, chunks = StreamedAnswer(chunks), ()
            return Answer(text, is_last, streamed=streamed)
        written.extend(chunks)
        request.let_go()
    finally:
        close_chunks(chunks)
    status, headers = head
    text = write_answer(status, headers, b"".join(written), omits_body, is_last)
    return Answer(text, is_last, request.environ.get(ANSWER_DELAY_S, 0.0))


def can_be_streamed(head: Sequence[Any], request: Request) -> bool:
    """Whether an answer has a body of unknown length, and the client need not know it; `head` may be empty yet."""
    if not head or request.environ["SERVER_PROTOCOL"] != "HTTP/1.1" or request.environ["REQUEST_METHOD"] == "HEAD":
        return False
    return head[0][:3] not in BODILESS and all(name.lower() != "content-length" for name, _ in head[1])


def close_chunks(chunks: Iterable[bytes]) -> None:
    """Close what a WSGI application returned, if that can be closed."""
    if hasattr(chunks, "close"):
        chunks.close()


def write_answer(
    status: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    omits_body: bool,
    is_last: bool,
    has_length: bool = True,
) -> bytes:
    """Write an answer, with its length unless the headers state one; raises `ValueError` for a line break."""
    lines = [f"HTTP/1.1 {status}", make_date(int(time.time())), f"Connection: {'close' if is_last else 'keep-alive'}"]
    lines += [f"{name}: {value}" for name, value in headers]
    text = "\r\n".join(lines)
    if len(LINE_BREAK.findall(text)) != 2 * (len(lines) - 1):
        raise ValueError("a header of the answer holds a line break")
    if status[:3] in BODILESS or omits_body:
        body = b""
    elif has_length and "\r\ncontent-length:" not in text.lower():
        text += f"\r\nContent-Length: {len(body)}"
    return text.encode("latin-1") + b"\r\n\r\n" + body


@lru_cache(maxsize=1)
def make_date(second: int) -> str:
    """The `Date` header of a second since 1970."""
    return "Date: " + formatdate(second, usegmt=True)


def write_refusal(status: HTTPStatus, message: str, request_id: str, retry_after_s: int | None = None) -> bytes:
    """Write the last answer to a client whose bytes became no request; `message` is never a caller's."""
    kind = status.phrase.title().replace(" ", "").replace("-", "") + "Exception"
    document = {"code": status.value, "type": kind, "message": message}
    body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("X-Request-ID", request_id)]
    if retry_after_s is not None:
        headers.append(("Retry-After", str(retry_after_s)))
    return write_answer(f"{status.value} {status.phrase}", headers, body, omits_body=False, is_last=True)
