"""Bodies that the application reads while they come: which, in what pieces, how long their client is awaited."""

import time
from functools import partial

import pytest

from app.server.gunicorn_worker import make_base
from app.server.request_reader import Request, RequestReader
from app.server.streamed_body import LEAST_BYTES_PER_S, StreamedBody

BASE = make_base(("127.0.0.1", 8081), ("127.0.0.1", 50000), "http")
HEAD = b"POST /models?x=1 HTTP/1.1\r\nHost: h\r\n"
LIMIT = 10


def feed(*parts: bytes) -> tuple[RequestReader, Request]:
    reader = RequestReader(BASE, LIMIT, lambda _: True)
    for part in parts:
        reader.feed(memoryview(part))
    return reader, reader.requests[0]


@pytest.mark.parametrize(
    "text",
    [
        b"Content-Length: 20\r\n\r\n" + b"0123456789" * 2,
        b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
    ],
)
def test_model_is_handed_over_with_its_head_and_none_of_it_is_held(text: bytes) -> None:
    start = text.index(b"\r\n\r\n") + 4
    reader, request = feed(HEAD + text[:start])
    stream = request.stream
    assert stream is not None
    assert request.environ["wsgi.input"] is stream
    assert request.has_unread_body
    assert not request.keeps_alive
    rest = iter([text[at : at + 3] for at in range(start, len(text), 3)])
    stream.wait_for_more = lambda: reader.feed(memoryview(next(rest)))
    assert b"".join(iter(partial(stream.read, 4), b"")) == b"0123456789" * 2
    assert stream.read() == b""
    assert not request.has_unread_body
    assert reader.held_bytes == 0


def test_everything_else_is_held_as_ever() -> None:
    reader = RequestReader(BASE, LIMIT)
    reader.feed(memoryview(HEAD + b"Content-Length: 1\r\n\r\na"))
    assert reader.requests[0].stream is None
    assert reader.requests[0].keeps_alive


def test_client_has_its_time_and_more_for_what_it_has_sent() -> None:
    stream = StreamedBody()
    before = stream.find_deadline(60)
    assert before == pytest.approx(time.monotonic() + 60, abs=1)
    stream.add(bytes(10 * LEAST_BYTES_PER_S))
    assert stream.find_deadline(60) == pytest.approx(before + 10)
