"""Brings the pool of one model archive to what is wanted of it: one step after the other, in a thread of its own.

A handler takes seconds to start, or hangs; whoever says what is wanted waits for nothing.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from app.errors import ModelFolderError
from app.handlers.client.handler_model import HandlerModel
from app.handlers.handler_archive import HandlerArchive

if TYPE_CHECKING:
    from app.handlers.client.pool_client import PoolClient

MARGIN_S = 5.0
"""Longer than a request may take, it is not waited for when a model is let go."""


class HandlerKeeper:
    """Keeps one archive's pool.

    Args:
        pools: where the pool is asked for.
        on_change: called, in the thread, with the archive as it runs now, its handler if it has one, and the reason if
            what was wanted failed.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(
        self, pools: "PoolClient", on_change: Callable[[HandlerArchive, HandlerModel | None, str], None]
    ) -> None:
        self._pools = pools
        self._on_change = on_change
        self._lock = threading.Lock()
        self._wish: HandlerArchive | None = None
        self._on_gone: list[Callable[[], None]] = []
        self._starting: HandlerArchive | None = None
        self._is_behind = False
        self._is_running = False
        self._archive: HandlerArchive | None = None
        self._handler: HandlerModel | None = None

    def want(self, archive: HandlerArchive) -> None:
        """Have the archive run, with its limits."""
        with self._lock:
            self._wish = archive
            self._go()

    def let_go(self, on_gone: Callable[[], None]) -> None:
        """Have the pool let go when this worker's requests are answered; `on_gone` is called when that is done."""
        with self._lock:
            self._on_gone.append(on_gone)
            self._wish = None
            if self._starting is not None:  # it is not waited for: it may take minutes
                self._pools.abort(self._starting)
            self._go()

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing left to keep."""
        with self._lock:
            return self._wish is None and not self._is_running

    def _go(self) -> None:
        """Have the thread look again; whoever calls has the lock."""
        self._is_behind = True
        if not self._is_running:
            self._is_running = True
            threading.Thread(target=self._run, name="keep-handler", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._is_behind:
                    self._is_running = False
                    return
                self._is_behind = False
                wish, gone = self._wish, self._on_gone
                self._on_gone = []
            if wish is None or gone:  # what was let go is never taken up again: others may have let it go for good
                self._end()
            for call in gone:
                call()
            if wish is not None:
                self._bring(wish)

    def _bring(self, wish: HandlerArchive) -> None:
        """Start the pool, or scale it."""
        reason = ""
        try:
            if self._handler is None:
                self._register(wish)
                self._archive, self._handler = wish, HandlerModel(wish, self._pools)
            elif self._archive is not None and wish.limits != self._archive.limits:
                self._archive = wish
                self._pools.scale(wish, **asdict(wish.limits))
        except ModelFolderError as error:
            reason = error.message
        self._on_change(wish, self._handler, reason)

    def _register(self, wish: HandlerArchive) -> None:
        with self._lock:
            self._starting = wish
        try:
            self._pools.register(wish)
        finally:
            with self._lock:
                self._starting = None

    def _end(self) -> None:
        archive, handler = self._archive, self._handler
        self._archive = self._handler = None
        if archive is None or handler is None:
            return
        handler.retire(archive.limits.response_timeout_s + MARGIN_S)
        with suppress(ModelFolderError):  # the manager is lost, and all pools with it
            self._pools.unregister(archive)
