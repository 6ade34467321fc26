"""Changes what is wanted: register, scale, set the default, unregister. Texts and statuses are TorchServe's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.config.settings import Settings
from app.errors import (
    BadRequestError,
    ConflictError,
    InvalidModelError,
    InvalidModelVersionError,
    ModelFolderError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
)
from app.exchange.model_importer import open_source
from app.handlers.handler_archive import is_archive, read_archive
from app.processes.locks import hold_lock
from app.registry.model_arrivals import Arrival, find_lock, find_source, read_source, sweep
from app.repository.model_folder import find_model_folders
from app.repository.trust import require_trusted_source
from app.state.store_access import StoreAccess
from app.state.wanted import UNSAID_S, Key, Plan, PlannedVersion, WantedState, WantedVersion, make_plan

if TYPE_CHECKING:
    from app.state.state_store import Draft


@dataclass(frozen=True)
class Change:
    """A change that was made: to which version, the generation that workers reach by following it, and how many workers
    it has from then on at least.
    """

    key: Key
    generation: int
    workers: int = 0


@dataclass(frozen=True)
class Wishes:
    """What a caller says of a version that is to be registered; see `WantedVersion`.

    Without `workers`, an archive has as many as its own configuration says; any other model is not loaded.
    """

    model_name: str | None = None
    workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int = UNSAID_S
    startup_timeout_s: int = UNSAID_S


class ModelChanges:
    """Changes what is wanted, one transaction a change; the workers follow (`model_follower`).

    Every method raises `StateStoreError` if the store cannot be changed.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, settings: Settings, access: StoreAccess) -> None:
        self._settings = settings
        self._access = access

    def plan(self) -> Plan:
        """What is to be served, as the folders and the store say at this moment."""
        folders = find_model_folders(self._settings.models)  # first: one that is seen was announced in the store before
        return make_plan(folders, self._access.open().read() if self._access.exists() else WantedState())

    def set_default(self, name: str, version: str) -> Change:
        """Make a version the default.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none.
        """
        with self._draft() as (draft, plan):
            if version not in find_versions(plan, name):
                raise ModelVersionNotFoundError(f"Model version {version} does not exist for model {name}")
            draft.defaults[name] = version
        return Change((name, version), draft.generation)

    def scale(self, name: str, version: str | None, min_workers: int, max_workers: int) -> Change:
        """Say how many workers a version is to have, the default one unless it is named.

        Raises:
            BadRequestError: the numbers contradict each other.
            ModelNotFoundError, ModelVersionNotFoundError: there is none.
        """
        if max_workers < min_workers:
            raise BadRequestError("max_worker cannot be less than min_worker.")
        if min_workers < 0:
            raise BadRequestError("min_worker cannot be less than 0.")
        with self._draft() as (draft, plan):
            planned = find_version(plan, name, version)
            draft.put(replace(planned.wanted, min_workers=min_workers, max_workers=max_workers))
            draft.defaults[name] = plan.find_default(name)
        return Change(planned.wanted.key, draft.generation)

    def load(self, name: str) -> list[Change]:
        """Have every version of a model in memory, with as many workers at most as it was to have.

        Raises:
            ModelNotFoundError: there is none.
        """
        return self._load(name, is_loaded=True)

    def unload(self, name: str) -> list[Change]:
        """Have no version of a model in memory; all stay registered. Raises `ModelNotFoundError`."""
        return self._load(name, is_loaded=False)

    def _load(self, name: str, is_loaded: bool) -> list[Change]:
        with self._draft() as (draft, plan):
            versions = [planned.wanted for planned in find_versions(plan, name).values()]
            for wanted in versions:
                if wanted.is_loaded is not is_loaded:
                    most = max(1, wanted.max_workers)
                    draft.put(replace(wanted, min_workers=int(is_loaded), max_workers=most))
            draft.defaults[name] = plan.find_default(name)
        return [Change(wanted.key, draft.generation) for wanted in versions]

    def unregister(self, name: str, version: str | None) -> Change:
        """Let a version go, the default one unless it is named; call `sweep` once the workers have followed.

        A folder that this server made is removed then; one that somebody put there stays, and is not served.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none.
            InvalidModelVersionError: it is the default, and there are others.
        """
        with self._draft() as (draft, plan):
            wanted = find_version(plan, name, version).wanted
            others = plan.versions[name].keys() - {wanted.version}
            if others and wanted.version == plan.find_default(name):
                raise InvalidModelVersionError(f"Cannot remove default version for model {name}")
            if wanted.token is None:
                draft.put(replace(wanted, is_registered=False))
            else:
                del draft.versions[wanted.key]
                draft.strays.add(wanted.token)
            if not others:
                draft.defaults.pop(name, None)
        return Change(wanted.key, draft.generation)

    def register(self, url: str, wishes: Wishes) -> Change:
        """Register what a bare name names: a model folder or archive in `SCANCER_STORE`, or one that was unregistered.

        Raises:
            ModelNotFoundError: there is none, or the name is none.
            InvalidModelError: it is no model that can be served.
            ConflictError: the version is registered already.
            DiskFullError: the disk is full.
        """
        source = find_source(url, self._settings.store)
        with hold_lock(find_lock(self._settings)):
            sweep(self._settings, self._access)
            if source is None:
                return self._register_again(url, wishes)
            if source.is_dir():
                with translate_reasons():
                    require_trusted_source(source, *read_source(source, wishes.model_name), self._settings)
                return self._register_folder(source, url, wishes)
            return self._register_file(source, url, wishes)

    def register_file(self, source: Path, url: str, wishes: Wishes, manifest: Path | None = None) -> Change:
        """Register a file that came over a network and lies in quarantine; it is the caller's to remove.

        `manifest` is the `model.toml` of an artifact that comes alone.

        Raises:
            InvalidModelError, ConflictError, DiskFullError: as `register`.
        """
        with hold_lock(find_lock(self._settings)):
            sweep(self._settings, self._access)
            return self._register_file(source, url, wishes, manifest)

    def _register_file(self, source: Path, url: str, wishes: Wishes, manifest: Path | None = None) -> Change:
        with translate_reasons(), open_source(source, self._settings, manifest) as folder:
            return self._register_folder(folder, url, wishes)

    def _register_folder(self, source: Path, url: str, wishes: Wishes) -> Change:
        """Register a model folder, or an unpacked archive, that lies outside of the models."""
        key = read_source(source, wishes.model_name)
        with self._draft() as (draft, plan):
            check_free(draft, plan, key)
            arrival = Arrival.announce(self._settings.models, key)
            draft.strays.add(arrival.token)
        try:
            arrival.bring(source)
            with self._draft() as (draft, plan):
                check_free(draft, plan, key)
                draft.strays.discard(arrival.token)
                wanted = self._make_wanted(key, url, arrival.token, wishes, source)
                self._put(draft, plan, wanted)
        finally:  # of what came to its end there is nothing to sweep
            sweep(self._settings, self._access)
        return Change(key, draft.generation, wanted.min_workers)

    def sweep(self) -> None:
        """Remove the folders that this server made and that belong to no version any more."""
        with hold_lock(find_lock(self._settings)):
            sweep(self._settings, self._access)

    def _register_again(self, url: str, wishes: Wishes) -> Change:
        """Serve a folder among the models once more that was unregistered."""
        with self._draft() as (draft, plan):
            known = [each for each in draft.versions.values() if each.url == url and not each.is_registered]
            if not known:
                name, _, version = url.partition("/")
                if version in plan.versions.get(name, {}):
                    raise already_registered((name, version))
                raise ModelNotFoundError(f"Model not found at: {url}")
            key = known[0].key
            wanted = self._make_wanted(key, url, None, wishes, self._settings.models / key[0] / key[1])
            self._put(draft, plan, wanted)
        return Change(key, draft.generation, wanted.min_workers)

    def _make_wanted(self, key: Key, url: str, token: str | None, wishes: Wishes, source: Path) -> WantedVersion:
        """What is wanted of a version that is registered; `source` is a folder of it."""
        said = wishes.workers
        least, most = find_workers(source) if said is None else (said, said)
        return WantedVersion(
            *key,
            url=url,
            token=token,
            min_workers=least,
            max_workers=most,
            batch_size=wishes.batch_size,
            max_batch_delay_ms=wishes.max_batch_delay_ms,
            response_timeout_s=wishes.response_timeout_s,
            startup_timeout_s=wishes.startup_timeout_s,
        )

    def _put(self, draft: "Draft", plan: Plan, wanted: WantedVersion) -> None:
        """Add a version; the first of a model is its default, and stays so when others come."""
        draft.put(wanted)
        draft.defaults[wanted.name] = plan.find_default(wanted.name) if wanted.name in plan.versions else wanted.version

    @contextmanager
    def _draft(self) -> Iterator[tuple["Draft", Plan]]:
        """Change the state, beside the plan that it makes with the folders that are there."""
        with self._access.open().change() as draft:
            yield draft, make_plan(find_model_folders(self._settings.models), draft.freeze())


