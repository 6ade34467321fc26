"""`RequestReader`: the same requests come out however the bytes come in, and what is no request is refused."""

from typing import Any

import pytest

from app.server.gunicorn_worker import make_base
from app.server.request_reader import (
    MAX_HEAD_BYTES,
    MAX_HEADER_FIELDS,
    MAX_URL_BYTES,
    Request,
    RequestReader,
)

LIMIT = 1000
BASE = make_base(("127.0.0.1", 8080), ("127.0.0.1", 50000), "http")
PUT = b"PUT /predictions/a%20b?x=1%202 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-Request-ID: abc\r\n\r\nhello"
CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\n"
    b"3\r\nabc\r\n4;name=value\r\ndefg\r\n0\r\n\r\n"
)
NO_HOSTS = (
    b"a b",
    b"a/b",
    b"user@h",
    b"a?b",
    b"a:port",
    b"a:1:2",
    b"[::1",
    b"::1",
    b"http://h",
    b"\x8a",
    b"a%zz",
    b"a, b",
)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def read(*parts: bytes, limit: int = LIMIT) -> list[Request]:
    reader = RequestReader(BASE, limit)
    for part in parts:
        reader.feed(memoryview(part))
    return list(reader.requests)


def plain(request: Request) -> dict[str, Any]:
    return {**request.environ, "wsgi.input": request.environ["wsgi.input"].read()}


def test_head_and_body_become_the_environment() -> None:
    (request,) = read(PUT)
    environ = plain(request)
    assert environ["REQUEST_METHOD"] == "PUT"
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/predictions/a b", "x=1%202")
    assert (environ["CONTENT_LENGTH"], environ["wsgi.input"]) == ("5", b"hello")
    assert (environ["HTTP_HOST"], environ["HTTP_X_REQUEST_ID"]) == ("h", "abc")
    assert (environ["SERVER_PORT"], environ["REMOTE_ADDR"]) == ("8080", "127.0.0.1")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert request.keeps_alive
    assert not request.has_unread_body


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 64])
def test_requests_are_the_same_however_they_are_cut(size: int) -> None:
    whole = PUT + CHUNKED + GET
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert [plain(each) for each in read(*parts)] == [plain(each) for each in read(whole)]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"h2c, HTTP/3.0", b"h2c\r\nUpgrade: TLS/1.3"])
@pytest.mark.parametrize("request_text", [PUT, CHUNKED, GET, GET.replace(b"1.1", b"1.0")])
def test_wish_for_another_protocol_is_passed_over(request_text: bytes, protocol: bytes, size: int) -> None:
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABk\r\n" % protocol
    first, headers = request_text.split(b"\r\n", 1)
    whole = first + b"\r\n" + wish + headers + b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    wished, *others = read(*parts)
    environ, expected = plain(wished), plain(read(request_text)[0])
    assert environ.pop("HTTP_CONNECTION") == "Upgrade, HTTP2-Settings"
    assert environ.pop("HTTP_HTTP2_SETTINGS") == "AAMAAABk"
    assert environ == expected
    assert [each.environ["PATH_INFO"] for each in others] == (["/next"] if wished.keeps_alive else [])


def test_body_of_a_request_that_wishes_for_another_protocol_is_no_request() -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    (request,) = read(head % len(inner), inner)
    assert plain(request)["wsgi.input"] == inner


def test_chunked_body_has_a_length_and_no_encoding() -> None:
    environ = plain(read(CHUNKED)[0])
    assert (environ["wsgi.input"], environ["CONTENT_LENGTH"]) == (b"abcdefg", "7")
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_repeated_headers_are_joined_and_underscored_ones_dropped() -> None:
    environ = plain(read(b"GET / HTTP/1.1\r\nHost: h\r\nAccept: a\r\nAccept: b\r\nX_Request_ID: forged1\r\n\r\n")[0])
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert "HTTP_X_REQUEST_ID" not in environ


def test_bytes_of_a_path_reach_the_application_as_wsgi_wants_them() -> None:
    environ = plain(read(b"GET /a%C3%A4 HTTP/1.1\r\nHost: h\r\n\r\n")[0])
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/aä"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://h/models?x", "/models"),
        (b"http://h//predictions/a", "//predictions/a"),
        (b"http://h/%70redictions/a", "/predictions/a"),
        (b"/%70redictions/a", "/predictions/a"),
        (b"//predictions/a", "//predictions/a"),
        (b"/predictions%2Fa", "/predictions/a"),
    ],
)
def test_target_is_taken_by_its_path_also_in_a_proxys_form(target: bytes, path: str) -> None:
    assert plain(read(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")[0])["PATH_INFO"] == path


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n", False),
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", False),
    ],
)
def test_connection_lives_on_as_the_client_says(head: bytes, keeps: bool) -> None:
    assert read(head)[0].keeps_alive is keeps


