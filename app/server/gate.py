"""Turns predictions away while there is no room, for a fraction of what answering them takes."""

import re
import threading

PREDICTION = re.compile(
    r"/predictions/([^/]+)|/v2/models/([^/]+)/(?:versions/[^/]+/)?infer/?\Z|/v1/models/([^/:]+):predict/?\Z"
    r"|/(invocations)/?\Z|/models/([^/]+)/invoke/?\Z|/([^/]+)/(?:[^/]+/)?predict/?\Z"
)
"""Paths that ask for a prediction, and the model they name; all invocations count as one."""
RESERVED_THREADS = 4
"""Threads, at most a quarter of them, that no prediction takes: health and metrics answer under any load."""


class Gate:
    """Counts the predictions in work: of each model, and of all.

    A model is told by its name in the path, as it came; a name that does not exist is answered so quickly that it takes
    no room worth counting.

    Args:
        model_places: predictions of one model that may be in work or wait.
        all_places: predictions of all models.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, model_places: int, all_places: int) -> None:
        self._model_places = model_places
        self._free = all_places
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()

    def enter(self, path: str) -> str | None:
        """Take a place for a request; return what to `leave` by, or None if there is no room."""
        found = PREDICTION.match(path)
        if found is None:
            return ""
        model: str = found[found.lastindex or 0]
        with self._lock:
            taken = self._taken.get(model, 0)
            if self._free and taken < self._model_places:
                self._free -= 1
                self._taken[model] = taken + 1
                return model
        return None

    def leave(self, model: str) -> None:
        """Give the place back."""
        if not model:
            return
        with self._lock:
            self._free += 1
            self._taken[model] -= 1
            if not self._taken[model]:
                del self._taken[model]
