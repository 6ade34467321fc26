"""The parts of a pool: the requests that wait, and the places that its processes fill."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, takewhile
from typing import Any

from app.handlers.handler_answers import Answer
from app.handlers.manager.handler_process import HandlerProcess

MAX_BACK_OFF_S = 89.0
SPECIAL = ("explain", "describe")
"""Headers that ask a handler for something else than an answer."""


class SlotState(StrEnum):
    """Where a worker of a pool stands; the words are TorchServe's but for the first."""

    STARTING = "STARTING"
    READY = "READY"
    FAILED = "FAILED"


class NoWorkerError(Exception):
    """Nobody is there to take a request, or too many wait already."""


@dataclass(eq=False)
class Job:
    """A request that waits for its answer; `on_part` is called with each part that comes before the end."""

    request: Mapping[str, Any]
    blobs: list[bytes]
    answer: "asyncio.Future[Answer]"
    on_part: Callable[[Answer], None]
    arrived: float = field(default_factory=time.monotonic)

    def hand_part(self, part: Answer) -> None:
        """Give the caller the next part of the answer, unless the caller has gone."""
        if not self.answer.done():
            self.on_part(part)

    def finish(self, answer: Answer) -> None:
        """Give the caller the answer, unless the caller has gone."""
        if not self.answer.done():
            self.answer.set_result(answer)


def count_alike(jobs: Sequence[Job], most: int) -> int:
    """How many of the first requests make one batch. A handler looks at the first one's headers alone to know what is
    wanted, and makes explanations and its own description one at a time.
    """

    def is_plain(job: Job) -> bool:
        return not any(job.request["headers"].get(name) == "True" for name in SPECIAL)

    return max(1, len(list(takewhile(is_plain, islice(jobs, most)))))


@dataclass(eq=False)
class Slot:
    """A worker's place, whose process changes when it dies; `settled` tells why the first start failed, or None."""

    number: int
    settled: "asyncio.Future[str | None]"
    state: SlotState = SlotState.STARTING
    process: HandlerProcess | None = None
    task: "asyncio.Task[None] | None" = None
    is_retired: bool = False
    is_busy: bool = False

    def settle(self, fault: str | None) -> None:
        """Note how the first start went, if it is not noted yet."""
        if not self.settled.done():
            self.settled.set_result(fault)


def back_off() -> Iterator[float]:
    """Yield TorchServe's pauses before a worker is started again, in seconds: 0, 1, 1, 2, 3, 5, 8 and so on."""
    last, following = 0.0, 1.0
    while True:
        yield min(last, MAX_BACK_OFF_S)
        last, following = following, last + following
