"""One listening address of a worker: what is ready there, and the threads that take it up."""

import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable

from app.logs import describe_fault
from app.processes.turns import Turns
from app.server.connection import RECEIVE_BYTES, Connection

log = logging.getLogger(__name__)

STRANGERS_AT_ONCE, KNOWN_AT_ONCE = 2, 16
"""Connections of an address that are computed for at once; under the usual load no known caller waits for a turn."""
# Reported once, then not again before it is armed anew. Absent on macOS, where gunicorn's own threads serve.
if hasattr(select, "epoll"):
    READ, WRITE = select.EPOLLIN | select.EPOLLONESHOT, select.EPOLLOUT | select.EPOLLONESHOT


class AddressThreads:
    """As many threads as are busy, and one more, share the epoll of an address: a flood at one leaves the others alone.

    What is ready is taken up in the order in which it became so. `serve` is called with each descriptor that is ready
    and the thread's buffer; for the listener's `accept` is called. `wake` ends the threads.

    Thread safety: all methods may be called from any thread; what is armed is reported to one thread alone.
    """

    def __init__(
        self,
        listener: socket.socket,
        wake: int,
        most: int,
        accept: Callable[["AddressThreads"], None],
        serve: Callable[["AddressThreads", int, bytearray], None],
    ) -> None:
        self.listener, self.fd, self.name = listener, listener.fileno(), listener.getsockname()
        self.threads: list[threading.Thread] = []
        self._wake, self._most, self._accept, self._serve = wake, most, accept, serve
        self._of_strangers = Turns(STRANGERS_AT_ONCE, self._resume)
        self._of_known = Turns(KNOWN_AT_ONCE, self._resume)
        self._idle: deque[None] = deque()  # one for each thread that waits
        self._starting = threading.Lock()
        self._epoll = select.epoll()

    def open(self) -> None:
        """Begin to listen."""
        self.listener.setblocking(False)
        self._epoll.register(self.fd, READ)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._have_idle_thread()

    def listen(self) -> None:
        """Have the next new connection reported. Raises `OSError` or `ValueError` once it is closed."""
        self._epoll.modify(self.fd, READ)

    def close(self) -> None:
        """Listen no longer; connections go on."""
        self._epoll.unregister(self.fd)
        self.listener.close()

    def add(self, connection: Connection) -> None:
        """Have a new connection reported."""
        self._epoll.register(connection.fd, READ)

    def arm(self, connection: Connection) -> None:
        """Have a connection reported when there is something to do for it; called by its owner."""
        if not connection.is_closed:
            self._epoll.modify(connection.fd, WRITE if connection.wants_write else READ)

    def watch(self) -> None:
        """Look whether those whose turn it is go on; for one thread, now and then."""
        self._of_strangers.watch()
        self._of_known.watch()

    def take_turn(self, connection: Connection) -> bool:
        """Have a turn for a connection; without one it is reported again when it may have one. Who sent a right
        password before does not wait behind strangers.
        """
        turns = self._of_known if connection.is_known else self._of_strangers
        return turns.take(connection, connection.is_new)

    def _resume(self, connection: Connection) -> bool:
        """Have a connection that waited for its turn reported again; False if it was closed meanwhile."""
        try:
            self.arm(connection)
        except (OSError, ValueError):
            return False
        return not connection.is_closed

    def _have_idle_thread(self) -> None:
        """Start one more thread if none is idle, as far as there may be more."""
        with self._starting:
            if self._idle or len(self.threads) >= self._most:
                return
            thread = threading.Thread(target=self._work, name=f"requests-{len(self.threads)}", daemon=True)
            self._idle.append(None)
            try:
                thread.start()
                self.threads.append(thread)
            except RuntimeError:  # the system has none left
                self._idle.pop()
                log.warning("no thread can be started", extra={"reason": f"there are {len(self.threads)}"})

    def _work(self) -> None:
        """What each thread does: take what is ready, until the worker stops."""
        buffer = bytearray(RECEIVE_BYTES)
        while True:
            for fd, _ in self._epoll.poll(maxevents=1):
                if fd == self._wake:
                    return
                self._idle.pop()
                if not self._idle:
                    self._have_idle_thread()
                try:
                    if fd == self.fd:
                        self._accept(self)
                    else:
                        self._serve(self, fd, buffer)
                except Exception as error:  # noqa: BLE001  # a fault of ours ends its connection, never the thread
                    log.error("a thread of the server failed", extra={"reason": describe_fault(error)})
                self._idle.append(None)
