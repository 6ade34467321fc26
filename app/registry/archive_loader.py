"""Has model archives served: compiled where TorchServe's default classifier answers, else by their own programs.

What is compiled is served in the HTTP workers, as our own models are: the fast road. Each attempt has a thread of its
own: an archive that takes long, or hangs, delays no other model.
"""

import logging
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from app.compiling.archive_compiler import compile_archive
from app.config.settings import Settings
from app.errors import ModelFolderError, ModelProcessError
from app.handlers.client.explainer import Explainer
from app.handlers.client.handler_model import HandlerModel
from app.handlers.handler_archive import HandlerArchive
from app.handlers.worker.default_classifier import find_obstacle
from app.registry.model_entry import ModelEntry, State, make_default_limits
from app.registry.model_loader import ModelLoader
from app.registry.version_slot import Attempt
from app.repository.model_folder import ARCHIVE_FOLDER
from app.repository.signing import SIGNATURE_FILE, require_trust

if TYPE_CHECKING:
    from app.handlers.client.pool_client import PoolClient

log = logging.getLogger(__name__)

MARGIN_S = 5.0
"""A handler that is let go is waited for this much longer than one of its answers may take."""


class ArchiveLoader:
    """Loads, scales and lets go archives.

    Args:
        settings: whether programs are run, and how they are confined.
        loader: makes served models of compiled ones.

    Thread safety: all methods may be called from any thread, for one archive from one at a time, `abort` excepted.
    """

    def __init__(self, settings: Settings, loader: ModelLoader) -> None:
        self._settings = settings
        self._loader = loader
        self._lock = threading.Lock()
        self.pools: PoolClient | None = None

    def load(self, attempt: Attempt) -> ModelEntry:
        """Compile an archive, or start its program; raises `ModelFolderError` with the reason."""
        archive = self._read(attempt)
        attempt.draft = replace(attempt.draft, archive=archive)
        if (archive.path / SIGNATURE_FILE).exists():
            attempt.tell("its signature is being verified")
        require_trust(archive.path, archive.name, archive.version, self._settings)
        obstacle = find_obstacle(archive)
        if not obstacle:
            attempt.tell("it is being compiled")
            try:
                return self._load_compiled(attempt, archive)
            except ModelFolderError as error:
                obstacle = error.message
                extra = {"model": archive.name, "version": archive.version, "reason": obstacle}
                log.warning("archive is not compiled, its handler answers", extra=extra)
        return self._start_handler(attempt, archive, obstacle)

    def scale(self, attempt: Attempt, running: ModelEntry) -> ModelEntry:
        """Bring the pool of a running handler to the limits that are wanted; raises `ModelFolderError`."""
        archive = self._read(attempt)
        self._find_pools().scale(archive, **asdict(archive.limits))
        return replace(running, reason="", archive=archive)

    def abort(self, archive: HandlerArchive) -> None:
        """Have a handler that is starting in another thread start no longer; the attempt then fails."""
        if self.pools is not None:
            self.pools.abort(archive)

    def let_go(self, entry: ModelEntry) -> None:
        """End what an archive runs here, once this worker's requests are answered."""
        if entry.explainer is not None:
            entry.explainer.close()
        if entry.handler is None or entry.archive is None:
            return
        entry.handler.retire(entry.archive.limits.response_timeout_s + MARGIN_S)
        with suppress(ModelProcessError):  # the manager is lost, and all pools with it
            self._find_pools().unregister(entry.archive)

    def list_metrics(self) -> list[dict[str, Any]]:
        """The metrics that programs of archives have added, see `app.handlers.manager.handler_metrics`."""
        return [] if self.pools is None else self.pools.list_metrics()

    def close(self) -> None:
        """Let the processes go; they end when no worker needs them."""
        if self.pools is not None:
            self.pools.close()

    def _read(self, attempt: Attempt) -> HandlerArchive:
        """Read an archive, with the limits that are wanted of its pool."""
        folder = attempt.planned.folder
        return attempt.planned.limit(folder.read_archive(make_default_limits(self._settings)))

    def _load_compiled(self, attempt: Attempt, archive: HandlerArchive) -> ModelEntry:
        manifest, report = compile_archive(archive, self._settings)
        entry = self._loader.load_report(attempt, manifest, report, ARCHIVE_FOLDER)
        return replace(entry, explainer=Explainer(archive, self._find_pools))

    def _start_handler(self, attempt: Attempt, archive: HandlerArchive, obstacle: str) -> ModelEntry:
        attempt.tell("its handler is starting")
        pools = self._find_pools()
        attempt.program = archive  # first: either this sees that the attempt is dropped, or who drops it sees this
        if attempt.is_dropped:
            raise ModelFolderError("it is no longer wanted")
        pools.register(archive)
        handler = HandlerModel(archive, pools)
        return replace(
            attempt.draft, state=State.READY, reason="", engine="handler", handler=handler, obstacle=obstacle
        )

    def _find_pools(self) -> "PoolClient":
        """Find the client of the pools, or make it: only a server of archives needs one."""
        from app.handlers.client.pool_client import PoolClient

        with self._lock:
            if self.pools is None:
                self.pools = PoolClient(self._settings)
            return self.pools
