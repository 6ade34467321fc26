"""A gunicorn worker whose threads share one epoll, so that only whole requests occupy a thread.

gunicorn's own threads wait for the client they have accepted: a few clients that send slowly stop all others. Here a
connection is read as its bytes come, by whichever thread is free. The thread that read a request's last byte answers.
"""

import logging
import mmap
import os
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from gunicorn.sock import ssl_context
from gunicorn.workers.base import Worker

from app.config.settings import SERVER_IS_STOPPING, read_settings
from app.logs import describe_fault
from app.processes.turns import give_way
from app.server.address_threads import AddressThreads
from app.server.answer import Answer, call_application
from app.server.client_presence import ClientTimes
from app.server.connection import RECEIVE_BYTES, Connection
from app.server.connection_table import HELD_BODIES, ConnectionTable, count_descriptors
from app.server.request_reader import Request, RequestReader

log = logging.getLogger(__name__)

TICK_S = 0.5
"""How often deadlines and gunicorn's arbiter are looked at."""
YIELD_S, MAX_YIELD_S = 0.0002, 0.002
"""For each connection it has, a worker lets the others go first for a new one by so long, and by no more than that."""
STOP_LINGER_S = 2.0
"""How long a stopping worker keeps idle connections, for the request that a client may be sending just now."""
STOP_MARGIN = 0.9
"""The part of its grace that a stopping worker uses, so that it ends before gunicorn would kill it."""
CROWD, MAX_ACCEPTS = 64, 16
"""A worker with more connections than a crowd accepts so many new ones at once, and lets nobody go first."""

RELOADS = mmap.mmap(-1, mmap.PAGESIZE)
"""How often the server was reloaded; shared by the arbiter, which counts, and the workers that it forks."""


def count_reloads() -> int:
    """How often the server was reloaded."""
    return int.from_bytes(RELOADS[:8], "little")


def note_reload() -> None:
    """Count a reload; for the arbiter, before it stops the old workers."""
    RELOADS[:8] = (count_reloads() + 1).to_bytes(8, "little")


