"""Turns at the processor: threads that compute go a few at a time, so that nobody waits long for Python's lock.

A hundred threads that compute let each other go first for 5 ms each, several times a request: health would wait for
seconds, though no request takes a millisecond.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

AT_ONCE = 2
STALL_S = 0.25
"""How long a thread waits for its turn at most: one that has it may wait for something that nobody foresaw."""

own = threading.local()


class Turns:
    """A few turns that threads take one after the other, first come, first served.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(at_once):
            self._free.put(None)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Have a turn inside the `with`, until `give_way` is called there."""
        try:
            self._free.get(timeout=STALL_S)
            own.turns = self._free
        except Empty:
            own.turns = None
        try:
            yield
        finally:
            give_way()


def give_way() -> None:
    """Give this thread's turn to the next one, if it has one: for whoever is about to wait, or is counted elsewhere."""
    turns: SimpleQueue[None] | None = getattr(own, "turns", None)
    if turns is not None:
        own.turns = None
        turns.put(None)
