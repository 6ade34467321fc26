"""Loads another engine when it is first used: a model that nobody asks for costs a worker next to nothing."""

import time
from collections.abc import Callable

from app.arrays import InputBatch, Scores
from app.engines.base import Engine
from app.errors import InferenceError


class LazyEngine:
    """Stands for an engine that is built, not loaded, until the first batch comes.

    After the first batch it calls `on_load` with None and the seconds that loading and inferring took, or with
    the error that kept the engine from it. Whoever is told of an error closes this engine.

    Thread safety: as for any engine.
    """

    def __init__(self, engine: Engine, on_load: Callable[[Exception | None, float], None]) -> None:
        self._engine = engine
        self._on_load = on_load
        self._is_loaded = False

    def load(self) -> None:
        """Leave it for later."""

    def infer(self, batch: InputBatch) -> Scores:
        """Infer, having loaded the engine if this is the first batch; raises `InferenceError` if either failed."""
        if self._is_loaded:
            return self._engine.infer(batch)
        started = time.perf_counter()
        try:
            self._engine.load()
            scores = self._engine.infer(batch)
        except Exception as error:  # a library's own error, too, is the model's state
            self._on_load(error, 0.0)
            raise InferenceError("The model could not be loaded.") from error
        self._is_loaded = True
        self._on_load(None, time.perf_counter() - started)
        return scores

    def close(self) -> None:
        """Let the engine go."""
        self._engine.close()
