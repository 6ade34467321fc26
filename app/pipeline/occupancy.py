"""Who is using a model, so that it is let go when nobody is."""

import threading


class Occupancy:
    """Counts the requests that have a model. It bounds nothing: that is admission's (`app/api/request/places.py`).

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._left = threading.Condition()
        self._users = 0
        self._is_retired = False

    def enter(self) -> bool:
        """Keep the model from being let go until `leave`; False if it is too late for that."""
        with self._left:
            self._users += not self._is_retired
            return not self._is_retired

    def leave(self) -> None:
        """Take back an `enter`."""
        with self._left:
            self._users -= 1
            self._left.notify_all()

    def retire(self, timeout_s: float) -> None:
        """Let nobody enter any more, and wait up to `timeout_s` for those who have."""
        with self._left:
            self._is_retired = True
            self._left.wait_for(lambda: not self._users, timeout_s)
