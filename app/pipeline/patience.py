"""How long a caller waits, and the lock by which large pictures are decoded one at a time."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import DeadlineError

LATE = "The deadline passed before there was an answer."
LARGE_PIXELS = 1_000_000
"""From this size on, pictures are decoded one at a time in a worker: 25 million pixels take 100 MB and more.

Smaller ones in all of a worker's places at once, 128 by default, have 128 million pixels together.
"""


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


ENDLESS = Patience()


class Turn:
    """One caller's turn at decoding: a lock while its picture is large, given back at the end of the `with`."""

    __slots__ = ("_holds", "_patience")

    _large = threading.Lock()

    def __init__(self, patience: Patience = ENDLESS) -> None:
        self._patience = patience
        self._holds = False

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        if self._holds:
            self._large.release()

    def take(self, width_px: int, height_px: int) -> None:
        """Wait for the others if the picture is large; raises `DeadlineError` if that takes too long."""
        if width_px * height_px >= LARGE_PIXELS:
            self._holds = self._patience.acquire(self._large)
            if not self._holds:
                raise DeadlineError(LATE)

    def check(self) -> None:
        """Raise `DeadlineError` if the caller waits no longer."""
        self._patience.check()
        self._patience.check_presence()
