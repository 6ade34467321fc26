"""An open-loop load: requests go out when their time has come, whether or not earlier ones are answered.

One thread, plain sockets and bytes made beforehand: about 0.2 ms of CPU a request, so that it can share two cores with
the server that it measures. Waiting times count from when a request was due, not from when it was sent.
"""

import random
import select
import socket
import time
from dataclasses import dataclass, field

from benchmarks.server import MeasuredServer, make_headers

CONNECTIONS = 64
"""Kept open, and used at random as callers of their own would; more than the server has in work."""
BOUNDARY = b"a-boundary-of-the-benchmark"
GIVE_UP_S = 30


@dataclass
class Seen:
    """What a run saw.

    Attributes:
        waits_s: of what was answered 200, from due to the last byte.
        refused: answers of 503.
        late_s: from due to sent: what the load itself was late.
        cpu_s: CPU time of the load itself.
    """

    waits_s: list[float] = field(default_factory=list)
    refused: int = 0
    late_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def make_request(path: str, picture: bytes, count: int = 1) -> bytes:
    """Write a request: one picture as it is, several as a form."""
    kind, body = b"application/octet-stream", picture
    if count > 1:
        kind = b"multipart/form-data; boundary=" + BOUNDARY
        part = b'--%s\r\nContent-Disposition: form-data; name="p"; filename="p"\r\n\r\n%s\r\n' % (BOUNDARY, picture)
        body = part * count + b"--" + BOUNDARY + b"--\r\n"
    authorization = make_headers()["Authorization"].encode()
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (path.encode(), authorization, kind, len(body)) + body


def make_arrivals(rate_per_s: float, seconds: float, chance: random.Random) -> list[float]:
    """Times of a Poisson process."""
    times, now = [], chance.expovariate(rate_per_s)
    while now < seconds:
        times.append(now)
        now += chance.expovariate(rate_per_s)
    return times


class Load:
    """Connections that are kept open.

    Args:
        server: what is loaded.
        count: how many connections.
    """

    def __init__(self, server: MeasuredServer, count: int = CONNECTIONS) -> None:
        self._address = ("127.0.0.1", server.ports[0])
        self._idle = [self._connect() for _ in range(count)]
        self._sent: dict[socket.socket, float] = {}
        self._parts: dict[socket.socket, bytes] = {}

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._idle, *self._sent):
            connection.close()

    def run(self, request: bytes, arrivals: list[float], chance: random.Random) -> Seen:
        """Send a request at each time; returns when all are answered."""
        seen, cpu_before, started = Seen(), time.process_time(), time.perf_counter()
        due = iter(arrivals)
        following = next(due, None)
        while following is not None or self._sent:
            now = time.perf_counter() - started
            if following is not None and now >= following:
                seen.late_s.append(now - following)
                self._send(request, started + following, chance)
                following = next(due, None)
                continue
            timeout_s = GIVE_UP_S if following is None else following - now
            ready = select.select(list(self._sent), [], [], timeout_s)[0]
            if not ready and following is None:
                raise TimeoutError("the server does not answer")
            for connection in ready:
                self._receive(connection, seen)
        seen.cpu_s = time.process_time() - cpu_before
        return seen

    def run_closed(self, request: bytes, connections: int, seconds: float) -> Seen:
        """Have so many callers send one request after the other."""
        seen, ends = Seen(), time.perf_counter() + seconds
        chance = random.Random(0)
        while time.perf_counter() < ends or self._sent:
            while len(self._sent) < connections and time.perf_counter() < ends:
                self._send(request, time.perf_counter(), chance)
            for connection in select.select(list(self._sent), [], [], GIVE_UP_S)[0]:
                self._receive(connection, seen)
        return seen

    def run_alone(self, request: bytes, count: int, pause_s: float, chance: random.Random) -> Seen:
        """Send requests one at a time, each on any connection, with pauses of this mean between them."""
        seen = Seen()
        for _ in range(count):
            time.sleep(chance.expovariate(1 / pause_s))
            self._send(request, time.perf_counter(), chance)
            while self._sent:
                for connection in select.select(list(self._sent), [], [], GIVE_UP_S)[0]:
                    self._receive(connection, seen)
        return seen

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _send(self, request: bytes, due: float, chance: random.Random) -> None:
        place = chance.randrange(len(self._idle))
        self._idle[place], self._idle[-1] = self._idle[-1], self._idle[place]
        connection = self._idle.pop()
        if select.select([connection], [], [], 0)[0]:  # the server closes connections that say nothing for seconds
            connection.close()
            connection = self._connect()
        self._sent[connection], self._parts[connection] = due, b""
        connection.sendall(request)

    def _receive(self, connection: socket.socket, seen: Seen) -> None:
        text = self._parts[connection] + connection.recv(65536)
        head, gap, body = text.partition(b"\r\n\r\n")
        if not text:
            raise ConnectionError("the server closed a connection")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not gap or len(body) < int(length):
            self._parts[connection] = text
            return
        wait_s = time.perf_counter() - self._sent.pop(connection)
        self._idle.append(connection)
        status = text[9:12]
        if status == b"200":
            seen.waits_s.append(wait_s)
        elif status == b"503":
            seen.refused += 1
        else:
            raise RuntimeError(f"answered {status.decode()}")
