"""How long a caller waits, and the lock by which large pictures are decoded one at a time."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.errors import DeadlineError, ServiceUnavailableError

LATE = "The deadline passed before there was an answer."
LARGE_PIXELS = 1_000_000
"""From this size on, pictures are decoded one at a time in a worker: 25 million pixels take 100 to 300 MB.

Smaller ones in all of a worker's places at once, 128 by default, have 128 million pixels together.
"""
LARGE_WAITING = 16
"""Large pictures and documents that may wait for their turn in a worker. The places of a model are more by default, so
that smaller ones get in.
"""
PRESENCE_S = 0.02
"""A caller who waited no longer is taken to be there: to ask costs a system call, under load a switch of threads."""


def never() -> bool:
    """What `Patience.is_gone` is where nobody can tell."""
    return False


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits, `until` a `time.perf_counter()`, and whether it still does. To ask `is_gone` costs a
    system call. Another thread than the answering one may ask while that one waits for it.
    """

    until: float = math.inf
    is_gone: Callable[[], bool] = never

    def check(self, needed_s: float = 0.0) -> None:
        """Raise `DeadlineError` if the deadline comes before `needed_s` from now."""
        if time.perf_counter() + needed_s > self.until:
            raise DeadlineError(LATE)

    def check_presence(self) -> None:
        """Raise `DeadlineError` if the caller has gone."""
        if self.is_gone():
            raise DeadlineError("The caller has gone.")

    def acquire(self, lock: threading.Lock) -> bool:
        """Take a lock, as `lock.acquire` does, but wait until the deadline and no longer."""
        timeout_s = self.until - time.perf_counter()
        return lock.acquire(timeout=-1 if timeout_s > threading.TIMEOUT_MAX else max(timeout_s, 0))

    @contextmanager
    def hold(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock; raises `DeadlineError` if it is not free by the deadline."""
        if not self.acquire(lock):
            raise DeadlineError(LATE)
        try:
            yield
        finally:
            lock.release()


ENDLESS = Patience()


class Turn:
    """One caller's turn at decoding or reading something large: a lock, given back at the end of the `with`.

    `count` is called with the width and height of the picture, and may refuse it.
    """

    __slots__ = ("_count", "_holds", "_patience", "_waits")

    _line, _large = threading.BoundedSemaphore(LARGE_WAITING + 1), threading.Lock()

    def __init__(self, patience: Patience = ENDLESS, count: Callable[[int, int], object] = lambda *_: None) -> None:
        self._patience, self._count = patience, count
        self._waits = self._holds = False

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        if self._holds:
            self._large.release()
        if self._waits:
            self._line.release()

    def take(self, width_px: int, height_px: int) -> None:
        """Wait for the others if the picture is large. Raises `ServiceUnavailableError` if too many wait,
        `DeadlineError` if the caller waits no longer, and as `count`.
        """
        self._count(width_px, height_px)
        if width_px * height_px >= LARGE_PIXELS:
            self.wait()

    def wait(self) -> None:
        """Wait until no other turn at something large is taken; raises as `take` for a large picture."""
        self._waits = self._line.acquire(blocking=False)
        if not self._waits:
            raise ServiceUnavailableError("Too many large pictures and documents wait; try again shortly.")
        self._holds = self._patience.acquire(self._large)
        if not self._holds:
            raise DeadlineError(LATE)
        self.check()

    def check_large(self) -> None:
        """Do as `check` for a large picture; a small one is done soon."""
        if self._holds:
            self.check()

    def check(self) -> None:
        """Raise `DeadlineError` if the caller waits no longer."""
        self._patience.check()
        self._patience.check_presence()