@contextmanager
def translate_reasons() -> Iterator[None]:
    """Turn the reasons why an archive is not taken into errors that callers are told."""
    try:
        yield
    except ModelFolderError as error:
        raise InvalidModelError(error.message) from error


def find_workers(source: Path) -> tuple[int, int]:
    """Return the least and the most workers of a registration that names none: an archive may say, others get none."""
    archive = read_archive(source, "", "") if is_archive(source) else None
    if archive is None or "minWorkers" not in archive.config:
        return 0, 0
    return archive.limits.min_workers, archive.limits.max_workers


def find_versions(plan: Plan, name: str) -> dict[str, PlannedVersion]:
    """The versions of a model; raises `ModelNotFoundError`."""
    if name not in plan.versions:
        raise ModelNotFoundError(f"Model not found: {name}")
    return dict(plan.versions[name])


def find_version(plan: Plan, name: str, version: str | None) -> PlannedVersion:
    """A version, the default one unless it is named; raises `ModelNotFoundError` or `ModelVersionNotFoundError`."""
    versions = find_versions(plan, name)
    if version is None:
        return versions[plan.find_default(name)]
    if version not in versions:
        raise ModelVersionNotFoundError(f"Model version: {version} does not exist for model: {name}")
    return versions[version]


def check_free(draft: "Draft", plan: Plan, key: Key) -> None:
    """Raise `ConflictError` unless nothing has the place of a version."""
    name, version = key
    if version in plan.versions.get(name, {}):
        raise already_registered(key)
    if key in draft.versions and draft.versions[key].token is None and not draft.versions[key].is_registered:
        raise ConflictError(f"A folder among the models holds {name}/{version}: register url={draft.versions[key].url}")


def already_registered(key: Key) -> ConflictError:
    """TorchServe's error for a version that is there."""
    return ConflictError(f"Model version {key[1]} is already registered for model {key[0]}")
