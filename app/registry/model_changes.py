"""Changes which models are wanted: register, scale, set the default, unregister.

Errors about what TorchServe's API also knows have TorchServe's texts and statuses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.config.settings import Settings
from app.errors import (
    BadRequestError,
    ConflictError,
    InvalidModelVersionError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    ScancerError,
)
from app.exchange.admission import admit
from app.exchange.model_importer import bring, rename
from app.exchange.quarantine import Arrival, Quarantine, use_quarantine
from app.handlers.handler_archive import HandlerArchive
from app.manifest.model_manifest import ModelManifest
from app.processes.atomic import synchronize_tree
from app.registry.model_arrivals import already_registered, check_free, check_sha256, find_source, make_token, sweep
from app.repository.model_folder import TOKEN_FILE, ModelFolder, find_model_folders
from app.state.store_access import StoreAccess
from app.state.wanted import UNSAID_S, Key, Plan, Shadow, WantedVersion, make_plan
from app.state.worker_reports import find_ready

if TYPE_CHECKING:
    from app.state.state_store import Draft


@dataclass(frozen=True)
class Change:
    """A change that was made to the version `key`.

    Attributes:
        generation: once they have followed the change, workers report this number or a larger one.
        workers: how many workers a registration asks for at least; 0 for any other change.
        token: marks the folder, if the change registered or unregistered one that this server made.
    """

    key: Key
    generation: int
    workers: int = 0
    token: str | None = None


@dataclass(frozen=True)
class Wishes:
    """The parameters of a registration; see `WantedVersion`.

    Without `workers`, an archive has as many as its own configuration says; any other model is not loaded. `handler`
    takes the place of the archive's own.
    """

    model_name: str | None = None
    handler: str | None = None
    workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int = UNSAID_S
    startup_timeout_s: int = UNSAID_S


class ModelChanges:
    """Changes what is wanted, in one transaction a change; the workers follow (`model_follower`).

    No method holds the store's lock for more than milliseconds; a registration also holds its quarantine, and the
    version's compilation. Every method raises `StateStoreError` if the
    store cannot be changed, and `DiskFullError`. One that takes a name, or a version, raises `ModelNotFoundError` or
    `ModelVersionNotFoundError` if there is none. Without a version it takes the default one.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, settings: Settings, access: StoreAccess) -> None:
        self._settings = settings
        self._access = access

    def plan(self) -> Plan:
        """Return what is to be served now, by the folders and the store."""
        folders = find_model_folders(self._settings.models)  # first: one that is seen was announced in the store before
        return make_plan(folders, self._access.read(), find_ready(self._settings.instance))

    def set_default(self, name: str, version: str) -> Change:
        """Make a version the default."""
        with self._draft() as (draft, plan):
            if version not in plan.find_versions(name):
                raise ModelVersionNotFoundError(f"Model version {version} does not exist for model {name}")
            draft.defaults[name] = version
            end_shadow(draft, name, version)
        return Change((name, version), draft.generation)

    def set_shadow(self, name: str, version: str, share: float) -> Change:
        """Have a candidate answer a share of the pictures of the default version too; 0 ends it.

        Raises `BadRequestError` for the default version itself, and for a model archive.
        """
        with self._draft() as (draft, plan):
            planned = plan.find_version(name, version)
            if share and version == plan.find_default(name):
                raise BadRequestError(f"{name}/{version} is the default version, which answers every picture already.")
            if planned.folder.is_archive:
                raise BadRequestError(f"{name}/{version} is a model archive, whose answers need not be classes.")
            if share:
                draft.shadows[name] = Shadow(version, share)
            else:
                end_shadow(draft, name, version)
        return Change((name, version), draft.generation)

    def scale(self, name: str, version: str | None, min_workers: int, max_workers: int) -> Change:
        """Set how many workers a version is to have, and keep the model's default version as it is now.

        Raises `BadRequestError` if the numbers contradict each other.
        """
        if max_workers < min_workers:
            raise BadRequestError("max_worker cannot be less than min_worker.")
        if min_workers < 0:
            raise BadRequestError("min_worker cannot be less than 0.")
        with self._draft() as (draft, plan):
            planned = plan.find_version(name, version)
            draft.put(replace(planned.wanted, min_workers=min_workers, max_workers=max_workers))
            draft.defaults[name] = plan.find_default(name)
        return Change(planned.wanted.key, draft.generation)

    def set_loaded(self, name: str, is_loaded: bool) -> list[Change]:
        """Have every version of a model loaded as its files are now, or unloaded; all stay registered.

        Where it is not so already, `min_workers` becomes 1 or 0; `max_workers` stays, but is at least 1. Versions that
        wait for their first request go on waiting.
        """
        with self._draft() as (draft, plan):
            versions = [planned.wanted for planned in plan.find_versions(name).values()]
            for wanted in versions:
                if wanted.is_loaded is not is_loaded:
                    most = max(1, wanted.max_workers)
                    draft.put(replace(wanted, min_workers=int(is_loaded), max_workers=most))
            draft.defaults[name] = plan.find_default(name)
            if is_loaded:
                draft.loads[name] = draft.generation
        return [Change(wanted.key, draft.generation) for wanted in versions]

    def unregister(self, name: str, version: str | None) -> Change:
        """Unregister a version. Call `sweep` once the workers have followed.

        The sweep removes a folder that this server made. A folder that somebody put there stays, and is not served.
        Raises `InvalidModelVersionError` if the version is the default, and there are others.
        """
        with self._draft() as (draft, plan):
            wanted = plan.find_version(name, version).wanted
            others = plan.versions[name].keys() - {wanted.version}
            if others and wanted.version == plan.find_default(name):
                raise InvalidModelVersionError(f"Cannot remove default version for model {name}")
            let_go(draft, plan, wanted)
        return Change(wanted.key, draft.generation, token=wanted.token)

    def withdraw(self, change: Change) -> Change:
        """Take a registration back, also of a default; raises `ConflictError` if somebody else has unregistered it."""
        with self._draft() as (draft, plan):
            wanted = draft.versions.get(change.key)
            if wanted is None or wanted.token != change.token or not wanted.is_registered:
                name, version = change.key
                raise ConflictError(f"Model version {version} of model {name} was unregistered while it was loaded")
            let_go(draft, plan, wanted)
        return Change(wanted.key, draft.generation)

    def register(self, url: str, wishes: Wishes, sha256: str | None = None) -> Change:
        """Register the model folder or archive of that name in `SCANCER_STORE`, or a folder that was unregistered.

        Raises as `check_sha256`, `ModelNotFoundError` if there is none of that name, `ModelFolderError` with the reason
        if it cannot be served, `ConflictError` if its place is not free, and `DiskFullError`.
        """
        source = find_source(url, self._settings.store)
        check_sha256(source, sha256)
        return self.register_again(url, wishes) if source is None else self.register_file(source, url, wishes)

    def register_file(
        self, source: Path, url: str, wishes: Wishes, manifest: Path | None = None, own: Quarantine | None = None
    ) -> Change:
        """Register a file, or a folder of `SCANCER_STORE`; raises as `register`.

        No other change waits for this: what takes long happens in quarantine, before the store is changed. A source
        that lies in the quarantine `own` may be moved; without `own`, a new quarantine is used. `manifest` is the
        `model.toml` of an artifact that comes alone. Callers will read `url` as where the source came from.
        """
        settings, name = self._settings, wishes.model_name or None
        self.sweep()
        with use_quarantine(settings.models, own) as quarantine:
            arrival = bring(source, manifest, quarantine, settings, name, wishes.handler)
            key = name or arrival.folder.name, arrival.folder.version
            check_free(self.plan(), key, settings)  # before anything that takes long
            admit(arrival, settings)
            arrival = rename(arrival, name, settings)
            return self._publish(arrival, quarantine, url, wishes)

    def _publish(self, arrival: Arrival, quarantine: Quarantine, url: str, wishes: Wishes) -> Change:
        """Put an admitted model into its place and its row into the store: both, or neither."""
        key, token = arrival.key, make_token(quarantine, arrival.key)
        (arrival.folder.path / TOKEN_FILE).write_text(token, encoding="ascii")
        synchronize_tree(arrival.folder.path.parent)
        wanted = want_registered(key, url, token, wishes, arrival.manifest)
        try:
            with self._access.open().change() as draft:
                draft.strays.add(token)
            with self._draft() as (draft, plan):
                check_free(plan, key, self._settings)
                quarantine.publish(arrival.folder)
                draft.strays.discard(token)
                put(draft, plan, wanted)
        except (ScancerError, OSError):
            sweep(self._settings, self._access, ended=token)
            raise
        return Change(key, draft.generation, wanted.min_workers, token)

    def sweep(self, gone: Change | None = None) -> None:
        """Remove what no version owns, and `gone` whoever holds its quarantine; raises as `model_arrivals.sweep`."""
        sweep(self._settings, self._access, ended=(gone.token or "") if gone else "")

    def register_again(self, url: str, wishes: Wishes) -> Change:
        """Serve a folder among the models again that was unregistered; raises as `register`.

        It keeps its name: `BadRequestError` for another one in `wishes`.
        """
        with self._draft() as (draft, plan):
            known = [each for each in draft.versions.values() if each.url == url and not each.is_registered]
            if not known:
                name, _, version = url.partition("/")
                if version in plan.versions.get(name, {}):
                    raise already_registered((name, version))
                raise ModelNotFoundError(f"Model not found at: {url}")
            if wishes.handler is not None:
                raise BadRequestError(
                    "handler can be chosen for an archive that comes from SCANCER_STORE or a URL alone."
                )
            key = known[0].key
            if wishes.model_name not in (None, "", key[0]):
                raise BadRequestError(f"model_name cannot be {wishes.model_name}: the folder of {url} is of {key[0]}.")
            folder = ModelFolder(self._settings.models.joinpath(*key))
            wanted = want_registered(key, url, None, wishes, folder.read_archive() if folder.is_archive else None)
            put(draft, plan, wanted)
        return Change(key, draft.generation, wanted.min_workers)

    @contextmanager
    def _draft(self) -> Iterator[tuple["Draft", Plan]]:
        """Give the state to be changed, and the plan that it makes with the folders that are there."""
        with self._access.open().change() as draft:
            folders = find_model_folders(self._settings.models)
            yield draft, make_plan(folders, draft.freeze(), find_ready(self._settings.instance))


