"""An HTTP worker's side of the manager: what it asks, and what it has registered there."""

import logging
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from app.config.settings import Settings
from app.errors import ModelProcessError
from app.handlers.client.handler_streams import AnswerStream, wait_for
from app.handlers.client.manager_link import ManagerLink
from app.handlers.handler_answers import PART, WORKER_DIED, Answer, fail
from app.handlers.handler_archive import HandlerArchive
from app.pipeline.patience import Patience
from app.processes.frames import LOST, Message

log = logging.getLogger(__name__)


class PoolClient:
    """Asks the manager of this server; there is one in each HTTP worker. The manager is started when it is first
    needed, and anew if it has died, with all models as they were registered and scaled here.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._registered: dict[str, HandlerArchive] = {}
        self.link = ManagerLink(settings, self._name, self._list_orders)

    def register(self, archive: HandlerArchive) -> None:
        """Have a model's pool made, and wait until its workers are ready; raises `ModelProcessError` if not."""
        reply = self._order({"operation": "register", **self._make_order(archive)})
        if "error" in reply:
            raise ModelProcessError(reply["error"])
        with self._lock:
            self._registered[archive.key] = archive

    def scale(self, archive: HandlerArchive, **limits: float) -> None:
        """Change fields of the model's `PoolLimits`, and wait until the workers are so; raises `ModelProcessError`."""
        with self._lock:
            known = self._registered.get(archive.key, archive)
            # `limits` are fields by their names.
            self._registered[archive.key] = replace(known, limits=replace(known.limits, **limits))  # type: ignore[arg-type]
        reply = self._order({"operation": "scale", "key": archive.key, "limits": limits})
        if reply:
            raise ModelProcessError(reply.get("error", "the model has no pool"))

    def describe(self, archive: HandlerArchive) -> dict[str, Any]:
        """Return the model's workers and waiting requests; empty if it has no pool."""
        reply = self._order({"operation": "describe", "key": archive.key})
        return {} if "no_worker" in reply else reply

    def list_metrics(self) -> list[dict[str, Any]]:
        """Return the series that handlers of all models have added, see `Series`; none while there is no manager."""
        with suppress(*LOST):
            series: list[dict[str, Any]] = self.link.ask({"operation": "metrics"})["series"]
            return series
        return []

    def unregister(self, archive: HandlerArchive) -> None:
        """Let the model's pool go, which ends when all HTTP workers have; raises `ModelProcessError`."""
        with self._lock:
            self._registered.pop(archive.key, None)
        self._order({"operation": "unregister", "key": archive.key, "client": self._name})

    def abort(self, archive: HandlerArchive) -> None:
        """Let a pool go whose `register` is under way in another thread; that raises then. Waits for no new manager."""
        with suppress(*LOST):
            self.link.ask({"operation": "unregister", "key": archive.key, "client": self._name})

    def predict(
        self, archive: HandlerArchive, request: Mapping[str, Any], parts: Sequence[bytes], patience: Patience
    ) -> Answer | None:
        """Do as `open`, but wait for all of the answer."""
        answer = self.open(archive, request, parts, patience)
        return answer.read_whole() if isinstance(answer, AnswerStream) else answer

    def open(
        self, archive: HandlerArchive, request: Mapping[str, Any], parts: Sequence[bytes], patience: Patience
    ) -> Answer | AnswerStream | None:
        """Have a request answered; returns a stream if the handler gives the answer in parts.

        Returns None if there is no worker, or too many requests wait; raises `DeadlineError` if the caller waits no
        longer. `request` has an `id`, `headers`, and of each part `name` and `type`; `parts` are the bytes.
        """
        message = {"operation": "predict", "key": archive.key, "request": request}
        reply = self._try_predict(message, parts, patience)
        if reply is None or (isinstance(reply, Message) and "unknown" in reply.header):
            try:
                self.link.revive(patience)
                if reply is not None:
                    self.link.tell_all()  # the manager died in the moment in which the model was registered
            except ModelProcessError as error:
                log.error("handlers cannot be run", extra={"model": archive.name, "reason": error.message})
                return None
            reply = self._try_predict(message, parts, patience)
        if isinstance(reply, AnswerStream):
            return reply
        if reply is None or "answer" not in reply.header:
            return None
        return reply.header["answer"], reply.blobs[0]

    def close(self) -> None:
        """Let the manager go; it ends when no HTTP worker is left."""
        self.link.close()

    def _try_predict(
        self, message: Mapping[str, Any], parts: Sequence[bytes], patience: Patience
    ) -> Message | AnswerStream | None:
        """Send a prediction and wait; return None if there is no manager to send it to."""
        stream = None
        try:
            channel = self.link.connect()
        except OSError:
            return None
        try:
            channel.send(message, parts)
            wait_for(channel, patience)
            reply = channel.receive()
            if PART in reply.header:
                stream = AnswerStream(channel, reply, patience)
            return stream or reply
        except LOST as error:
            log.error("the manager of handlers is lost", extra={"reason": type(error).__name__})
            header, body = fail(500, WORKER_DIED)
            return Message({"answer": header}, [body])
        finally:
            if stream is None:
                channel.close()

    def _make_order(self, archive: HandlerArchive) -> dict[str, Any]:
        return {
            "key": archive.key,
            "client": self._name,
            "archive": archive.to_json(),
            "memory_bytes": self._settings.model_memory_bytes,
            "threads": self._settings.inference_threads or 1,
        }

    def _list_orders(self) -> list[dict[str, Any]]:
        with self._lock:
            return [self._make_order(each) for each in self._registered.values()]

    def _order(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message of management and wait for the reply, also of a new manager if the first one dies."""
        for _ in range(2):
            self.link.revive()
            with suppress(*LOST):
                return self.link.ask(message)
        raise ModelProcessError("the manager of handlers is lost")
