"""Answers that a handler gives in parts, on their way from the manager to whoever asked."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from app.errors import BrokenAnswerError, DeadlineError
from app.handlers.handler_answers import PART, WORKER_DIED, Answer, fail
from app.pipeline.patience import LATE, Patience
from app.processes.frames import LOST, Channel, Message

LOOK_S = 0.5
"""How often a waiting thread looks whether its caller has gone."""


class AnswerStream:
    """An answer whose first part has come: iterate once and close it, or read it whole.

    Closing it closes the channel to the manager, which so learns that nobody waits. `header` has the status, phrase and
    headers that the handler had set for the first part; those of the last part once that came.

    Thread safety: one thread at a time.
    """

    def __init__(self, channel: Channel, first: Message, patience: Patience) -> None:
        self._channel = channel
        self._first = first.blobs[0]
        self._patience = patience
        self.header: dict[str, Any] = first.header[PART]

    def __iter__(self) -> Iterator[bytes]:
        """Yield the parts as they come; raises `BrokenAnswerError` with the reason if the last one will not come."""
        yield self._first
        is_last = False
        while not is_last:
            try:
                is_last, body = self._receive()
            except DeadlineError as error:
                raise BrokenAnswerError(error.message) from error
            except LOST as error:
                raise BrokenAnswerError(WORKER_DIED) from error
            if "error" in self.header:
                raise BrokenAnswerError(self.header["error"])
            yield body

    def read_whole(self) -> Answer:
        """Wait for the last part, close, and return all as one; raises `DeadlineError` if that takes too long."""
        bodies, is_last = [self._first], False
        with closing(self):
            try:
                while not is_last:
                    is_last, body = self._receive()
                    bodies.append(body)
            except LOST:
                return fail(500, WORKER_DIED)
        return self.header, b"" if "error" in self.header else b"".join(bodies)

    def _receive(self) -> tuple[bool, bytes]:
        """Wait for the next part, and tell whether it is the last."""
        wait_for(self._channel, self._patience)
        header, blobs = self._channel.receive()
        if PART in header:
            return False, blobs[0]
        self.header = header["answer"]
        return True, blobs[0]

    def close(self) -> None:
        """Let the rest go, if there is any."""
        self._channel.close()


def wait_for(channel: Channel, patience: Patience) -> None:
    """Wait until there is something to read; raises `DeadlineError` when the caller waits no longer."""
    while True:
        left_s = patience.until - time.perf_counter()
        if left_s <= 0:
            raise DeadlineError(LATE)
        if channel.has_something(min(LOOK_S, left_s)):
            return
        patience.check_presence()
