"""The queue before an engine: callers that wait together are inferred together."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from app.arrays import InputBatch, Scores
from app.engines.base import Engine
from app.errors import InferenceError, ScancerError, ServiceUnavailableError

MAX_BATCH_PICTURES = 8
"""Pictures that are inferred together; more wait for the next batch."""


@dataclass
class Job:
    """One caller's pictures, and later their scores or the error that kept them from having any."""

    pictures: InputBatch
    scores: Scores | None = None
    error: ScancerError | None = None
    started: float = 0.0
    ended: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether there is an outcome."""
        return self.scores is not None or self.error is not None


class BatchRunner:
    """Runs an engine for many callers: one batch at a time, made of all that came while the last one ran.

    A lone caller never waits for others. Under load a batch costs less than its pictures one by one: the weights pass
    through the processor's caches once. At most `queue_size` callers may wait.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, engine: Engine, queue_size: int) -> None:
        self._engine = engine
        self._places = threading.BoundedSemaphore(queue_size + 1)
        self._slot = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._is_closed = False

    def infer(self, batch: InputBatch) -> tuple[Scores, float, float]:
        """Infer a caller's pictures, perhaps together with others'.

        Args:
            batch: uint8, [N, H, W, 3].

        Returns:
            The scores, float32 [N, outputs]; seconds waited in the queue; seconds inferring.

        Raises:
            ServiceUnavailableError: the queue is full, or the model was closed.
            InferenceError: the engine failed.
        """
        arrived = time.perf_counter()
        job = Job(batch)
        with self._hold_place():
            self._jobs.append(job)
            with self._slot:  # whoever holds it runs the next batch; the others find theirs done
                while not job.is_done:
                    self._run_next_batch()
        if job.error is not None:
            raise job.error
        assert job.scores is not None, "a job without an error has scores"
        return job.scores, job.started - arrived, job.ended - job.started

    @property
    def waiting(self) -> int:
        """How many callers wait for the next batch."""
        return len(self._jobs)

    @contextmanager
    def _hold_place(self) -> Iterator[None]:
        """Hold a place in the queue."""
        if not self._places.acquire(blocking=False):
            raise ServiceUnavailableError("Too many requests wait for this model; try again shortly.")
        try:
            yield
        finally:
            self._places.release()

    def _run_next_batch(self) -> None:
        """Infer the jobs at the head of the queue; called by the holder of the slot alone."""
        jobs = [self._jobs.popleft()]
        while self._jobs and sum(len(job.pictures) for job in (*jobs, self._jobs[0])) <= MAX_BATCH_PICTURES:
            jobs.append(self._jobs.popleft())
        started = time.perf_counter()
        try:
            scores = self._infer(jobs)
            ended = time.perf_counter()
            ends = np.cumsum([len(job.pictures) for job in jobs])
            for job, end in zip(jobs, ends, strict=True):
                job.started, job.ended = started, ended
                job.scores = scores[end - len(job.pictures) : end]
        except ScancerError as error:
            for job in jobs:
                job.error = error
        finally:
            for job in jobs:  # whatever else was raised goes to the caller at hand; the others must not wait for ever
                if not job.is_done:
                    job.error = InferenceError("The model failed.")

    def _infer(self, jobs: list[Job]) -> Scores:
        if self._is_closed:
            raise ServiceUnavailableError("The model was unloaded; try again shortly.")
        pictures = jobs[0].pictures if len(jobs) == 1 else np.concatenate([job.pictures for job in jobs])
        scores = self._engine.infer(pictures)
        if len(scores) != len(pictures):
            raise InferenceError("The model returned scores for another number of pictures.")
        return scores

    def close(self) -> None:
        """Wait for the running batch and close the engine; who still waits is answered that the model is gone."""
        with self._slot:
            self._is_closed = True
            self._engine.close()
