"""The queue before an engine: callers that come together are inferred together."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import NamedTuple

import numpy as np

from app.arrays import InputBatch, Scores
from app.engines.base import Engine
from app.errors import DeadlineError, InferenceError, ScancerError, ServiceUnavailableError
from app.manifest.model_specs import BatchSpec
from app.pipeline.patience import ENDLESS, LATE, PRESENCE_S, Patience

RECENT_S = 0.05
"""How long after a batch the load is taken to be what it was then."""
LULL_S = 0.05
"""How long pictures that give way do so; then they wait their turn, so that nobody keeps them out for ever."""


class BatchRun(NamedTuple):
    """How one caller's pictures fared: seconds waited and inferring, when that ended by `time.perf_counter`, and how
    many pictures, others' too, were inferred together.
    """

    queue_s: float
    inference_s: float
    ended: float
    batch_size: int


class Job:
    """One caller's pictures, and later their scores or the error that kept them from having any."""

    __slots__ = ("arrived", "count", "error", "gives_way", "is_leader", "patience", "pictures", "run", "scores", "wake")

    def __init__(self, pictures: InputBatch, patience: Patience, gives_way: bool = False) -> None:
        self.patience = patience
        self.gives_way = gives_way
        self.pictures = pictures
        self.count = len(pictures)
        self.scores: Scores | None = None
        self.error: ScancerError | None = None
        self.arrived = time.perf_counter()
        self.run: BatchRun | None = None
        self.is_leader = False
        self.wake = threading.Lock()
        self.wake.acquire()


