"""The program of an archive that is compiled: it explains, since a compiled model has no gradients to explain by."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.errors import DeadlineError, HandlerFaultError, ModelFolderError, ModelProcessError
from app.handlers.client.handler_model import HandlerModel
from app.handlers.client.handler_streams import LOOK_S
from app.handlers.handler_answers import NO_CAPTUM
from app.handlers.handler_archive import HandlerArchive
from app.pipeline.patience import LATE, Patience

if TYPE_CHECKING:
    from app.handlers.client.pool_client import PoolClient


CLOSED = "its model is being unloaded."


def require_captum() -> None:
    """Raise `HandlerFaultError` without captum, with which TorchServe's default handler explains."""
    if find_spec("captum") is None:
        raise HandlerFaultError(NO_CAPTUM)


class Explainer:
    """Lends the program. The first caller has it started; if that fails, the next caller has it started anew.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, archive: HandlerArchive, find_pools: "Callable[[], PoolClient]") -> None:
        self._archive = replace(archive, limits=replace(archive.limits, min_workers=1, max_workers=1))
        self._find_pools = find_pools
        self._changed = threading.Condition()
        self._is_starting = False
        self._is_closed = False
        self._handler: HandlerModel | None = None
        self._reason = ""

    @contextmanager
    def lend(self, patience: Patience) -> Iterator[HandlerModel]:
        """Lend the program for one request, started if need be; raises `HandlerFaultError` or `DeadlineError`."""
        handler = self._find(patience)
        if not handler.enter():
            raise HandlerFaultError("The program that explains is being ended.")
        try:
            yield handler
        finally:
            handler.leave()

    def close(self) -> None:
        """End the program when the requests that have it are answered; it is not started any more."""
        with self._changed:
            self._is_closed = True
            is_starting, handler, self._handler = self._is_starting, self._handler, None
        if is_starting:  # it is not waited for: it may take minutes
            self._find_pools().abort(self._archive)
        elif handler is not None:
            self._end(handler)

    def _find(self, patience: Patience) -> HandlerModel:
        with self._changed:
            if self._handler is None and not self._is_starting and not self._is_closed:
                self._is_starting = True
                threading.Thread(target=self._start, name="start-explainer", daemon=True).start()
            while self._is_starting:
                left_s = patience.until - time.perf_counter()
                if left_s <= 0:
                    raise DeadlineError(LATE)
                self._changed.wait(min(left_s, LOOK_S))
                patience.check_presence()
            if self._handler is None:
                raise HandlerFaultError(f"The program that explains cannot be started: {self._reason or CLOSED}")
            return self._handler

    def _start(self) -> None:
        handler, reason = None, ""
        try:
            self._find_pools().register(self._archive)
            handler = HandlerModel(self._archive, self._find_pools())
        except ModelFolderError as error:
            reason = error.message
        with self._changed:
            is_late = self._is_closed
            self._handler, self._reason, self._is_starting = None if is_late else handler, reason, False
            self._changed.notify_all()
        if is_late and handler is not None:
            self._end(handler)

    def _end(self, handler: HandlerModel) -> None:
        handler.retire(self._archive.limits.response_timeout_s)
        with suppress(ModelProcessError):  # the manager is lost, and all pools with it
            self._find_pools().unregister(self._archive)
