"""The queue before an engine: a bounded wait for one of its slots, then the pictures as one batch."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.arrays import InputBatch, Scores
from app.engines.base import Engine
from app.errors import InferenceError, ServiceUnavailableError


class BatchRunner:
    """Runs batches on an engine, one at a time; at most `queue_size` callers may wait.

    One inference already uses the cores the worker is given, so a second beside it would only slow both.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, engine: Engine, queue_size: int) -> None:
        self._engine = engine
        self._waiting = threading.BoundedSemaphore(queue_size + 1)
        self._slot = threading.Lock()
        self._is_closed = False

    def infer(self, batch: InputBatch) -> tuple[Scores, float, float]:
        """Infer a batch.

        Args:
            batch: uint8, [N, H, W, 3].

        Returns:
            The scores, float32 [N, outputs]; seconds waited in the queue; seconds inferring.

        Raises:
            ServiceUnavailableError: the queue is full, or the model was closed.
            InferenceError: the engine failed.
        """
        arrived = time.perf_counter()
        with self._place(), self._slot:
            if self._is_closed:
                raise ServiceUnavailableError("The model was unloaded; try again shortly.")
            started = time.perf_counter()
            scores = self._engine.infer(batch)
            if len(scores) != len(batch):
                raise InferenceError("The model returned scores for another number of pictures.")
            return scores, started - arrived, time.perf_counter() - started

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold a place in the queue."""
        if not self._waiting.acquire(blocking=False):
            raise ServiceUnavailableError("Too many requests wait for this model; try again shortly.")
        try:
            yield
        finally:
            self._waiting.release()

    def close(self) -> None:
        """Wait for the running batch and close the engine; who still waits is answered that the model is gone."""
        with self._slot:
            self._is_closed = True
            self._engine.close()
