"""Has model archives served: compiled where TorchServe's default classifier answers, else by their own programs.

What is compiled is served in the HTTP workers, as our own models are: the fast road. Each compilation and each
verification has a thread of its own, each program a keeper: one that takes long, or hangs, delays no other model.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from app.compiling.archive_compiler import compile_archive
from app.config.settings import Settings
from app.errors import ModelFolderError
from app.handlers.handler_archive import HandlerArchive, PoolLimits
from app.handlers.worker.default_classifier import find_obstacle
from app.registry.model_entry import ModelEntry, State
from app.registry.model_loader import LoadedModel, ModelLoader
from app.repository.model_folder import ARCHIVE_FOLDER, ModelFolder
from app.repository.signing import SIGNATURE_FILE
from app.repository.trust import require_trust
from app.state.wanted import Key, PlannedVersion

if TYPE_CHECKING:
    from app.handlers.client.explainer import Explainer
    from app.handlers.client.handler_keeper import HandlerKeeper
    from app.handlers.client.handler_model import HandlerModel
    from app.handlers.client.pool_client import PoolClient

log = logging.getLogger(__name__)


def find_distrust(folder: ModelFolder, settings: Settings) -> str:
    """Say why the program of an archive among the models may not be run; nothing if it may."""
    try:
        require_trust(folder.path, folder.name, folder.version, settings)
    except ModelFolderError as error:
        return error.message
    except OSError as error:  # a file went away while it was read
        return f"it cannot be read: {error.strerror}"
    return ""


def make_default_limits(settings: Settings) -> PoolLimits:
    """Return the limits of an archive whose own configuration names none."""
    return PoolLimits(response_timeout_s=settings.response_timeout_s)


class ArchiveStatus(NamedTuple):
    """Where an archive stands: ready if it is loaded or has a handler, else starting or unavailable, for a reason.

    One with a handler and a reason answers, but is not as it was wanted last.

    Attributes:
        reason: why it does not answer as it is wanted.
        is_starting: whether it soon will.
        archive: None if it cannot be read.
        handler: its program.
        obstacle: why its program answers, and not a compiled model.
        loaded: its compiled model.
    """

    reason: str
    is_starting: bool = False
    archive: HandlerArchive | None = None
    handler: "HandlerModel | None" = None
    obstacle: str = ""
    loaded: LoadedModel | None = None

    def make_entry(self, planned: PlannedVersion) -> ModelEntry:
        """Make the registry's entry."""
        entry = ModelEntry(planned.folder, planned.wanted, State.UNAVAILABLE, self.reason, archive=self.archive)
        if self.is_starting:
            return replace(entry, state=State.LOADING)
        if self.handler is not None:
            return replace(entry, state=State.READY, engine="handler", handler=self.handler, obstacle=self.obstacle)
        if self.loaded is not None:
            return self.loaded.fill(replace(entry, state=State.READY))
        return entry


