"""The last answers of a server, by request id, so that a later truth can be held against them; no picture is kept."""

import hashlib
import logging
import math
import os
import struct
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from app.processes.locks import try_lock

log = logging.getLogger(__name__)

FOLDER = "answers"
SLOTS = 65_536
"""Answers that a worker keeps; each takes 140 bytes, which makes 9 MB in all."""
SLOT = np.dtype(
    [
        *(("place", "V8"), ("owner", "V8"), ("time_ns", "<i8"), ("score", "<f4"), ("index", "<u2")),
        *(("version", "S98"), ("network", "V8"), ("picture", "<u4")),
    ]
)
PACKED = struct.Struct("<8s8sqfH98s8sI")
"""One slot; to pack it takes a third of the time that NumPy takes."""
MAX_INDEX = 2**16 - 1


@dataclass(frozen=True)
class KeptAnswer:
    """What was answered: the version as `name/version`, the index of the class, the positive class's probability.

    `network` stands for the version's network and classes, see `ModelManifest.network_digest`. `picture` is a checksum
    of the pixels that it saw: it tells two pictures under one request id apart, and not one that was sent twice.
    `owner` stands for the request and the user who sent it; two users' requests of one id have different ones.
    """

    owner: bytes
    version: str
    class_index: int
    score: float | None
    network: bytes
    picture: int


class KeptAnswers:
    """Keeps the answers of this process in a file of its own, and finds those of every process of the instance.

    The file is written at once and never moved: an answer outlives the process. A new process goes on with the file of
    one that has ended. A full disk costs the answers, and nothing else.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, instance: Path, slots: int = SLOTS) -> None:
        self._folder, self._slots = instance / FOLDER, slots
        self._lock = threading.Lock()
        self._file: int | None = None
        self._next = 0
        self._held: int | None = None
        self._has_failed = False

    def keep(self, request_id: str, position: int, answer: KeptAnswer) -> None:
        """Keep an answer; `position` is the picture's among those of its request, and `mark_owner` makes its owner."""
        if answer.class_index > MAX_INDEX:
            return
        score = math.nan if answer.score is None else answer.score
        place, seen = digest(f"{request_id} {position}"), (answer.network, answer.picture)
        record = PACKED.pack(
            *(place, answer.owner, time.time_ns(), score, answer.class_index, answer.version.encode(), *seen)
        )
        with self._lock:
            try:
                if self._file is None:
                    self._file, self._next = self._open()
                os.pwrite(self._file, record, self._next * SLOT.itemsize)
                self._next = (self._next + 1) % self._slots
            except OSError as error:
                if not self._has_failed:
                    log.warning("answers are not kept for later truths", extra={"reason": error.strerror})
                self._has_failed = True

    def find(self, request_id: str, position: int, owner: bytes | None = None) -> set[KeptAnswer]:
        """Return the answers to a picture of a request, of one owner or of all.

        There is none if it is not kept, or no longer, and there are several if requests had the same id.
        """
        place = digest(f"{request_id} {position}")
        found = []
        for path in self._folder.glob("*.ring"):
            slots = np.fromfile(path, SLOT)
            found += slots[slots["place"] == np.frombuffer(place, "V8")[0]].tolist()
        return {
            KeptAnswer(
                bytes(theirs), version.decode(), index, None if math.isnan(score) else score, bytes(net), picture
            )
            for _, theirs, _, score, index, version, net, picture in found
            if owner in (None, bytes(theirs))
        }

    def close(self) -> None:
        """Leave the file to another process."""
        with self._lock:
            for descriptor in (self._file, self._held):
                if descriptor is not None:
                    os.close(descriptor)
            self._file = self._held = None

    def _open(self) -> tuple[int, int]:
        """Take the first file that no process has; return it, and the slot to go on at."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = self._folder / f"{number}.ring"
            held = try_lock(path, makes_file=True)
            if held is None:
                continue
            with ExitStack() as undo:
                undo.callback(os.close, held)
                file, last = os.open(path, os.O_WRONLY), find_last(path)
                undo.pop_all()
            self._held = held  # for as long as this process lives
            return file, last % self._slots
        raise AssertionError("one of the numbers is free")


def mark_owner(user: str | None, request_id: str) -> bytes:
    """Return what stands for a request and the user who sent it, 8 bytes; None is nobody, where nobody has a name."""
    return digest(f"{request_id} of {user or ''}")


def digest(text: str) -> bytes:
    """Return 8 bytes that an answer is found by."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def find_last(path: Path) -> int:
    """Return the number of the slot that was written last, from 1; 0 for a new file."""
    slots = np.fromfile(path, SLOT)
    return int(slots["time_ns"].argmax()) + 1 if len(slots) else 0
