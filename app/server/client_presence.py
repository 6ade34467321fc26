"""How long a client may take, and whether it still waits: who has sent everything may close that direction."""

import select
import socket
import struct
from typing import NamedTuple

LEAVING_S = 0.1
"""Who closes so long after its last byte leaves. Who waits for the answer closes right behind it: RFC 9293, section
3.6. Both send the same segment, so only its time tells them apart."""
# The struct tcp_info of linux/tcp.h: milliseconds since data came, and since any segment came.
TIMES = struct.Struct("=52xII")

FIRST_BYTE_S, HEAD_S = 5.0, 10.0
"""How long a new connection may say nothing, and how long the head of a request may take to come."""

LINGER_S = 2.0
"""How long the rest of a refused body is read and thrown away: closing at once would take the answer with it."""


class ClientPresence:
    """Tells whether the client of a connection has gone, without reading what it sent.

    Thread safety: another thread may ask while the one that answers waits for it, and so reads nothing.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._waits: bool | None = None  # since it closed its side: what we send then moves the times

    def is_gone(self) -> bool:
        """Whether the client has closed its side and does not wait for the answer."""
        try:
            if self._socket.recv(1, socket.MSG_PEEK):
                return False
        except BlockingIOError:
            return False
        except OSError:
            self._waits = False
        if self._waits is None:
            self._waits = self._closed_behind_its_request()
        return not self._waits

    def _closed_behind_its_request(self) -> bool:
        if self._socket.family == socket.AF_UNIX:
            poll = select.poll()
            poll.register(self._socket, 0)
            return not any(events & select.POLLHUP for _, events in poll.poll(0))
        data_ms, segment_ms = TIMES.unpack(self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TIMES.size))
        return bool(data_ms - segment_ms < 1000 * LEAVING_S)


class ClientTimes(NamedTuple):
    """The times of one server's clients, in seconds: idle between two requests, and to send one."""

    idle_s: float
    upload_s: float

    def allow(self, is_new: bool, is_idle: bool, is_in_head: bool) -> float:
        """Return how long what comes next may take: a first request, another one, the rest of a head, or of all."""
        if is_idle and not is_new:
            return self.idle_s
        if is_idle:
            return min(FIRST_BYTE_S, self.upload_s)
        return min(HEAD_S, self.upload_s) if is_in_head else self.upload_s
