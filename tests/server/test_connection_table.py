"""`ConnectionTable` on socket pairs: which address has room, and which connection gives way."""

import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from app.server.client_presence import ClientTimes
from app.server.connection import RECEIVE_BYTES, Connection
from app.server.connection_table import RESERVED_DESCRIPTORS, ConnectionTable, count_descriptors
from app.server.gunicorn_worker import make_base
from app.server.request_reader import Request, RequestReader

LIMIT = 1_000_000
Connect = Callable[..., Connection]


@pytest.fixture
def table() -> ConnectionTable:
    """Two addresses, 1 and 2, with 20 connections; whose header says `right` is known."""
    table = ConnectionTable([1, 2], 20, LIMIT)
    table.is_known = lambda environ: environ.get("HTTP_AUTHORIZATION") == "right"
    return table


@pytest.fixture
def connect(table: ConnectionTable) -> Iterator[Connect]:
    """Add a connection whose client has sent something."""
    clients = []

    def make(listener: int = 1, sent: bytes = b"") -> Connection:
        ours, theirs = socket.socketpair()
        clients.append(theirs)
        reader = RequestReader(make_base("s", "s", "http"), LIMIT)
        connection = Connection(ours, reader, ClientTimes(5, 60), table.remove, listener)
        table.add(connection)
        buffer = bytearray(RECEIVE_BYTES)
        for start in range(0, len(sent), RECEIVE_BYTES):
            theirs.sendall(sent[start : start + RECEIVE_BYTES])
            connection.serve(buffer, lambda _: pytest.fail("no request is whole"))
        return connection

    yield make
    for connection in table.all():
        connection.close()
    for client in clients:
        client.close()


def half(body: int, header: str = "") -> bytes:
    return f"PUT /p HTTP/1.1\r\nHost: h\r\n{header}Content-Length: {LIMIT}\r\n\r\n".encode() + bytes(body)


KNOWN = "Authorization: right\r\n"


def test_address_is_sure_of_its_share_and_no_other_takes_it(table: ConnectionTable, connect: Connect) -> None:
    for _ in range(18):
        assert table.has_room(1)
        connect(1)
    assert not table.has_room(1)
    for _ in range(2):
        assert table.has_room(2)
        connect(2)
    assert not table.has_room(2)
    table.all()[0].close()
    assert table.has_room(1)
    assert table.has_room(2)


def test_stranger_who_waited_longest_gives_way_first_and_no_known_client_in_a_request(
    table: ConnectionTable, connect: Connect
) -> None:
    known, other = connect(1, half(10, KNOWN)), connect(2)
    idle = connect()
    idle.is_known = True
    strangers = [connect(sent=half(10)) for _ in range(17)]
    refused: list[str] = []
    table.count_refusal = refused.append
    assert table.make_room(1) == 16
    assert refused == ["connections"] * 16
    assert [each.is_closed for each in strangers] == [True] * 16 + [False]
    assert table.make_room(1) == 2
    assert strangers[-1].is_closed
    assert idle.is_closed
    assert not known.is_closed
    assert not other.is_closed
    assert table.make_room(1) == 0


def test_connection_that_a_thread_owns_never_gives_way(table: ConnectionTable, connect: Connect) -> None:
    owned = connect()
    with owned.lock:
        assert table.make_room(1) == 0
    assert table.make_room(1) == 1


def test_bodies_give_way_by_bytes_times_seconds_strangers_first(table: ConnectionTable, connect: Connect) -> None:
    known = connect(sent=half(400_000, KNOWN))
    old, new, small = (connect(sent=half(size)) for size in (300_000, 350_000, 1000))
    now = time.monotonic()
    for connection, age_s in ((known, 50), (old, 9), (new, 1), (small, 20)):
        connection.since = now - age_s
    assert table.list_heaviest() == [old, new, small, known]
    armed: list[Connection] = []
    assert table.relieve(armed.append, new) == 1
    assert armed == [old]
    assert (old.held_bytes, new.held_bytes) == (0, 350_000)
    assert table.list_heaviest() == []


def test_body_that_the_application_has_counts_unless_its_caller_is_known(
    table: ConnectionTable, connect: Connect
) -> None:
    connect(sent=half(400_000))
    stranger, known = ({"HTTP_AUTHORIZATION": text} for text in ("wrong", "right"))
    with table.lend(Request(stranger, True, False, None, 700_000)):
        assert len(table.list_heaviest()) == 1
    assert table.list_heaviest() == []
    with table.lend(Request(known, True, False, None, 700_000)):
        assert table.list_heaviest() == []


def test_process_that_may_open_few_files_has_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {1024: 1024 - RESERVED_DESCRIPTORS, 20_000: 1000, 64: 10, resource.RLIM_INFINITY: 1000}
    for soft, most in expected.items():
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert count_descriptors(1000) == most
