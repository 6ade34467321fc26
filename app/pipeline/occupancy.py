"""Who is using a model, so that it is let go when nobody is."""

import threading


class Occupancy:
    """Counts the requests that have a model. It bounds nothing: that is admission's (`app/api/request/places.py`).

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._is_retired = False
        self._idle = threading.Event()

    def enter(self) -> bool:
        """Keep the model from being let go until `leave`; False if it is too late for that."""
        with self._lock:
            if self._is_retired:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Take back an `enter`."""
        with self._lock:
            self._users -= 1
            if self._is_retired and not self._users:
                self._idle.set()

    def retire(self, timeout_s: float) -> None:
        """Let nobody enter any more, and wait for those who have."""
        with self._lock:
            self._is_retired = True
            if not self._users:
                self._idle.set()
        self._idle.wait(timeout_s)
