"""A model archive with a program of its own, as the API asks it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from app.errors import HandlerFaultError, ModelProcessError, ServiceUnavailableError
from app.handlers.handler_archive import HandlerArchive, PoolLimits
from app.pipeline.occupancy import Occupancy
from app.pipeline.patience import Patience

if TYPE_CHECKING:
    from app.handlers.client.handler_streams import AnswerStream
    from app.handlers.client.pool_client import PoolClient
    from app.handlers.handler_answers import Answer

MARGIN_MS = 1000
NO_DESCRIBER = 'Model "{}" has no worker to serve describe request. Please use scale workers API to add workers.'


class HandlerModel(Occupancy):
    """Answers requests through the pool of its model. `places` may be in work or wait: as many as the workers take at a
    time, and its queue. An answer may take at least `timeout_ms`; the pool tells of a slow handler a moment before.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, archive: HandlerArchive, pools: "PoolClient") -> None:
        super().__init__()
        self._archive = archive
        self._pools = pools
        self.name, self.version, self.has_envelope = archive.name, archive.version, archive.has_envelope
        self.follow(archive.limits)

    def follow(self, limits: PoolLimits) -> None:
        """Admit as many requests, and wait as long, as a pool of these limits wants."""
        self.places = limits.queue_size + limits.batch_size * limits.max_workers
        self.timeout_ms = int(limits.response_timeout_s * 1000) + MARGIN_MS

    def predict(
        self, request: Mapping[str, Any], parts: Sequence[bytes], patience: Patience, version: str | None = None
    ) -> "Answer":
        """Do as `open`, but wait for all of the answer."""
        answer = self.open(request, parts, patience, version)
        return answer if isinstance(answer, tuple) else answer.read_whole()

    def open(
        self, request: Mapping[str, Any], parts: Sequence[bytes], patience: Patience, version: str | None = None
    ) -> "Answer | AnswerStream":
        """Have one request answered; see `PoolClient.open`. `version` is the caller's, for the message. Raises
        `DeadlineError`, or `ServiceUnavailableError` if there is no worker or too many requests wait.
        """
        answer = self._pools.open(self._archive, request, parts, patience)
        if answer is None:
            raise ServiceUnavailableError(describe_lack_of_workers(self.name, version))
        return answer

    def describe_itself(self, request_id: str, patience: Patience) -> dict[str, Any] | None:
        """Return what the handler's `describe_handle` says; raises `HandlerFaultError` if it failed, else as `open`."""
        request = {"id": request_id, "headers": {"describe": "True"}, "parts": []}
        answer = self._pools.predict(self._archive, request, [], patience)
        if answer is None:
            raise ServiceUnavailableError(NO_DESCRIBER.format(self.name))
        header, body = answer
        if "error" in header:
            raise HandlerFaultError(header["error"])
        with suppress(ValueError, RecursionError):
            document = json.loads(body)
            if document is None or isinstance(document, dict):
                return document
        return {}

    def describe(self) -> dict[str, Any]:
        """Return the pool's workers and waiting requests; empty while there is none."""
        with suppress(ModelProcessError):
            return self._pools.describe(self._archive)
        return {}


def describe_lack_of_workers(name: str, version: str | None) -> str:
    """TorchServe's words, and its quotation marks, for a model without workers; clients compare them."""
    named = f'Model "{name}"' if version is None else f'Model "{name}" Version {version}"'
    return (
        f"{named} has no worker to serve inference request. Please use scale workers API to add workers. If this is a "
        "sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    )