class ArchiveLoader:
    """Starts archives, or finds them started by another worker.

    Args:
        settings: whether programs are run, and how they are confined.
        loader: makes served models of compiled ones.
        on_change: called with every change of an archive's status, from any thread; tells whether it is still wanted.

    Thread safety: `load` and `close` from one thread at a time, `unload` from any.
    """

    def __init__(
        self, settings: Settings, loader: ModelLoader, on_change: Callable[[PlannedVersion, ArchiveStatus], bool]
    ) -> None:
        self._settings = settings
        self._loader = loader
        self._on_change = on_change
        self._lock = threading.RLock()  # between the question whether an archive is wanted and the wish itself
        self._keepers: dict[str, HandlerKeeper] = {}
        self._explainers: dict[str, Explainer] = {}
        self._turns: dict[Key, object] = {}
        self.pools: PoolClient | None = None

    def load(self, planned: PlannedVersion) -> None:
        """Read an archive and have it served as is wanted, if programs are run at all.

        Verifying a signature reads every file, so that has a thread of its own.
        """
        turn = object()
        with self._lock:
            self._turns[planned.wanted.key] = turn
        try:
            archive = planned.limit(planned.folder.read_archive(make_default_limits(self._settings)))
        except ModelFolderError as error:
            self._on_change(planned, ArchiveStatus(error.message))
            return
        if not (planned.folder.path / SIGNATURE_FILE).exists():
            self._admit(planned, archive, turn)
            return
        self._on_change(planned, ArchiveStatus("its signature is being verified", is_starting=True, archive=archive))
        threading.Thread(target=self._admit, args=(planned, archive, turn), name="verify-archive", daemon=True).start()

    def _admit(self, planned: PlannedVersion, archive: HandlerArchive, turn: object) -> None:
        """Serve an archive if its program may be run, and nothing newer was said of it meanwhile."""
        distrust = find_distrust(planned.folder, self._settings)
        with self._lock:
            if self._turns.get(planned.wanted.key) is not turn:
                return
            if distrust:
                self._on_change(planned, ArchiveStatus(distrust, archive=archive))
            else:
                self._serve(planned, archive)

    def _serve(self, planned: PlannedVersion, archive: HandlerArchive) -> None:
        obstacle = find_obstacle(archive)
        if obstacle:
            self._start_handler(planned, archive, obstacle)
            return
        self._on_change(planned, ArchiveStatus("it is being compiled", is_starting=True, archive=archive))
        threading.Thread(target=self._compile, args=(planned, archive), name="compile-archive", daemon=True).start()

    def _compile(self, planned: PlannedVersion, archive: HandlerArchive) -> None:
        """Load the compiled model, which is made unless it is there; if there can be none, have the program answer."""
        try:
            manifest, report = compile_archive(archive, self._settings)
            loaded = self._loader.load_report(planned, manifest, report, ARCHIVE_FOLDER)
        except ModelFolderError as error:
            extra = {"model": archive.name, "version": archive.version, "reason": error.message}
            log.warning("archive is not compiled, its handler answers", extra=extra)
            self._start_handler(planned, archive, error.message)
        else:
            if not self._on_change(planned, ArchiveStatus("", archive=archive, loaded=loaded)):
                loaded.served.close()

    def _start_handler(self, planned: PlannedVersion, archive: HandlerArchive, obstacle: str) -> None:
        starting = ArchiveStatus("its handler is starting", is_starting=True, archive=archive)
        with self._lock:
            if self._on_change(planned, starting):
                self._find_keeper(planned, archive, obstacle).want(archive)

    def unload(self, archive: HandlerArchive, on_gone: Callable[[], None] = lambda: None) -> None:
        """Let an archive's processes go, once this worker's requests are answered; then `on_gone` is called."""
        with self._lock:
            keeper = self._keepers.get(archive.key)
        if keeper is None:
            on_gone()
        else:
            keeper.let_go(on_gone)

    def find_explainer(self, archive: HandlerArchive) -> "Explainer":
        """Find what lends the program of a compiled archive; it runs from the first explanation on."""
        from app.handlers.client.explainer import Explainer  # only a server of archives needs it

        with self._lock:
            self._explainers = {key: each for key, each in self._explainers.items() if not each.is_gone}
            if archive.key not in self._explainers:
                self._explainers[archive.key] = Explainer(archive, self._find_pools())
            return self._explainers[archive.key]

    def end_explainer(self, archive: HandlerArchive) -> None:
        """Let the program of a compiled archive go, if it runs."""
        with self._lock:
            explainer = self._explainers.get(archive.key)
        if explainer is not None:
            explainer.let_go()

    def list_metrics(self) -> list[dict[str, Any]]:
        """The metrics that programs of archives have added, see `app.handlers.manager.handler_metrics`."""
        return [] if self.pools is None else self.pools.list_metrics()

    def close(self) -> None:
        """Let the processes go; they end when no worker needs them."""
        with self._lock:
            self._turns.clear()
        if self.pools is not None:
            self.pools.close()

    def _find_pools(self) -> "PoolClient":
        """Find the client of the pools, or make it; whoever calls has the lock."""
        if self.pools is None:
            from app.handlers.client.pool_client import PoolClient  # as above

            self.pools = PoolClient(self._settings)
        return self.pools

    def _find_keeper(self, planned: PlannedVersion, archive: HandlerArchive, obstacle: str) -> "HandlerKeeper":
        """Find the keeper of an archive's program, or make it; whoever calls has the lock."""
        self._keepers = {key: keeper for key, keeper in self._keepers.items() if not keeper.is_gone}
        if archive.key not in self._keepers:
            from app.handlers.client.handler_keeper import HandlerKeeper

            def tell(archive: HandlerArchive, handler: "HandlerModel | None", reason: str) -> None:
                status = ArchiveStatus(reason, archive=archive, handler=handler, obstacle=obstacle)
                self._on_change(planned, status)

            self._keepers[archive.key] = HandlerKeeper(self._find_pools(), tell)
        return self._keepers[archive.key]
