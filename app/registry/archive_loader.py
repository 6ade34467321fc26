"""Has model archives served: compiled where TorchServe's default classifier answers, else by their own programs.

What is compiled is served in the HTTP workers, as our own models are. Each attempt has a thread of its
own: an archive that takes long, or hangs, delays no other model.
"""

import logging
from contextlib import suppress
from dataclasses import asdict, replace

from app.compiling.archive_compiler import compile_archive
from app.config.settings import Settings
from app.errors import InferenceError, ModelFolderError, ModelProcessError
from app.handlers.client.explainer import Explainer
from app.handlers.client.handler_model import HandlerModel
from app.handlers.client.pool_client import PoolClient
from app.handlers.handler_archive import HandlerArchive, PoolLimits
from app.handlers.worker.default_classifier import find_obstacle
from app.registry.model_entry import ModelEntry, State, digest
from app.registry.model_loader import ModelLoader
from app.registry.version_slot import Attempt, describe_fault
from app.repository.model_content import hash_part, list_content
from app.repository.model_folder import ARCHIVE_FOLDER
from app.repository.signing import SIGNATURE_FILE, require_trust

log = logging.getLogger(__name__)

MARGIN_S = 5.0
"""A handler that is let go is waited for this much longer than one of its answers may take."""


class ArchiveLoader:
    """Loads, scales and lets go archives; `pools` runs their programs.

    Thread safety: all methods may be called from any thread, for one archive from one at a time.
    """

    def __init__(self, settings: Settings, loader: ModelLoader) -> None:
        self._settings = settings
        self._loader = loader
        self.pools = PoolClient(settings)

    def load(self, attempt: Attempt) -> ModelEntry:
        """Compile an archive, or start its program; raises `ModelFolderError` with the reason."""
        archive = self._read(attempt)
        content = {
            path.relative_to(archive.path).as_posix(): hash_part(path, None) for path in list_content(archive.path)
        }
        archive = replace(archive, identity=f"{archive.identity} {digest(content)}")
        attempt.draft = replace(attempt.draft, archive=archive, content=content)
        if (archive.path / SIGNATURE_FILE).exists():
            attempt.tell("its signature is being verified")
        require_trust(archive.path, archive.name, archive.version, self._settings)
        obstacle = find_obstacle(archive)
        if not obstacle:
            attempt.tell("it is being compiled")
            try:
                manifest, report = compile_archive(archive, self._settings)
                entry = self._loader.load_report(attempt, manifest, report, ARCHIVE_FOLDER)
                return replace(entry, explainer=Explainer(archive, lambda: self.pools))
            except (ModelFolderError, InferenceError) as error:
                obstacle = describe_fault(error)
                extra = {"model": archive.name, "version": archive.version, "reason": obstacle}
                log.warning("archive is not compiled, its handler answers", extra=extra)
        return self._start_handler(attempt, archive, obstacle)

    def scale(self, attempt: Attempt, running: ModelEntry) -> ModelEntry:
        """Bring the pool of a running handler to the limits that are wanted; raises `ModelFolderError`."""
        assert running.archive is not None, "what runs was read"
        archive = replace(self._read(attempt), identity=running.archive.identity)
        self.pools.scale(archive, **asdict(archive.limits))
        if running.handler is not None:
            running.handler.follow(archive.limits)
        return replace(running, reason="", archive=archive)

    def let_go(self, entry: ModelEntry) -> None:
        """End what an archive runs here, once this worker's requests are answered."""
        if entry.explainer is not None:
            entry.explainer.close()
        if entry.handler is None or entry.archive is None:
            return
        entry.handler.retire(entry.archive.limits.response_timeout_s + MARGIN_S)
        with suppress(ModelProcessError):  # the manager is lost, and all pools with it
            self.pools.unregister(entry.archive)

    def _read(self, attempt: Attempt) -> HandlerArchive:
        """Read an archive, with the limits that are wanted of its pool."""
        default = PoolLimits(response_timeout_s=self._settings.response_timeout_s)
        return attempt.planned.limit(attempt.planned.folder.read_archive(default))

    def _start_handler(self, attempt: Attempt, archive: HandlerArchive, obstacle: str) -> ModelEntry:
        attempt.tell("its handler is starting")
        attempt.program = archive  # first: either this sees that the attempt is dropped, or who drops it sees this
        if attempt.is_dropped:
            raise ModelFolderError("it is no longer wanted")
        self.pools.register(archive)
        ready = replace(attempt.draft, state=State.READY, reason="", engine="handler", obstacle=obstacle)
        return replace(ready, handler=HandlerModel(archive, self.pools))
