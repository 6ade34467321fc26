"""Who closes its side behind its request waits for the answer; who does so later has left."""

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from app.server.client_presence import LEAVING_S, ClientPresence

Pair = tuple[socket.socket, socket.socket]


def connect_tcp() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture(params=[connect_tcp, socket.socketpair], ids=["TCP", "Unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The server's end and the client's of a connection, after a request."""
    ours, theirs = request.param()
    theirs.sendall(b"request")
    assert ours.recv(100) == b"request"
    ours.setblocking(False)
    theirs.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


def wait_for_end(ours: socket.socket) -> None:
    """Wait until the end of what the client sends has come."""
    ours.settimeout(5)
    assert ours.recv(1, socket.MSG_PEEK) == b""
    ours.setblocking(False)


def test_client_that_waits_is_there(pair: Pair) -> None:
    ours, theirs = pair
    presence = ClientPresence(ours)
    assert not presence.is_gone()
    theirs.sendall(b"the next request")
    assert not presence.is_gone()


def test_client_that_closed_its_side_behind_the_request_gets_all_of_an_answer(pair: Pair) -> None:
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    wait_for_end(ours)
    presence = ClientPresence(ours)
    for _ in range(3):
        assert not presence.is_gone()
        ours.sendall(b"a part")
        assert theirs.recv(100) == b"a part"
        time.sleep(LEAVING_S)


@pytest.mark.parametrize("send", [lambda _: None, lambda ours: ours.sendall(b"a part")], ids=["silent", "after a part"])
def test_client_that_leaves_while_it_waits_is_gone(pair: Pair, send: Callable[[socket.socket], None]) -> None:
    ours, theirs = pair
    presence = ClientPresence(ours)
    assert not presence.is_gone()
    send(ours)
    time.sleep(2 * LEAVING_S)
    theirs.close()
    deadline = time.monotonic() + 5
    while not presence.is_gone():
        assert time.monotonic() < deadline
    assert presence.is_gone()


def test_client_that_breaks_the_connection_is_gone_at_once() -> None:
    ours, theirs = connect_tcp()
    ours.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with ours:
        assert ClientPresence(ours).is_gone()
