"""The processes of one model: batches for them, more and fewer of them, and new ones for those that died."""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from app.errors import ModelProcessError
from app.handlers.handler_answers import WORKER_DIED, Answer, fail
from app.handlers.handler_archive import HandlerArchive, PoolLimits
from app.handlers.manager.handler_metrics import HandlerMetrics
from app.handlers.manager.handler_process import HandlerLostError, HandlerProcess, HandlerUnaskedError
from app.handlers.manager.slots import Job, NoWorkerError, Slot, SlotState, back_off, count_alike

log = logging.getLogger(__name__)

LONE_DELAY_S = 0.005
"""How long a request that has no company in its model waits for some; TorchServe lets it wait the whole delay."""


class Pool:
    """Runs one model's handler in several processes, each with `memory_bytes` of address space and `threads`."""

    def __init__(self, archive: HandlerArchive, memory_bytes: int, threads: int) -> None:
        self._archive = archive
        self._named = {"model": archive.name, "version": archive.version}
        self.limits = archive.limits
        self._memory_bytes = memory_bytes
        self._threads = threads
        self._jobs: deque[Job] = deque()
        self._slots: list[Slot] = []
        self._numbers = itertools.count(1)
        self._arrived = asyncio.Event()
        self._gathering = asyncio.Lock()
        self._in_work = 0
        self.metrics = HandlerMetrics()

    async def scale(self, limits: PoolLimits) -> None:
        """Take other limits, start or retire workers to fit, and wait until new workers have loaded the model. The
        limits are checked here, since nothing confines this process. Raises `OutOfBoundsError`, or `ModelProcessError`
        if a worker cannot load.
        """
        limits.check()
        self.limits = limits
        self._archive = replace(self._archive, limits=limits)
        self._arrived.set()
        started = [self._add_slot() for _ in range(len(self._slots), limits.min_workers)]
        for slot in self._slots[limits.max_workers :]:
            self._retire(slot)
        faults = [await asyncio.shield(slot.settled) for slot in started]
        for fault in faults:
            if fault is not None:
                raise ModelProcessError(fault)

    def submit(self, request: Mapping[str, Any], blobs: list[bytes], on_part: Callable[[Answer], None]) -> Job:
        """Put a request in line; raises `NoWorkerError` if there is no worker, or the line is full."""
        if not self._has_hope() or len(self._jobs) >= self.limits.queue_size:
            raise NoWorkerError
        job = Job(request, blobs, asyncio.get_running_loop().create_future(), on_part)
        self._jobs.append(job)
        self._arrived.set()
        return job

    def forget(self, job: Job) -> None:
        """Take a request out of line, whose caller has gone; one that is in work stays there."""
        if job in self._jobs:
            self._jobs.remove(job)

    def describe(self) -> dict[str, Any]:
        """Return the workers, and how many requests wait."""
        workers = [
            {
                "id": slot.number,
                "started_at": slot.process.started_at if slot.process else None,
                "state": slot.state.value,
                "pid": slot.process.process_id if slot.process else None,
            }
            for slot in self._slots
        ]
        in_force = next((slot.process.in_force for slot in self._slots if slot.process), [])
        return {
            "min_workers": self.limits.min_workers,
            "max_workers": self.limits.max_workers,
            "workers": workers,
            "waiting": len(self._jobs),
            "working": self._in_work,
            "queue_size": self.limits.queue_size,
            "confined_by": in_force,
        }

    async def close(self) -> None:
        """End all processes; whoever waits is told that there is no worker."""
        tasks = [slot.task for slot in self._slots if slot.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._slots.clear()
        self._refuse_waiting()

    def _has_hope(self) -> bool:
        return any(slot.state is not SlotState.FAILED for slot in self._slots)

    def _refuse_waiting(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            if not job.answer.done():
                job.answer.set_exception(NoWorkerError())

    def _add_slot(self) -> Slot:
        slot = Slot(next(self._numbers), asyncio.get_running_loop().create_future())
        slot.task = asyncio.create_task(self._keep(slot))
        self._slots.append(slot)
        return slot

    def _retire(self, slot: Slot) -> None:
        """Have a worker end: at once if it is idle, else with the batch that it works on."""
        self._slots.remove(slot)
        slot.is_retired = True
        if slot.task is not None and not slot.is_busy:
            slot.task.cancel()
        if not self._slots:
            self._refuse_waiting()

    async def _keep(self, slot: Slot) -> None:
        """A slot's life: start a process, have it work, and start another when it is gone."""
        pauses = back_off()
        try:
            while not slot.is_retired:
                slot.process = HandlerProcess(self._archive, self._memory_bytes, self._threads)
                try:
                    await slot.process.start()
                    slot.state = SlotState.READY
                    log.info("handler started", extra=self._named | {"reason": ", ".join(slot.process.in_force)})
                    slot.settle(None)
                    pauses = back_off()
                    await self._work(slot, slot.process)
                except HandlerLostError as error:
                    self._note_loss(slot, error)
                finally:
                    await slot.process.end()
                if not slot.is_retired:
                    await asyncio.sleep(next(pauses))
        finally:
            slot.settle("it was told to end before it had started")

    def _note_loss(self, slot: Slot, error: HandlerLostError) -> None:
        """Note that a process has ended; if it was loading the model, nobody may be left for those who wait."""
        slot.state = SlotState.STARTING if slot.state is SlotState.READY else SlotState.FAILED
        if not self._has_hope():
            self._refuse_waiting()
        log.error("handler process lost", extra=self._named | {"reason": str(error)})
        slot.settle(str(error))

    async def _work(self, slot: Slot, process: HandlerProcess) -> None:
        """Give a process batch after batch; returns when the slot is retired."""
        ended = asyncio.create_task(process.wait())
        try:
            while not slot.is_retired:
                await self._answer(slot, process, await self._next_batch(process, ended))
        finally:
            ended.cancel()

    async def _next_batch(self, process: HandlerProcess, ended: "asyncio.Task[int]") -> list[Job]:
        """Wait for a batch, or raise `HandlerLostError` if the process ends meanwhile."""
        taking = asyncio.create_task(self._take_batch())
        try:
            await asyncio.wait((taking, ended), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._take_back(taking)
            raise
        if ended.done() or process.is_gone:
            self._take_back(taking)
            raise HandlerLostError(await process.describe_end())
        return taking.result()

    def _take_back(self, taking: "asyncio.Task[list[Job]]") -> None:
        """Stop waiting for a batch; one that is there already goes back to the head of the line."""
        if taking.done():
            self._put_back(taking.result())
            self._in_work -= len(taking.result())
        else:
            taking.cancel()

    def _put_back(self, batch: list[Job]) -> None:
        """Put requests back to the head of the line, but for those whose callers have gone."""
        self._jobs.extendleft(job for job in reversed(batch) if not job.answer.done())
        self._arrived.set()

    async def _take_batch(self) -> list[Job]:
        """Wait for requests, and for more of them as long as that is worth it."""
        async with self._gathering:  # one worker gathers at a time, so that two do not share what is one batch
            while (wait_s := self._find_wait_s()) != 0:
                self._arrived.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._arrived.wait()
            count = count_alike(self._jobs, self.limits.batch_size)
            batch = [self._jobs.popleft() for _ in range(count)]
            self._in_work += count
            return batch

    def _find_wait_s(self) -> float | None:
        """Seconds until the oldest request waits no longer for company; None while there is no request."""
        if not self._jobs:
            return None
        if len(self._jobs) >= self.limits.batch_size:
            return 0.0
        delay_s = self.limits.max_batch_delay_ms / 1000
        if len(self._jobs) + self._in_work == 1:
            delay_s = min(delay_s, LONE_DELAY_S)
        return max(0.0, self._jobs[0].arrived + delay_s - time.monotonic())

    async def _answer(self, slot: Slot, process: HandlerProcess, batch: list[Job]) -> None:
        requests, blobs = [job.request for job in batch], [blob for job in batch for blob in job.blobs]
        slot.is_busy = True
        started = time.monotonic()

        def hand_part(place: int, header: dict[str, Any], body: bytes) -> None:
            batch[place].hand_part((header, body))

        try:
            reply = await process.predict(requests, blobs, self.limits.response_timeout_s, hand_part)
        except HandlerUnaskedError:
            self._put_back(batch)
            raise
        except (HandlerLostError, asyncio.CancelledError):
            for job in batch:
                job.finish(fail(500, WORKER_DIED))
            raise
        finally:
            self._in_work -= len(batch)
            slot.is_busy = False
        if reply.header.get("fault"):
            log.error("handler failed", extra=self._named | {"reason": reply.header["fault"]})
        self.metrics.take(reply.header.get("metrics"))
        worked_s = time.monotonic() - started
        for job, header, body in zip(batch, reply.header["answers"], reply.blobs, strict=True):
            job.finish((header | {"queue_s": started - job.arrived, "handler_s": worked_s}, body))