class SharedPollWorker(Worker):  # type: ignore[misc]  # gunicorn has no annotations
    """Serves all connections of a process, those of each address by threads of their own (`AddressThreads`).

    Thread safety: what is armed is reported to one thread alone, which arms it again when it is done. A connection's
    lock keeps out the main thread, which closes the late ones.
    """

    alive: bool
    count_refusal: Callable[[str], object] = staticmethod(lambda _: None)
    """Called with the reason for each upload that is turned away; `gunicorn_conf` puts a metric here."""
    is_streamed: Callable[[Mapping[str, Any]], bool] = staticmethod(lambda _: False)
    """Tells by its environment whether the application reads a request's body as it comes; set there too."""
    is_known: Callable[[Mapping[str, Any]], bool] = staticmethod(lambda _: False)
    """Tells by its environment whether the application knows a request's caller; set there too."""
    _stops_at: float | None

    def init_process(self) -> None:
        """Prepare what the threads share, in the worker's process; returns when the worker ends."""
        settings = read_settings()
        self._max_body_bytes = settings.max_body_bytes
        self._times = ClientTimes(max(self.cfg.keepalive, TICK_S), settings.upload_timeout_s)
        self._stop_delay_s, self._stops_at, self._reloads = settings.stop_delay_s, None, count_reloads()
        self._grace_s = max(0, self.cfg.graceful_timeout - settings.stop_delay_s) * STOP_MARGIN
        self._tls: ssl.SSLContext | None = ssl_context(self.cfg) if self.cfg.is_ssl else None
        self._wake = os.eventfd(0)
        each = (AddressThreads(each, self._wake, self.cfg.threads, self._accept, self._serve) for each in self.sockets)
        self._addresses = {address.fd: address for address in each}
        most = count_descriptors(self.cfg.worker_connections)
        self._connections = ConnectionTable(self._addresses, most, HELD_BODIES * settings.max_body_bytes)
        self._numbers = count()
        self._withheld: SimpleQueue[tuple[float, int, Connection]] = SimpleQueue()
        self._paused: set[int] = set()
        super().init_process()

    def run(self) -> None:
        """Serve until gunicorn says stop, then end what was begun."""
        self._connections.is_known, self._connections.count_refusal = self.is_known, self.count_refusal
        threading.Thread(target=self._release_withheld, name="withheld", daemon=True).start()
        for address in self._addresses.values():
            address.open()
        while self.alive and self.ppid == os.getppid():
            self._tick()
            if self._stops_at is not None and time.monotonic() >= self._stops_at:
                break
        self.alive = False
        for address in self._addresses.values():
            address.close()
        self._drain()

    def handle_exit(self, *_: Any) -> None:
        """On TERM say that we are not ready, and go on for a while: who balances the load must hear of it first."""
        if self._stops_at is None:  # on a reload other workers have taken over, so there is nothing to say
            delay_s = self._stop_delay_s if count_reloads() == self._reloads else 0
            self._stops_at = time.monotonic() + delay_s

    def _tick(self) -> None:
        """Wait for a signal or the next look round; then close who is late."""
        self._notify()
        wait_s = TICK_S if self._stops_at is None else min(TICK_S, max(0, self._stops_at - time.monotonic()))
        if select.select([self.PIPE[0]], [], [], wait_s)[0]:
            os.read(self.PIPE[0], 4096)
        now = time.monotonic()
        for connection in self._connections.all():
            with connection.try_to_own() as is_owner:
                if is_owner and connection.deadline < now and not connection.is_in_line:
                    connection.expire()
        while self._paused:
            self._addresses[self._paused.pop()].listen()

    def _notify(self) -> None:
        """Tell gunicorn's arbiter that this worker lives, and look whether its threads go on."""
        self.notify()
        for address in self._addresses.values():
            address.watch()

    def _accept(self, address: AddressThreads) -> None:
        """Accept new connections; among several workers, the one with the fewest is the quickest."""
        held = len(self._connections)
        if 0 < held <= CROWD and self.cfg.workers > 1:
            time.sleep(min(held * YIELD_S, MAX_YIELD_S))
        try:
            for _ in range(1 if held <= CROWD else MAX_ACCEPTS):
                if not self.alive or not self._make_room(address.fd) or not self._accept_one(address):
                    break
        finally:
            if address.fd not in self._paused:
                self._listen(address)

    def _make_room(self, fd: int) -> bool:
        """Whether there is room for one more connection of an address; if need be, the longest waiting give way."""
        if self._connections.has_room(fd) or self._connections.make_room(fd):
            return True
        self._paused.add(fd)
        return False

    def _accept_one(self, address: AddressThreads) -> bool:
        """Accept a connection, if there is one."""
        try:
            client, peer = address.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:  # no descriptors left
            log.warning("no connection can be accepted", extra={"reason": error.strerror})
            self._connections.make_room(address.fd)
            self._paused.add(address.fd)
            return False
        try:
            self._adopt(client, address, peer)
        except OSError:  # the client has gone already
            client.close()
        return True

    def _listen(self, address: AddressThreads) -> None:
        """Have the next connection reported, unless the worker stops listening at this very moment."""
        try:
            address.listen()
        except (OSError, ValueError):
            if self.alive:
                raise

    def _adopt(self, client: socket.socket, address: AddressThreads, peer: tuple[str, int] | str) -> None:
        """Have a new connection polled."""
        client.setblocking(False)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:  # the handshake comes with the first bytes, as far as they go
            client = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        base = make_base(address.name, peer, "http" if self._tls is None else "https")
        reader = RequestReader(base, self._max_body_bytes, self.is_streamed)
        connection = Connection(client, reader, self._times, self._connections.remove, address.fd)
        self._connections.add(connection)
        address.add(connection)

    def _serve(self, address: AddressThreads, fd: int, buffer: bytearray) -> None:
        """Go on with a connection that has something to read, or room to write."""
        connection = self._connections.get(fd)
        if connection is None:
            return
        connection.is_in_line = True
        if not address.take_turn(connection):
            return
        try:
            with connection.lock:
                connection.is_in_line = False
                if connection.is_open():  # else it is a report from before, or of another's number
                    self._go_on(connection, buffer)
        finally:
            give_way()

    def _go_on(self, connection: Connection, buffer: bytearray) -> None:
        """Read, answer, and have the connection reported again; called by its owner."""
        try:
            connection.serve(buffer, self._answer)
            if connection.held_bytes > RECEIVE_BYTES:
                for _ in range(self._connections.relieve(self._arm, connection)):
                    self.count_refusal("uploads")
            if connection.due is not None:
                self._withheld.put((connection.due, next(self._numbers), connection))
            else:
                self._arm(connection)
        except BaseException:
            connection.close()
            raise

    def _arm(self, connection: Connection) -> None:
        """Have the connection reported when there is something to do for it; called by its owner."""
        self._addresses[connection.listener].arm(connection)

    def _release_withheld(self) -> None:
        """What one thread does: let withheld answers go when they are due."""
        waiting: list[tuple[float, int, Connection]] = []
        while True:
            with suppress(Empty):
                left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
                heappush(waiting, self._withheld.get(timeout=left_s))
            while waiting and waiting[0][0] <= time.monotonic():
                self._release(heappop(waiting)[2])

    def _release(self, connection: Connection) -> None:
        try:
            with connection.lock:
                if not connection.is_closed:
                    connection.release()
                self._arm(connection)
        except Exception as error:  # noqa: BLE001  # as in `_work`
            log.error("a thread of the server failed", extra={"reason": describe_fault(error)})

    def _answer(self, request: Request) -> Answer:
        request.environ[SERVER_IS_STOPPING] = self._stops_at is not None
        with self._connections.lend(request):
            return call_application(self.wsgi, request, is_last=not (request.keeps_alive and self.alive))

    def _drain(self) -> None:
        """Answer what has begun, within gunicorn's grace; idle connections get a moment for one more request."""
        started = time.monotonic()
        while time.monotonic() - started < self._grace_s:
            is_late = time.monotonic() - started > STOP_LINGER_S
            for connection in self._connections.all():
                with connection.try_to_own() as is_owner:
                    if is_owner and is_late and connection.is_idle:
                        connection.close()
            if not len(self._connections):
                break
            self._notify()
            time.sleep(0.01)
        os.eventfd_write(self._wake, 1)
        threads = [thread for address in self._addresses.values() for thread in address.threads]
        for thread in threads:
            thread.join(timeout=self._grace_s * (1 - STOP_MARGIN) / len(threads) / 2)


def make_base(server: tuple[str, int] | str, client: tuple[str, int] | str, scheme: str) -> dict[str, Any]:
    """Make the part of the environment that all requests of a connection share; a text is a Unix socket's path."""
    host, port = server[:2] if isinstance(server, tuple) else (server, "")
    remote, remote_port = client[:2] if isinstance(client, tuple) else ("", "")
    return {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "SCRIPT_NAME": "",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": remote,
        "REMOTE_PORT": str(remote_port),
    }
