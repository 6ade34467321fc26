"""Has the programs of model archives started, each in a thread of its own: one that hangs delays no other model."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from app.config import Settings
from app.errors import ModelFolderError
from app.handlers.archive import HandlerArchive
from app.repository.model_repository import ModelFolder

if TYPE_CHECKING:
    from app.handlers.client import PoolClient
    from app.handlers.handler_model import HandlerModel

PROGRAMS_ARE_OFF = (
    "it brings a program of its own, and programs are not run here; SCANCER_PROGRAMS=all trusts every one"
)


class ArchiveStatus(NamedTuple):
    """Where an archive stands: ready if it has a handler, else starting or unavailable, for a reason."""

    reason: str
    is_starting: bool = False
    archive: HandlerArchive | None = None
    handler: "HandlerModel | None" = None


class ArchiveLoader:
    """Starts archives, or finds them started by another worker.

    Args:
        settings: whether programs are run, and how they are confined.
        on_change: called with every change of an archive's status, from any thread.
    """

    def __init__(self, settings: Settings, on_change: Callable[[ModelFolder, ArchiveStatus], None]) -> None:
        self._settings = settings
        self._on_change = on_change
        self._pools: PoolClient | None = None

    def load(self, folder: ModelFolder, limits: Mapping[str, float]) -> None:
        """Read an archive and have its program started, if programs are run at all.

        Args:
            folder: of the unpacked archive.
            limits: fields of its `PoolLimits` that go before what the archive says.
        """
        try:
            archive = folder.read_archive()
            archive = replace(archive, limits=replace(archive.limits, **limits))  # type: ignore[arg-type]  # by name
        except ModelFolderError as error:
            self._on_change(folder, ArchiveStatus(error.message))
            return
        if self._settings.programs == "off":
            self._on_change(folder, ArchiveStatus(PROGRAMS_ARE_OFF, archive=archive))
            return
        if self._pools is None:
            from app.handlers.client import PoolClient  # only a server of archives needs it

            self._pools = PoolClient(self._settings)
        self._on_change(folder, ArchiveStatus("its handler is starting", is_starting=True, archive=archive))
        start = threading.Thread(target=self._start, args=(folder, archive, self._pools), daemon=True)
        start.name = f"start-{archive.name}"
        start.start()

    def _start(self, folder: ModelFolder, archive: HandlerArchive, pools: "PoolClient") -> None:
        from app.handlers.handler_model import HandlerModel

        try:
            pools.register(archive)
        except ModelFolderError as error:
            self._on_change(folder, ArchiveStatus(error.message, archive=archive))
        else:
            self._on_change(folder, ArchiveStatus("", archive=archive, handler=HandlerModel(archive, pools)))

    def unload(self, archive: HandlerArchive) -> None:
        """End an archive's processes, for all workers."""
        if self._pools is not None:
            self._pools.unregister(archive)

    def close(self) -> None:
        """Let the processes go; they end when no worker needs them."""
        if self._pools is not None:
            self._pools.close()
