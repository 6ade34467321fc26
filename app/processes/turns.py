"""Turns at the processor: few threads compute at a time, so that nobody waits long for Python's lock.

A hundred threads that compute let each other go first for 5 ms each, several times a request: health would wait for
seconds, though no request takes a millisecond.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
own = threading.local()


class Turns(Generic[T]):
    """A few turns, and two lines of those who wait for one: who comes for the first time is called in alternation with
    the others, so that many who ask again and again keep no newcomer waiting. No thread waits: `resume` is told who may
    try again, and returns whether they will.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, at_once: int, resume: Callable[[T], bool]) -> None:
        self._resume = resume
        self._lock = threading.Lock()
        self._newcomers: deque[T] = deque()
        self._others: deque[T] = deque()
        self._next, self._after = self._newcomers, self._others
        self._left = at_once
        self._taken = self._seen = self._stalled = self._surplus = 0

    def take(self, who: T, is_new: bool = False) -> bool:
        """Give this thread a turn, until it calls `give_way`. If there is none, stand `who` in line; return False."""
        with self._lock:
            if self._left <= 0:
                (self._newcomers if is_new else self._others).append(who)
                return False
            self._left -= 1
            self._taken += 1
            own.turn = self, self._taken
            return True

    def watch(self) -> None:
        """Add a turn if somebody waits and none was taken since the last look: who has one may wait for something that
        nobody foresaw. Once such a turn is given back after all, it is one too many, and goes.
        """
        with self._lock:
            is_stalled = bool(self._newcomers or self._others) and self._taken == self._seen
            self._seen = self._taken
            if not is_stalled:
                return
            if self._left <= 0:
                self._stalled = self._taken
                self._surplus += 1
                self._left += 1
        self._call_next()

    def give_back(self, number: int) -> None:
        """Take the turn of this number back, for the next one."""
        with self._lock:
            if self._surplus and number <= self._stalled:
                self._surplus -= 1
                return
            self._left += 1
        self._call_next()

    def _call_next(self) -> None:
        """Call the first in line who will come."""
        while True:
            with self._lock:
                self._next, self._after = self._after, self._next
                line = self._after or self._next
                if not line:
                    return
                who = line.popleft()
            if self._resume(who):
                return


def give_way() -> None:
    """Give this thread's turn back, if it has one: for whoever is done, about to wait, or counted elsewhere."""
    turn: tuple[Turns[object], int] | None = getattr(own, "turn", None)
    if turn is not None:
        own.turn = None
        turns, number = turn
        turns.give_back(number)
