"""Bodies that are read as they come, while the application asks for them: those of models are too large for memory.

The thread that answers such a request waits for its client. So the application looks at the password and the length
first, and at how many of its threads wait like that.
"""

import time
from collections.abc import Callable

LEAST_BYTES_PER_S = 64 * 1024
"""A client that sends more slowly than this for longer than the time of any request is too slow."""


class StreamedBody:
    """A request's body, as `wsgi.input`; `is_whole` once its last byte has come."""

    def __init__(self) -> None:
        self.is_whole = False
        self._pending = bytearray()
        self._received = 0
        self._started = time.monotonic()
        self.wait_for_more: Callable[[], None] = lambda: None
        """What is called for more; it calls `add`, or has `is_whole` set, or raises `OSError`."""

    def add(self, data: bytes) -> None:
        """Take what came next."""
        self._pending += data
        self._received += len(data)

    def find_deadline(self, patience_s: float) -> float:
        """The `time.monotonic()` by which the next byte must come; each that came moves it on a little."""
        return self._started + patience_s + self._received / LEAST_BYTES_PER_S

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, or all; none at the end. Raises `OSError` as `wait_for_more`."""
        while not self.is_whole and (size < 0 or not self._pending):
            self.wait_for_more()
        taken = bytes(self._pending[: size if size >= 0 else None])
        del self._pending[: len(taken)]
        return taken