@pytest.mark.parametrize(
    "message",
    [
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + bytes(1001),
    ],
)
def test_body_over_the_limit_is_handed_over_at_once_without_it(message: bytes) -> None:
    (request,) = read(message, b"more")
    assert request.has_unread_body
    assert not request.keeps_alive
    assert int(request.environ["CONTENT_LENGTH"]) > LIMIT
    assert request.environ["wsgi.input"].read() == b""


def test_client_that_waits_is_told_to_continue_once() -> None:
    reader = RequestReader(BASE, LIMIT)
    reader.feed(memoryview(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"))
    assert reader.wants_continue
    assert not reader.requests
    reader.feed(memoryview(b"ab"))
    assert not reader.wants_continue
    assert len(reader.requests) == 1


def test_client_that_expects_to_send_too_much_is_not_told_to() -> None:
    reader = RequestReader(BASE, LIMIT)
    reader.feed(memoryview(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n"))
    assert not reader.wants_continue
    assert reader.requests[0].has_unread_body


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),  # a TLS client
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nName : space\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nName: a\0b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * MAX_URL_BYTES + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * (MAX_HEADER_FIELDS + 1) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nName: " + b"a" * MAX_HEAD_BYTES, 431),
    ],
)
def test_what_is_no_request_is_refused(message: bytes, status: int) -> None:
    reader = RequestReader(BASE, LIMIT)
    reader.feed(memoryview(message))
    assert reader.refusal is not None
    assert reader.refusal.status == status


def test_request_before_the_nonsense_is_kept_and_nothing_is_read_after_it() -> None:
    reader = RequestReader(BASE, LIMIT)
    reader.feed(memoryview(GET + b"nonsense\r\n\r\n"))
    assert reader.refusal is not None
    assert len(reader.requests) == 1
    reader.feed(memoryview(GET))
    assert len(reader.requests) == 1


def test_endless_trailer_is_refused() -> None:
    reader = RequestReader(BASE, LIMIT)
    reader.feed(memoryview(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: "))
    reader.feed(memoryview(b"a" * 2 * MAX_HEAD_BYTES))
    assert reader.refusal is not None
    assert reader.refusal.status == 431


@pytest.mark.parametrize("size", [3, 1 << 20])
def test_body_is_held_once_and_read_without_a_copy(size: int) -> None:
    body = bytes(range(256)) * 1000
    message = b"PUT /p HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    reader = RequestReader(BASE, len(body))
    for start in range(0, len(message), size * 1000):
        reader.feed(memoryview(message)[start : start + size * 1000])
    stream = reader.requests[0].environ["wsgi.input"]
    first = stream.getvalue()
    assert first == body
    assert stream.getvalue() is first


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        (b"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
        *((b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 400) for host in NO_HOSTS),
    ],
)
def test_request_without_one_host_or_of_another_version_is_refused(head: bytes, status: int) -> None:
    reader = RequestReader(BASE, LIMIT)
    reader.feed(memoryview(GET + head + GET))
    assert len(reader.requests) == 1
    assert reader.refusal is not None
    assert reader.refusal.status == status


@pytest.mark.parametrize("host", [b"", b"h", b"my_service:8080", b"127.0.0.1:8080", b"[::1]", b"[::1]:8080", b"a%2db"])
def test_host_that_may_be_one_is_handed_on(host: bytes) -> None:
    (request,) = read(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert request.environ["HTTP_HOST"] == host.decode()


@pytest.mark.parametrize("space", [b"", b" ", b"\t", b" \t "])
def test_space_around_a_value_is_no_part_of_it(space: bytes) -> None:
    (request,) = read(
        b"GET / HTTP/1.1\r\nHost:" + space + b"h" + space + b"\r\nAccept:" + space + b"a b" + space + b"\r\n\r\n"
    )
    assert (request.environ["HTTP_HOST"], request.environ["HTTP_ACCEPT"]) == ("h", "a b")


def test_request_of_version_1_0_needs_no_host() -> None:
    assert "HTTP_HOST" not in plain(read(b"GET / HTTP/1.0\r\n\r\n")[0])