class BatchRunner:
    """Runs an engine for many callers: one batch at a time, made of all that came while the last one ran.

    A lone caller never waits for others. Under load a batch costs less than its pictures one by one: the weights pass
    through the processor's caches once, and an engine likes batches of one size better than of many. So a batch waits
    a moment for pictures that are being decoded, and, where callers came together just now, for as many as then.
    Pictures that give way are inferred in between, one caller's at a time, and never together with others.
    At most `max_waiting` callers may wait. Admission lets no more in (`app/api/request/places.py`), so this bound
    speaks only where a runner is used without it.

    One caller leads: it runs the batch that holds its own pictures, then wakes the others, and the first that still
    waits leads on.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, engine: Engine, max_waiting: int, spec: BatchSpec) -> None:
        self._engine = engine
        self._max_waiting = max_waiting
        self._sizes = spec.sizes
        self._max_delay_s = spec.max_delay_ms / 1000
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._lull = threading.Condition(self._lock)
        self._between = threading.Lock()
        self._engine_lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._arriving: set[object] = set()
        self._last_load = 1
        self._last_ended = 0.0
        self._needed_s = 0.0  # what a batch took lately
        self._is_led = False
        self._is_closed = False

    @contextmanager
    def arrival(self) -> Iterator[object]:
        """Announce pictures that are being decoded. `infer` redeems this; leaving the `with` takes it back."""
        announcement = object()
        with self._lock:
            self._arriving.add(announcement)
        try:
            yield announcement
        finally:
            if announcement in self._arriving:
                with self._lock:
                    self._arriving.remove(announcement)
                    self._came.notify()
                    self._lull.notify_all()

    @property
    def waiting(self) -> int:
        """How many callers wait for the next batch."""
        return len(self._jobs)

    def infer(
        self, batch: InputBatch, patience: Patience = ENDLESS, announcement: object = None
    ) -> tuple[Scores, BatchRun]:
        """Infer uint8 [N, H, W, 3], perhaps together with others'. `announcement` is what `arrival` gave; None: nothing
        announced them. Returns scores, float32 [N, outputs], and where the time went. Raises
        `ServiceUnavailableError` if the queue is full or the model was closed, `DeadlineError` if the caller waits no
        longer, and `InferenceError` if the engine failed.
        """
        return self._answer(Job(batch, patience), announcement)

    def infer_between(self, batch: InputBatch, patience: Patience = ENDLESS) -> tuple[Scores, BatchRun]:
        """Infer pictures that give way to those of `infer`; returns and raises as it does."""
        with patience.hold(self._between):
            until = min(time.perf_counter() + LULL_S, patience.until)
            with self._lock:
                self._lull.wait_for(lambda: not (self._is_led or self._arriving), max(until - time.perf_counter(), 0))
            return self._answer(Job(batch, patience, gives_way=True))

    def _answer(self, job: Job, announcement: object = None) -> tuple[Scores, BatchRun]:
        """Queue a job, and run it or wait for it; returns and raises as `infer`."""
        with self._lock:
            self._arriving.discard(announcement)
            self._came.notify()
            if len(self._jobs) >= self._max_waiting:
                raise ServiceUnavailableError("Too many requests wait for this model; try again shortly.")
            self._jobs.append(job)
            job.is_leader, self._is_led = not self._is_led, True
        if not job.is_leader:
            self._wait(job)
        if job.is_leader:
            self._lead()
        if job.error is not None:
            raise copy(job.error) from job.error  # a fresh one in each thread: raising writes into the object
        assert job.scores is not None, "a job without an error has scores"
        assert job.run is not None, "and was run"
        return job.scores, job.run

    def _wait(self, job: Job) -> None:
        """Wait until the job is done, or leads, or its caller waits no longer."""
        if job.patience.acquire(job.wake):
            return
        with self._lock:
            if job.is_leader:  # from this moment on
                job.wake.acquire()
            elif job in self._jobs:
                self._jobs.remove(job)
        if not job.is_leader:
            raise DeadlineError(LATE)

    def _lead(self) -> None:
        """Run the next batch, then hand on the lead."""
        jobs: list[Job] = []
        try:
            jobs += self._take_batch()
            if jobs:
                self._run(jobs)
        except ScancerError as error:
            for job in jobs:
                job.error = error
        finally:
            for job in jobs:  # whatever else was raised goes to the caller at hand; the others must not wait for ever
                if job.scores is None and job.error is None:
                    job.error = InferenceError("The model failed.")
                job.wake.release()
            with self._lock:
                if not (jobs and jobs[0].gives_way):
                    self._last_load = len(jobs) + len(self._jobs) + len(self._arriving)
                    self._last_ended = time.perf_counter()
                self._is_led = bool(self._jobs)
                self._lull.notify_all()
                if self._jobs:
                    self._jobs[0].is_leader = True
                    self._jobs[0].wake.release()

    def _take_batch(self) -> list[Job]:
        """Wait for jobs that are about to come, then take the first that make one of the engine's batch sizes together.

        The others lead the next batch. A job larger than every size is taken alone.
        """
        with self._lock:
            self._wait_for_company()
            jobs: list[Job] = []
            pictures = 0
            while self._jobs and (not jobs or self._fits(self._jobs[0], jobs[0], pictures)):
                job = self._jobs.popleft()
                if self._is_wanted(job):
                    jobs.append(job)
                    pictures += job.count
            while len(jobs) > 1 and pictures not in self._sizes:
                pictures -= jobs[-1].count
                self._jobs.appendleft(jobs.pop())
            return jobs

    def _fits(self, job: Job, first: Job, pictures: int) -> bool:
        """Whether a job can be inferred together with `pictures` that are taken already, the first being `first`."""
        return pictures + job.count <= self._sizes[0] and not (job.gives_way or first.gives_way)

    def _wait_for_company(self) -> None:
        """Wait until the batch is complete, at most `max_delay_ms`; only the clock tells that a burst is over."""
        until = time.perf_counter() + self._max_delay_s
        while not self._is_complete() and (left_s := until - time.perf_counter()) > 0:
            recent_s = self._last_ended + RECENT_S - time.perf_counter()
            self._came.wait(min(left_s, recent_s) if recent_s > 0 else left_s)

    def _is_wanted(self, job: Job) -> bool:
        """Whether a job's caller will be there for the answer; if not, the job is done. Asked with the lock held."""
        try:
            job.patience.check(self._needed_s)
            if time.perf_counter() - job.arrived > PRESENCE_S:
                job.patience.check_presence()
        except DeadlineError as error:
            self._needed_s *= 0.9  # else one slow batch could keep all hasty callers out for ever
            job.error = error
            job.wake.release()
            return False
        return True

    def _is_complete(self) -> bool:
        """Whether there is nothing to wait for: the batch is full, or all are there who are likely to come."""
        pictures = sum(job.count for job in self._jobs)
        if pictures >= self._sizes[0] or any(job.gives_way for job in self._jobs):
            return True
        is_recent = time.perf_counter() - self._last_ended < RECENT_S
        return not self._arriving and (not is_recent or len(self._jobs) >= self._last_load)

    def _run(self, jobs: list[Job]) -> None:
        pictures = jobs[0].pictures if len(jobs) == 1 else np.concatenate([job.pictures for job in jobs])
        with self._engine_lock:
            if self._is_closed:
                raise ServiceUnavailableError("The model was unloaded; try again shortly.")
            started = time.perf_counter()
            scores = self._infer(pictures, jobs[0].patience)
            ended = time.perf_counter()
        self._needed_s += (ended - started - self._needed_s) / 4
        if len(scores) != len(pictures):
            raise InferenceError("The model returned scores for another number of pictures.")
        start = 0
        for job in jobs:
            job.run = BatchRun(started - job.arrived, ended - started, ended, len(pictures))
            job.scores = scores[start : start + job.count]
            start += job.count

    def _infer(self, pictures: InputBatch, patience: Patience) -> Scores:
        """Infer any number of pictures, in batches of the sizes that the engine is to see. Those of several callers
        have such a size, so `patience` is that of the only one; raises `DeadlineError` if it ends between two batches.
        """
        if len(pictures) in self._sizes:
            return self._engine.infer(pictures)
        parts, start = [], 0
        while start < len(pictures):
            size = next(size for size in self._sizes if size <= len(pictures) - start)
            parts.append(self._engine.infer(pictures[start : start + size]))
            start += size
            if start < len(pictures):
                patience.check()
                patience.check_presence()
        return np.concatenate(parts)

    def close(self) -> None:
        """Wait for the running batch and close the engine; who still waits is answered that the model is gone."""
        with self._engine_lock:
            self._is_closed = True
            self._engine.close()
