"""Has the programs of model archives started, scaled and ended; each has a keeper of its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from app.config import Settings
from app.errors import ModelFolderError, SignatureError
from app.handlers.archive import HandlerArchive
from app.repository.model_repository import ModelFolder
from app.repository.signing import verify_content

if TYPE_CHECKING:
    from app.handlers.client import PoolClient
    from app.handlers.handler_model import HandlerModel
    from app.repository.handler_keeper import HandlerKeeper

PROGRAMS_ARE_OFF = (
    "it brings a program of its own, and programs that no trusted key has signed are not run here; "
    "SCANCER_PROGRAMS=all trusts every one"
)


def require_trust(path: Path, name: str, version: str, settings: Settings) -> None:
    """Raise `SignatureError` unless the program of an unpacked archive may be run.

    A signature that is there must hold, also where every program is trusted: it is there to be believed.
    """
    if verify_content(path, name, version, settings.instance) is None and settings.programs == "off":
        raise SignatureError(PROGRAMS_ARE_OFF)


class ArchiveStatus(NamedTuple):
    """Where an archive stands: ready if it has a handler, else starting or unavailable, for a reason.

    One with a handler and a reason answers, but is not as it was wanted last.
    """

    reason: str
    is_starting: bool = False
    archive: HandlerArchive | None = None
    handler: "HandlerModel | None" = None


class ArchiveLoader:
    """Starts archives, or finds them started by another worker.

    Args:
        settings: whether programs are run, and how they are confined.
        on_change: called with every change of an archive's status, from any thread.

    Thread safety: `load` and `close` from one thread at a time, `unload` from any.
    """

    def __init__(self, settings: Settings, on_change: Callable[[ModelFolder, ArchiveStatus], None]) -> None:
        self._settings = settings
        self._on_change = on_change
        self._keepers: dict[str, HandlerKeeper] = {}
        self.pools: PoolClient | None = None

    def load(self, folder: ModelFolder, limits: Mapping[str, float]) -> None:
        """Read an archive and have its program run as is wanted, if programs are run at all.

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
        try:
            require_trust(folder.path, folder.name, folder.version, self._settings)
        except ModelFolderError as error:
            self._on_change(folder, ArchiveStatus(error.message, archive=archive))
            return
        self._on_change(folder, ArchiveStatus("its handler is starting", is_starting=True, archive=archive))
        self._find_keeper(folder, archive).want(archive)

    def unload(self, archive: HandlerArchive, on_gone: Callable[[], None] = lambda: None) -> None:
        """Let an archive's processes go, once this worker's requests are answered; then `on_gone` is called."""
        keeper = self._keepers.get(archive.key)
        if keeper is None:
            on_gone()
        else:
            keeper.let_go(on_gone)

    def list_metrics(self) -> list[dict[str, Any]]:
        """The metrics that programs of archives have added, see `app.handlers.handler_metrics`."""
        return [] if self.pools is None else self.pools.list_metrics()

    def close(self) -> None:
        """Let the processes go; they end when no worker needs them."""
        if self.pools is not None:
            self.pools.close()

    def _find_keeper(self, folder: ModelFolder, archive: HandlerArchive) -> "HandlerKeeper":
        if self.pools is None:
            from app.handlers.client import PoolClient  # only a server of archives needs it

            self.pools = PoolClient(self._settings)
        self._keepers = {key: keeper for key, keeper in self._keepers.items() if not keeper.is_gone}
        if archive.key not in self._keepers:
            from app.repository.handler_keeper import HandlerKeeper

            def tell(archive: HandlerArchive, handler: "HandlerModel | None", reason: str) -> None:
                self._on_change(folder, ArchiveStatus(reason, archive=archive, handler=handler))

            self._keepers[archive.key] = HandlerKeeper(self.pools, tell)
        return self._keepers[archive.key]
