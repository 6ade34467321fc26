"""What is wanted of the models: their versions, the default of each, workers and batches.

`state_store` keeps it, `model_changes` changes it, and every worker follows it (`model_follower`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from app.errors import ManifestError, ModelNotFoundError, ModelVersionNotFoundError
from app.handlers.handler_archive import HandlerArchive
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import BatchSpec
from app.repository.model_folder import ModelFolder, order_version

UNSAID_S = 0
"""Stands for a time that nobody asked for, since its column in the store may not be empty."""
Key = tuple[str, str]
"""Name and version of a model."""


@dataclass(frozen=True)
class WantedVersion:
    """What is wanted of one version of a model.

    Attributes:
        url: where it came from, as `POST /models?url=` takes it.
        is_registered: False for a folder among the models that is not to be served.
        token: marks a folder that this server made, see `model_arrivals`; None for a folder that somebody put there.
        min_workers, max_workers: as TorchServe counts them; with a minimum of 0 the version is not loaded.
        batch_size, max_batch_delay_ms: override the manifest's or the archive's; None: they do not.
        response_timeout_s, startup_timeout_s: override the archive's and the server's; `UNSAID_S`: they do not.
        fault: why the version cannot be served as it is kept: numbers of the store were out of bounds, and their
            defaults stand here. Empty if all were sound. A version with a fault is not loaded, and says so; a program
            that runs already answers on.
    """

    name: str
    version: str
    url: str
    is_registered: bool = True
    token: str | None = None
    min_workers: int = 1
    max_workers: int = 1
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int = UNSAID_S
    startup_timeout_s: int = UNSAID_S
    fault: str = ""

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.name, self.version

    @property
    def is_loaded(self) -> bool:
        """Whether the version is to be in memory."""
        return self.min_workers > 0

    def is_loaded_as(self, other: "WantedVersion") -> bool:
        """Whether a model that was loaded for one wish serves the other as well."""
        names = ("is_loaded", "token", "batch_size", "max_batch_delay_ms", "fault")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def require_sound(self) -> None:
        """Raise `ManifestError` with the fault, if there is one."""
        if self.fault:
            raise ManifestError(self.fault)

    def list_pool_limits(self) -> dict[str, float]:
        """The limits of a handler's pool that somebody asked for; the archive gives the others."""
        limits: dict[str, float | None] = {
            "min_workers": self.min_workers,
            "max_workers": self.max_workers,
            "batch_size": self.batch_size,
            "max_batch_delay_ms": self.max_batch_delay_ms,
            "response_timeout_s": self.response_timeout_s or None,
            "startup_timeout_s": self.startup_timeout_s or None,
        }
        return {name: value for name, value in limits.items() if value is not None}

    def choose_batch(self, manifest: ModelManifest) -> BatchSpec:
        """How pictures are batched: as somebody asked for, else as the manifest says."""
        size, delay_ms = self.batch_size, self.max_batch_delay_ms
        return BatchSpec(
            manifest.batch.max_size if size is None else size,
            manifest.batch.max_delay_ms if delay_ms is None else float(delay_ms),
        )


@dataclass(frozen=True)
class Shadow:
    """A candidate that answers a `share` of the pictures of a model's default version too, unseen by the callers."""

    version: str
    share: float


@dataclass(frozen=True)
class WantedState:
    """All that is wanted, at one generation.

    Attributes:
        generation: grows with every change; 0 if there never was one.
        versions: those that somebody registered or changed; a folder that is not among them is served as it is.
        defaults: the default version by model, where one was chosen; for others see `Plan.find_default`.
        strays: tokens of folders that this server made and that belong to no version; they are removed soon.
        loads: the generation at which somebody last asked for a model to be loaded as its files are then, by name.
        shadows: the candidate of a model, by name.
    """

    generation: int = 0
    versions: Mapping[Key, WantedVersion] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    strays: frozenset[str] = frozenset()
    loads: Mapping[str, int] = field(default_factory=dict)
    shadows: Mapping[str, Shadow] = field(default_factory=dict)

    def list_changed(self, before: "WantedState", served: Mapping[str, str]) -> frozenset[Key]:
        """The versions that were changed after another state, or chosen in place of the default that is `served`."""
        changed = {key for key, wanted in self.versions.items() if before.versions.get(key) != wanted}
        return frozenset(changed | (self.defaults.items() - before.defaults.items() - served.items()))


@dataclass(frozen=True)
class PlannedVersion:
    """A version that is to be served, its folder, and whether somebody registered or changed it."""

    folder: ModelFolder
    wanted: WantedVersion
    is_said: bool = False

    def list_pool_limits(self) -> dict[str, float]:
        """The limits of a handler's pool that somebody asked for; none for a folder that nobody changed."""
        return self.wanted.list_pool_limits() if self.is_said else {}

    def limit(self, archive: HandlerArchive) -> HandlerArchive:
        """Return an archive with the limits that somebody asked for; raises `ManifestError` for a fault."""
        self.wanted.require_sound()
        return replace(archive, limits=replace(archive.limits, **self.list_pool_limits()))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Plan:
    """What is to be served: versions by name, from old to new.

    `ready` are those that some worker reports as READY.
    """

    state: WantedState
    versions: Mapping[str, Mapping[str, PlannedVersion]]
    ready: frozenset[Key] = frozenset()

    def find_default(self, name: str) -> str:
        """The default version of a model: the chosen one, else the newest that is ready, else the newest."""
        chosen, versions = self.state.defaults.get(name), self.versions[name]
        if chosen is not None and chosen in versions:
            return chosen
        ready = [version for version in versions if (name, version) in self.ready]
        return (ready or list(versions))[-1]

    def find_versions(self, name: str) -> Mapping[str, PlannedVersion]:
        """Return the versions of a model; raises `ModelNotFoundError`."""
        if name not in self.versions:
            raise ModelNotFoundError(f"Model not found: {name}")
        return self.versions[name]

    def find_version(self, name: str, version: str | None) -> PlannedVersion:
        """Return a version of a model, or its default; raises `ModelNotFoundError` or `ModelVersionNotFoundError`."""
        versions = self.find_versions(name)
        if version is None:
            return versions[self.find_default(name)]
        if version not in versions:
            raise ModelVersionNotFoundError(f"Model version: {version} does not exist for model: {name}")
        return versions[version]


def make_plan(folders: Iterable[ModelFolder], state: WantedState, ready: frozenset[Key] = frozenset()) -> Plan:
    """Decide which folders are served, and with which settings; for `ready` see `Plan`."""
    versions: dict[str, dict[str, PlannedVersion]] = {}
    for folder in sorted(folders, key=lambda each: (each.name, order_version(each.version))):
        key = folder.name, folder.version
        wanted = state.versions.get(key, WantedVersion(*key, url=f"{folder.name}/{folder.version}"))
        token = folder.read_token()
        if token in state.strays or not wanted.is_registered or (wanted.token and token != wanted.token):
            continue
        versions.setdefault(folder.name, {})[folder.version] = PlannedVersion(folder, wanted, key in state.versions)
    return Plan(state, versions, ready)
