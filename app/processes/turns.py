"""Turns at the processor: threads that compute go a few at a time, so that nobody waits long for Python's lock.

A hundred threads that compute let each other go first for 5 ms each, several times a request: health would wait for
seconds, though no request takes a millisecond.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

AT_ONCE = 2
own = threading.local()


class Turns:
    """A few turns that threads take one after the other, first come, first served.

    Thread safety: `watch` is for one thread, `take` for any.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        self._surplus: SimpleQueue[None] = SimpleQueue()
        self._taken, self._seen = 0, -1
        for _ in range(at_once):
            self._free.put(None)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Have a turn inside the `with`, until `give_way` is called there."""
        self._free.get()
        self._taken += 1
        own.turns = self
        try:
            yield
        finally:
            give_way()

    def watch(self) -> None:
        """Add a turn if none was taken since the last look, though all are out: who has one may wait for something that
        nobody foresaw. It is one too many later, and then taken back.
        """
        if self._free.empty() and self._taken == self._seen:
            self._surplus.put(None)
            self._free.put(None)
        self._seen = self._taken

    def give_back(self) -> None:
        """Give a turn to the next one."""
        if not self._surplus.empty():
            with suppress(Empty):
                self._surplus.get_nowait()
                return
        self._free.put(None)


def give_way() -> None:
    """Give this thread's turn to the next one, if it has one: for whoever is about to wait, or is counted elsewhere."""
    turns: Turns | None = getattr(own, "turns", None)
    if turns is not None:
        own.turns = None
        turns.give_back()
