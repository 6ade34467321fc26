"""Which models this worker serves: by name and version, and the default of each name."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import BadRequestError, ModelNotFoundError, ModelVersionNotFoundError, ServiceUnavailableError
from app.handlers.client.handler_model import HandlerModel, describe_lack_of_workers
from app.pipeline.served_model import ServedModel
from app.registry.model_entry import ModelEntry, State, sort_versions
from app.state.wanted import Key


class ServingTable:
    """The entries of all versions, and how requests find theirs.

    Thread safety: all methods may be called from any thread. The dictionaries are never changed, only replaced, so a
    reader sees one moment and needs no lock.
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, ModelEntry]] = {}
        self._defaults: dict[str, str] = {}
        self._unloading: set[Key] = set()
        self._scaling: dict[Key, State] = {}
        self._counted: frozenset[str] = frozenset()

    def get(self, name: str, version: str | None = None) -> ModelEntry:
        """Return the entry of a version, or of the default version.

        Raises:
            ModelNotFoundError: no such model.
            ModelVersionNotFoundError: no such version of it.
        """
        versions = self._entries.get(name)
        if not versions:
            raise ModelNotFoundError(f"Model not found: {name}")
        if version is None:
            return versions.get(self._defaults.get(name, "")) or sort_versions(versions)[-1]
        if version not in versions:
            raise ModelVersionNotFoundError(f"Model version: {version} does not exist for model: {name}")
        return versions[version]

    def get_served(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model that is ready to answer.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: as `get`.
            ServiceUnavailableError: it is not ready; its reason stands in `/models/<name>`.
            BadRequestError: it is an archive with a program of its own, which only `/predictions` asks.
        """
        entry = self.get(name, version)
        if entry.handler is not None:
            raise BadRequestError(
                f'Model "{name}" has a program of its own, which answers at /predictions/{name} only.'
            )
        if entry.served is None:
            if not entry.wanted.is_loaded:
                raise ServiceUnavailableError(describe_lack_of_workers(name, version))
            raise ServiceUnavailableError(
                f'Model "{name}" is {entry.state} and cannot answer; see /models/{name}/{entry.folder.version}.'
            )
        return entry.served

    @contextmanager
    def lend(self, name: str, version: str | None = None) -> Iterator[ServedModel]:
        """Lend a model for one request: it is not closed before the block ends; raises as `get_served`."""
        served = self.get_served(name, version)
        while not served.enter():  # it is being let go, so another one, or none, is in its place
            served = self.get_served(name, version)
        try:
            yield served
        finally:
            served.leave()

    @contextmanager
    def lend_handler(self, name: str, version: str | None = None) -> Iterator[HandlerModel | None]:
        """Lend the program of a model archive for one request; None if the model is none.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: as `get`.
        """
        handler = self.get(name, version).handler
        while handler is not None and not handler.enter():  # as above
            handler = self.get(name, version).handler
        try:
            yield handler
        finally:
            if handler is not None:
                handler.leave()

    def entries(self) -> list[ModelEntry]:
        """Every version of every model, by name, versions from old to new."""
        return [entry for _, versions in sorted(self._entries.items()) for entry in sort_versions(versions)]

    def defaults(self) -> list[ModelEntry]:
        """The default version of every model, by name."""
        return [self.get(name) for name in sorted(self._entries)]

    def list_lacking(self) -> list[ModelEntry]:
        """The default versions that should be READY and are not.

        A model that came while the server ran counts once it has been READY: a broken one takes no server out.
        """
        counted = self._counted
        return [entry for entry in self.defaults() if entry.folder.name in counted and not entry.is_as_wanted]

    def versions(self, name: str) -> list[str]:
        """The versions of a model, from old to new."""
        return [entry.folder.version for entry in sort_versions(self._entries[name])]

    def states(self) -> dict[str, str]:
        """The state of every version by `name/version`, those that are being let go among them."""
        states = {f"{name}/{version}": State.UNLOADING.value for name, version in tuple(self._unloading)}
        states |= {"/".join(entry.key): entry.state.value for entry in self.entries()}
        return states | {"/".join(key): state.value for key, state in tuple(self._scaling.items())}

    def _find(self, key: Key) -> ModelEntry | None:
        return self._entries.get(key[0], {}).get(key[1])
