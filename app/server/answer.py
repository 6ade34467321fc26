"""From a whole request to the bytes of its answer, through a WSGI application."""

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from app.config import OPEN_INFERENCE_PATHS
from app.server.request_reader import Request

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

BODILESS = ("204", "304")
LINE_BREAK = re.compile(r"[\r\n\0]")


def call_application(app: WSGIApp, request: Request, is_last: bool) -> bytes:
    """Call the application and return status line, headers and body.

    Args:
        app: a WSGI application.
        request: a whole request.
        is_last: whether the connection ends after the answer.

    Raises:
        ValueError: a header of the answer holds a line break.
    """
    head: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], None]:
        head[:] = status, headers  # called again, with an exception, the later ones count: nothing was sent yet
        return written.append

    chunks = app(request.environ, start_response)
    try:
        written.extend(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = head
    omits_body = request.environ["REQUEST_METHOD"] == "HEAD"
    return write_answer(int(time.time()), status, headers, b"".join(written), omits_body, is_last)


def write_answer(
    second: int, status: str, headers: Iterable[tuple[str, str]], body: bytes, omits_body: bool, is_last: bool
) -> bytes:
    """Write an answer; its length is that of the body, unless the headers state one."""
    lines = [f"HTTP/1.1 {status}", make_date(second), f"Connection: {'close' if is_last else 'keep-alive'}"]
    lines += [f"{name}: {value}" for name, value in headers]
    text = "\r\n".join(lines)
    if len(LINE_BREAK.findall(text)) != 2 * (len(lines) - 1):
        raise ValueError("a header of the answer holds a line break")
    if status[:3] in BODILESS or omits_body:
        body = b""
    elif "\r\ncontent-length:" not in text.lower():
        text += f"\r\nContent-Length: {len(body)}"
    return text.encode("latin-1") + b"\r\n\r\n" + body


@lru_cache(maxsize=1)
def make_date(second: int) -> str:
    """The `Date` header of a second since 1970."""
    return "Date: " + formatdate(second, usegmt=True)


def write_refusal(
    status: HTTPStatus, message: str, retry_after_s: int | None = None, is_last: bool = True, path: str = ""
) -> bytes:
    """Write the answer to a request that never reaches the application; of a text of ours, never of a caller's."""
    is_open_inference = path.startswith(OPEN_INFERENCE_PATHS)
    return write_refusal_at(int(time.time()), status, message, retry_after_s, is_last, is_open_inference)


@lru_cache(maxsize=16)
def write_refusal_at(
    second: int, status: HTTPStatus, message: str, retry_after_s: int | None, is_last: bool, is_open_inference: bool
) -> bytes:
    """The same of a second since 1970: under overload thousands of them are alike."""
    if is_open_inference:
        body = b'{"error":"%s"}\n' % message.encode()
    else:
        kind = status.phrase.title().replace(" ", "").replace("-", "") + "Exception"
        body = b'{"code":%d,"type":"%s","message":"%s"}\n' % (status, kind.encode(), message.encode())
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    if retry_after_s is not None:
        headers.append(("Retry-After", str(retry_after_s)))
    return write_answer(second, f"{status.value} {status.phrase}", headers, body, omits_body=False, is_last=is_last)
