"""A model archive with a program of its own, as the API asks it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.errors import ModelProcessError, ServiceUnavailableError
from app.handlers.archive import HandlerArchive
from app.pipeline.patience import Patience

if TYPE_CHECKING:
    from app.handlers.batch import Answer
    from app.handlers.client import PoolClient

NO_WORKER = (
    "{model} has no worker to serve inference request. Please use scale workers API to add workers. "
    "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)
MARGIN_MS = 1000


class HandlerModel:
    """Answers requests through the pool of its model.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, archive: HandlerArchive, pools: "PoolClient") -> None:
        self._archive = archive
        self._pools = pools

    @property
    def name(self) -> str:
        """Model name."""
        return self._archive.name

    @property
    def version(self) -> str:
        """Version."""
        return self._archive.version

    @property
    def timeout_ms(self) -> int:
        """How long an answer may take at least: a handler that is too slow is told of by the pool, a moment before."""
        return int(self._archive.limits.response_timeout_s * 1000) + MARGIN_MS

    def predict(self, request: Mapping[str, Any], parts: Sequence[bytes], patience: Patience) -> "Answer":
        """Have one request answered; see `PoolClient.predict`.

        Raises:
            ServiceUnavailableError: there is no worker, or too many requests wait.
            DeadlineError: the caller waits no longer.
        """
        answer = self._pools.predict(self._archive, request, parts, patience)
        if answer is None:
            raise ServiceUnavailableError(NO_WORKER.format(model=f'Model "{self.name}"'))
        return answer

    def scale(self, **limits: float) -> None:
        """Change fields of the pool's `PoolLimits` while it runs; see `PoolClient.scale`.

        Raises:
            ModelProcessError: a new worker cannot be started.
        """
        self._pools.scale(self._archive, **limits)

    def describe(self) -> dict[str, Any]:
        """Return the pool's workers and waiting requests; empty while there is none."""
        try:
            return self._pools.describe(self._archive)
        except ModelProcessError:
            return {}