def want_registered(
    key: Key, url: str, token: str | None, wishes: Wishes, manifest: ModelManifest | HandlerArchive | None
) -> WantedVersion:
    """Make the row of a version that is registered; without `workers`, an archive may say how many it has."""
    least = most = wishes.workers or 0
    if wishes.workers is None and isinstance(manifest, HandlerArchive) and "minWorkers" in manifest.config:
        least, most = manifest.limits.min_workers, manifest.limits.max_workers
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


def put(draft: "Draft", plan: Plan, wanted: WantedVersion) -> None:
    """Add a version; the first of a model is its default, and stays so when others come."""
    draft.put(wanted)
    draft.defaults[wanted.name] = plan.find_default(wanted.name) if wanted.name in plan.versions else wanted.version


def end_shadow(draft: "Draft", name: str, version: str) -> None:
    """Have a version be a candidate no longer."""
    if name in draft.shadows and draft.shadows[name].version == version:
        del draft.shadows[name]


def let_go(draft: "Draft", plan: Plan, wanted: WantedVersion) -> None:
    """Unregister a version in a draft; a folder that this server made becomes a stray."""
    end_shadow(draft, wanted.name, wanted.version)
    if wanted.token is None:
        draft.put(replace(wanted, is_registered=False))
    else:
        del draft.versions[wanted.key]
        draft.strays.add(wanted.token)
    others = plan.versions.get(wanted.name, {}).keys() - {wanted.version}
    if not others or draft.defaults.get(wanted.name) == wanted.version:
        draft.defaults.pop(wanted.name, None)
    if not others:
        draft.loads.pop(wanted.name, None)
