"""The open connections of a worker: how many each address may have, and which give way when there is no room."""

import heapq
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from app.server.connection import RECEIVE_BYTES, Connection
from app.server.request_reader import Request

RESERVED_DESCRIPTORS = 128
"""Files and sockets that a worker opens beside its clients: models, state, metrics, the links to handlers."""
RESERVED_PART = 10
"""Each address is sure of the tenth part of all connections, however many the others have."""
GIVE_WAY = 16
"""Connections that are closed at a time when an address is full: a flood must not cost a look at all for each."""
HELD_BODIES = 8
"""Bodies of the largest size that may be held at a time while they come in."""


def count_descriptors(most: int) -> int:
    """How many connections a process may have that may open only so many files; `most` is what is asked for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(RESERVED_PART, min(most, soft - RESERVED_DESCRIPTORS))


class ConnectionTable:
    """The connections by descriptor, each with the address (a listening descriptor) by which it came.

    Who gives way is a stranger if there is one: a client whose password is not known to be right. Among strangers it
    is the one that has waited longest since it came or was answered. Of known clients only idle ones give way.

    Thread safety: all methods may be called from any thread; a connection that another thread owns never gives way.
    """

    def __init__(self, listeners: Iterable[int], most: int, max_held_bytes: int) -> None:
        self._by_fd: dict[int, Connection] = {}
        self._counts = Counter(dict.fromkeys(listeners, 0))
        self._reserve = most // RESERVED_PART if len(self._counts) > 1 else 0
        self._shared = most - self._reserve * len(self._counts)
        self._max_held_bytes, self._lent_bytes = max_held_bytes, 0
        self._lock = threading.Lock()
        self.is_known: Callable[[Mapping[str, Any]], bool] = lambda _: False
        """Tells by a request's environment whether its caller's password is known to be right."""
        self.count_refusal: Callable[[str], object] = lambda _: None
        """Called with the reason for each connection that gives way."""

    def __len__(self) -> int:
        return len(self._by_fd)

    def all(self) -> list[Connection]:
        """Return all connections."""
        return list(self._by_fd.values())

    def get(self, fd: int) -> Connection | None:
        """Return the connection with a descriptor."""
        return self._by_fd.get(fd)

    def add(self, connection: Connection) -> None:
        """Add a new connection."""
        with self._lock:
            self._by_fd[connection.fd] = connection
            self._counts[connection.listener] += 1

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is about to be closed."""
        with self._lock:
            if self._by_fd.pop(connection.fd, None) is not None:
                self._counts[connection.listener] -= 1

    def has_room(self, listener: int) -> bool:
        """Whether an address may have one more connection."""
        with self._lock:
            used = sum(max(0, count - self._reserve) for count in self._counts.values())
            return self._counts[listener] < self._reserve or used < self._shared

    def make_room(self, listener: int) -> int:
        """Close those of an address's connections that waited longest; return how many."""
        own = [each for each in self.all() if each.listener == listener and not each.lock.locked()]
        ranked = ((self._knows(each), each.since, each.fd, each) for each in own)
        closed = 0
        for is_known, _, _, connection in heapq.nsmallest(GIVE_WAY, ranked):
            with connection.try_to_own() as is_owner:
                if is_owner and (connection.is_idle or not is_known):
                    connection.close()
                    self.count_refusal("connections")
                    closed += 1
        return closed

    @contextmanager
    def lend(self, request: Request) -> Iterator[None]:
        """Count a whole body as held while the application has it, unless its caller is known: those are counted there.

        A stranger's password is looked at in a line of its own, and the body waits with it.
        """
        length = request.held_bytes
        if length <= RECEIVE_BYTES or self.is_known(request.environ):
            yield
            return
        with self._lock:
            self._lent_bytes += length
        try:
            yield
        finally:
            with self._lock:
                self._lent_bytes -= length

    def _holds_too_much(self) -> bool:
        return sum(each.held_bytes for each in self.all()) + self._lent_bytes > self._max_held_bytes

    def list_heaviest(self) -> list[Connection]:
        """Return those that hold parts of bodies, if all together hold too much, and who gives way first is first.

        That is a stranger, and the one whose bytes, times the seconds since its request began, are most.
        """
        if not self._holds_too_much():
            return []
        now, holding = time.monotonic(), [each for each in self.all() if each.held_bytes]
        return sorted(holding, key=lambda each: (self._knows(each), -each.held_bytes * (now - each.since)))

    def relieve(self, arm: Callable[[Connection], None], own: Connection) -> int:
        """Refuse held bodies until those that are left are not too much; return how many were refused.

        `arm` is called with each connection but `own`, which the caller owns.
        """
        refused = 0
        for connection in self.list_heaviest():
            if connection is own:
                refuse(connection)
            else:
                with connection.try_to_own() as is_owner:
                    if not is_owner or not connection.held_bytes:
                        continue
                    refuse(connection)
                    arm(connection)
            refused += 1
            if not self._holds_too_much():
                break
        return refused

    def _knows(self, connection: Connection) -> bool:
        head = connection.head
        return connection.is_known or (head is not None and self.is_known(head))


def refuse(connection: Connection) -> None:
    """Answer that there is no room for a body."""
    connection.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many uploads at a time.", retry_after_s=1)
    connection.settle()
