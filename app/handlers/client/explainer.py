"""The program of an archive that is compiled, started when an explanation is first asked for: a compiled model has no
gradients.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.errors import DeadlineError, HandlerFaultError
from app.handlers.client.handler_keeper import HandlerKeeper
from app.handlers.client.handler_model import HandlerModel
from app.handlers.client.handler_streams import LOOK_S
from app.handlers.handler_archive import HandlerArchive
from app.handlers.worker.handler_batch import NO_CAPTUM
from app.pipeline.patience import LATE, Patience

if TYPE_CHECKING:
    from app.handlers.client.pool_client import PoolClient

EXPLAINING_PACKAGE = "captum"
"""What TorchServe's default handler explains with; an operator installs it."""


def require_captum() -> None:
    """Raise `HandlerFaultError` if nothing here could explain."""
    if find_spec(EXPLAINING_PACKAGE) is None:
        raise HandlerFaultError(NO_CAPTUM)


class Explainer:
    """Lends the program; one that could not be started is started anew for the next who asks.

    Args:
        archive: is compiled; one process of it is enough.
        pools: where it is started.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, archive: HandlerArchive, pools: "PoolClient") -> None:
        self._archive = replace(archive, limits=replace(archive.limits, min_workers=1, max_workers=1))
        self._keeper = HandlerKeeper(pools, self._note)
        self._changed = threading.Condition()
        self._is_starting = False
        self._handler: HandlerModel | None = None
        self._reason = ""

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing to let go."""
        return self._keeper.is_gone

    @contextmanager
    def lend(self, patience: Patience) -> Iterator[HandlerModel]:
        """Lend the program for one request, and wait for its start if need be.

        Raises:
            HandlerFaultError: it cannot be started.
            DeadlineError: the caller waits no longer.
        """
        handler = self._find(patience)
        while not handler.enter():  # it was let go in this very moment
            handler = self._find(patience)
        try:
            yield handler
        finally:
            handler.leave()

    def let_go(self) -> None:
        """Have the program end when the requests that have it are answered."""
        with self._changed:
            self._handler = None
            self._keeper.let_go(lambda: None)

    def _find(self, patience: Patience) -> HandlerModel:
        with self._changed:
            if self._handler is None and not self._is_starting:
                self._is_starting = True
                self._keeper.want(self._archive)
            while self._is_starting:
                left_s = patience.until - time.perf_counter()
                if left_s <= 0:
                    raise DeadlineError(LATE)
                self._changed.wait(min(left_s, LOOK_S))
                patience.check_presence()
            if self._handler is None:
                raise HandlerFaultError(f"The program that explains cannot be started: {self._reason}")
            return self._handler

    def _note(self, _: HandlerArchive, handler: HandlerModel | None, reason: str) -> None:
        with self._changed:
            self._handler, self._reason, self._is_starting = handler, reason, False
            self._changed.notify_all()
