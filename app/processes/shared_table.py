"""A table in memory that the workers of a server share: a number for each key, kept for a while.

It takes the place of what each worker would otherwise know alone: how often something was tried, and which password
was right. It is made before the workers are forked, and holds no text.
"""

import fcntl
import hmac
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

SLOT = struct.Struct("<16sdQ")
SLOTS_A_BUCKET = 8
KEY_BYTES = 16


class Kept(NamedTuple):
    """What is kept for a key: a number, and the `time.monotonic()` until which it counts."""

    number: int
    until: float

    @property
    def is_current(self) -> bool:
        """Whether it still counts."""
        return self.until > time.monotonic()


class SharedTable:
    """Keeps numbers by key; where there is no room for another, the one that ends first in its bucket goes.

    A key is made of a text by `hash`: an HMAC under a secret of this table, which cannot be turned back.

    Thread safety: all methods may be called from any thread, and from any process forked after the table was made.
    """

    def __init__(self, buckets: int) -> None:
        self._buckets, self._secret = buckets, os.urandom(32)
        self._memory = mmap.mmap(-1, buckets * SLOTS_A_BUCKET * SLOT.size)
        self._thread_lock = threading.Lock()
        # A lock of a file ends with its process, even one that is killed while it holds it.
        if hasattr(os, "memfd_create"):
            self._lock_file = os.memfd_create("scancer-shared-table")
        else:  # macOS
            with tempfile.TemporaryFile() as file:
                self._lock_file = os.dup(file.fileno())

    def hash(self, *texts: str) -> bytes:
        """Return the key of a few texts, of which none holds a NUL."""
        text = "\0".join(texts).encode(errors="surrogatepass")
        return hmac.digest(self._secret, text, "sha256")[:KEY_BYTES]

    def get(self, key: bytes) -> Kept | None:
        """Return what is kept for a key, be it current or not; None if it never was, or had to go."""
        with self._hold():
            place = self._find(key)
            found, until, number = SLOT.unpack_from(self._memory, place)
        return Kept(number, until) if found == key else None

    def has(self, key: bytes) -> bool:
        """Whether something current is kept for a key."""
        kept = self.get(key)
        return kept is not None and kept.is_current

    def put(self, key: bytes, lasts_s: float, number: int = 1) -> None:
        """Keep a number for a key, for so many seconds."""
        with self._hold():
            SLOT.pack_into(self._memory, self._find(key), key, time.monotonic() + lasts_s, number)

    def add(self, key: bytes, amount: int, lasts_s: float) -> int:
        """Add to the number of a key and return the sum; one that counts no more begins anew, and for so long."""
        now = time.monotonic()
        with self._hold():
            place = self._find(key)
            found, until, number = SLOT.unpack_from(self._memory, place)
            if found != key or until <= now:
                number, until = 0, now + lasts_s
            SLOT.pack_into(self._memory, place, key, until, number + amount)
        return int(number) + amount

    def clear(self) -> None:
        """Forget everything."""
        with self._hold():
            self._memory[:] = bytes(len(self._memory))

    def _find(self, key: bytes) -> int:
        """Return the place of a key, or else the one in its bucket that is free or ends first."""
        bucket = int.from_bytes(key[:4], "little") % self._buckets
        first = bucket * SLOTS_A_BUCKET * SLOT.size
        places = range(first, first + SLOTS_A_BUCKET * SLOT.size, SLOT.size)
        for place in places:
            if self._memory[place : place + KEY_BYTES] == key:
                return place
        return min(places, key=lambda place: float(SLOT.unpack_from(self._memory, place)[1]))

    @contextmanager
    def _hold(self) -> Iterator[None]:
        with self._thread_lock:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock_file, fcntl.LOCK_UN)


COUNTS, PROOFS, SIGN_INS = SharedTable(1024), SharedTable(1024), SharedTable(1024)
"""Of one server: how often something was tried, which passwords were right, and who came in lately. What a stranger
adds to the counts costs a hash of a password each, so nobody can push out those that hold guesses back."""
FAILURES = SharedTable(1024)
"""Of one server: failures that cost a stranger nothing, such as wrong tokens; whoever fills it harms no count."""
