"""A store of `limits` in the memory that the workers of one server share; import it only to count.

Its own store in memory counts in each worker apart, so that with four workers four times as much would be let through.
"""

import time

from limits.storage import Storage

from app.processes.shared_table import COUNTS


class WorkerStorage(Storage):
    """Counts in `COUNTS`; for the strategy `fixed-window`."""

    STORAGE_SCHEME = ["workers"]  # noqa: RUF012  # the package's declaration

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the store itself may raise."""
        return OSError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count, and return the count of the key's window, which begins with its first count."""
        return COUNTS.add(COUNTS.hash(key), amount, expiry)

    def get(self, key: str) -> int:
        """Return the count of the window."""
        kept = COUNTS.get(COUNTS.hash(key))
        return kept.number if kept is not None and kept.is_current else 0

    def get_expiry(self, key: str) -> float:
        """Return the end of the window, in seconds since 1970."""
        kept = COUNTS.get(COUNTS.hash(key))
        return time.time() + (max(0.0, kept.until - time.monotonic()) if kept is not None else 0.0)

    def check(self) -> bool:
        """Whether the store can be used."""
        return True

    def reset(self) -> None:
        """Forget everything."""
        COUNTS.clear()

    def clear(self, key: str) -> None:
        """Forget a key."""
        COUNTS.put(COUNTS.hash(key), 0.0, 0)
