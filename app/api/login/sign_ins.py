"""Which sign-ins are worth an entry in the audit trail: the first in a while, and failures up to a rate."""

import threading
import time

from app.api.login.guesses import group_address
from app.processes.shared_table import COUNTS, FAILURES, SIGN_INS

SIGN_IN_S = 12 * 3600
"""For how long a user who comes in the same way from the same address is not entered again."""
LOOK_S = 300
"""For how long a worker does not ask the others about a sign-in that it has seen."""
FAILURE_S, FAILURES_A_MINUTE = 60, 30
"""Failures of one kind are entered once in so many seconds, and all failures so often in a minute: a flood of guesses
must not fill a table that nothing is deleted from. The metrics count each."""
MAX_SEEN = 4096


class SignIns:
    """Remembers sign-ins for the audit trail; no name and no address stays in the memory that workers share.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, ...], float] = {}

    def is_new(self, name: str, way: str, address: str) -> bool:
        """Whether a user has not come in this way from this address in a while."""
        key, now = (name, way, group_address(address)), time.monotonic()
        with self._lock:
            if self._seen.get(key, 0.0) > now:
                return False
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
            self._seen[key] = now + LOOK_S
        return SIGN_INS.add(SIGN_INS.hash(*key), 1, SIGN_IN_S) == 1

    def is_new_failure(self, reason: str, name: str, address: str) -> bool:
        """Whether a failed sign-in is to be entered."""
        if FAILURES.add(FAILURES.hash("failure", reason, name, group_address(address)), 1, FAILURE_S) > 1:
            return False
        return COUNTS.add(COUNTS.hash("failures"), 1, 60.0) <= FAILURES_A_MINUTE
