"""Which models this worker serves: by name and version, and the default of each name."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import BadRequestError, ModelNotFoundError, ModelVersionNotFoundError, ServiceUnavailableError
from app.handlers.client.handler_model import describe_lack_of_workers
from app.pipeline.served_model import ServedModel
from app.registry.model_entry import ModelEntry, State
from app.repository.model_folder import order_version
from app.state.wanted import Plan, Shadow


@dataclass(frozen=True)
class Snapshot:
    """What is served at one moment.

    Attributes:
        entries: by name, then version, both in order.
        defaults: the default version of each name.
        counted: names whose default version must be READY for the server to be; see `ServingTable.list_lacking`.
        is_settled: whether it is known what is wanted.
        shadows: the candidate of a model, by name.
    """

    entries: Mapping[str, Mapping[str, ModelEntry]] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    counted: frozenset[str] = frozenset()
    is_settled: bool = False
    shadows: Mapping[str, Shadow] = field(default_factory=dict)


class ServingTable:
    """How requests find the models. `ModelRegistry` alone publishes what stands in it.

    Thread safety: all methods may be called from any thread. A snapshot is never changed, only replaced, so that a
    reader sees one moment and needs no lock.
    """

    def __init__(self) -> None:
        self.now = Snapshot()

    def get(self, name: str, version: str | None = None) -> ModelEntry:
        """Return a version's entry, or the default's; raises `ModelNotFoundError` or `ModelVersionNotFoundError`."""
        now = self.now
        versions = now.entries.get(name)
        if not versions:
            raise ModelNotFoundError(f"Model not found: {name}")
        if version is None:
            return versions[now.defaults[name]]
        if version not in versions:
            raise ModelVersionNotFoundError(f"Model version: {version} does not exist for model: {name}")
        return versions[version]

    def get_served(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model that is ready to answer; raises as `get` and `require_served`."""
        return require_served(self.get(name, version), version)

    def borrow(self, name: str, version: str | None = None) -> ModelEntry:
        """Look a version up as `get`, and lend its model if it has one: not closed before `entry.holds.leave()`."""
        entry = self.get(name, version)
        while entry.holds is not None and not entry.holds.enter():  # it is being let go: another takes its place
            entry = self.get(name, version)
        return entry

    @contextmanager
    def lend(self, name: str, version: str | None = None) -> Iterator[ModelEntry]:
        """Lend a model until the block ends; see `borrow`."""
        entry = self.borrow(name, version)
        try:
            yield entry
        finally:
            if entry.holds is not None:
                entry.holds.leave()

    def entries(self) -> list[ModelEntry]:
        """Every version of every model, by name, versions from old to new."""
        return [entry for versions in self.now.entries.values() for entry in versions.values()]

    def defaults(self) -> list[ModelEntry]:
        """The default version of every model, by name."""
        now = self.now
        return [now.entries[name][version] for name, version in now.defaults.items()]

    def list_lacking(self) -> list[ModelEntry]:
        """The default versions that should be READY and are not.

        A model that came while the server ran counts once it has been loaded: a broken one takes no server out.
        """
        missing = [each for each in self.defaults() if each.wanted.is_loaded and each.state is not State.READY]
        return [entry for entry in missing if entry.folder.name in self.now.counted]

    @property
    def is_ready(self) -> bool:
        """Whether it is known what is wanted, and no default version is lacking."""
        return self.now.is_settled and not self.list_lacking()

    def versions(self, name: str) -> list[str]:
        """The versions of a model, from old to new; none where there is no such model."""
        return list(self.now.entries.get(name, {}))


def choose_default(entries: Mapping[str, ModelEntry], chosen: str | None, now: str | None) -> str:
    """Return the default version of one model, whose `entries` are from old to new.

    The chosen version. While that is not there or LOADING, the one that is the default `now`, if that is READY.
    Where nobody chose, the newest version that is READY; where none is, the newest.
    """
    if chosen is not None:
        is_awaited = chosen not in entries or entries[chosen].state is State.LOADING
        if is_awaited and now is not None and now in entries and entries[now].state is State.READY:
            return now
        if chosen in entries:
            return chosen
    ready = [version for version, entry in entries.items() if entry.state is State.READY]
    return (ready or list(entries))[-1]


def make_snapshot(entries: Iterable[ModelEntry], plan: Plan | None, now: Snapshot) -> Snapshot:
    """Put the entries of all versions together as they are served.

    `plan` is None before the first one. Of `now`, the snapshot before, the defaults stay while others are loaded, and
    the names go on counting; those in memory count from now on.
    """
    names: dict[str, dict[str, ModelEntry]] = {}
    for entry in sorted(entries, key=lambda each: (each.folder.name, order_version(each.folder.version))):
        names.setdefault(entry.folder.name, {})[entry.folder.version] = entry
    chosen = plan.state.defaults if plan is not None else {}
    defaults = {name: choose_default(each, chosen.get(name), now.defaults.get(name)) for name, each in names.items()}
    loaded = {name for name, versions in names.items() for each in versions.values() if each.is_in_memory}
    shadows = plan.state.shadows if plan is not None else {}
    return Snapshot(names, defaults, (now.counted | loaded) & names.keys(), plan is not None, shadows)


def require_served(entry: ModelEntry, version: str | None) -> ServedModel:
    """Return the model of an entry; `version` is what the caller said of it.

    Raises `ServiceUnavailableError` if it is not ready, and `BadRequestError` for an archive with its own program.
    """
    name = entry.wanted.name
    if entry.handler is not None:
        path = name if version is None else f"{name}/{version}"
        raise BadRequestError(f'Model "{name}" is answered by its handler; ask /predictions/{path}.')
    if entry.served is None:
        if not entry.wanted.is_loaded:
            raise ServiceUnavailableError(describe_lack_of_workers(name, version))
        raise ServiceUnavailableError(
            f'Model "{name}" is {entry.state} and cannot answer; see /models/{name}/{entry.folder.version}.'
        )
    return entry.served
