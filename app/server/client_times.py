"""How long a client may take for each thing that it does."""

from typing import NamedTuple

FIRST_BYTE_S, HEAD_S = 5.0, 10.0
"""How long a new connection may say nothing, and how long the head of a request may take to come."""

LINGER_S = 2.0
"""How long the rest of a refused body is read and thrown away: closing at once would take the answer with it."""


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
