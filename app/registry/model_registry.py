"""The models in memory: which versions there are, in which state, and the served model of those that are ready."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from app.config.settings import Settings
from app.engines.process_engine import runs_natively
from app.errors import CompiledModelError, InferenceError, ModelFolderError
from app.manifest.model_manifest import ModelManifest
from app.registry.archive_loader import ArchiveLoader, ArchiveStatus
from app.registry.model_entry import ModelEntry, State, sort_versions
from app.registry.model_loader import LoadedModel, ModelLoader
from app.registry.serving_table import ServingTable
from app.repository.model_folder import ModelFolder, find_model_folders
from app.state.wanted import Key, Plan, PlannedVersion, WantedState, make_plan

log = logging.getLogger(__name__)

LOADED_AT_START = 2
"""Compiled models that a worker loads when it starts; the others are loaded when they are first asked for."""


class ModelRegistry(ServingTable):
    """Loads what a plan names and hands out the served models by name and version.

    A folder that cannot be served is kept with its reason; it never stops the others. What is new is loaded before
    what is old is let go.

    Args:
        settings: folders, limits and engines.
        on_change: called with every new entry, e.g. to keep a metric.
        on_remove: called with the folder of a version that is there no longer.

    Thread safety: all methods may be called from any thread; `apply` from one at a time.
    """

    def __init__(
        self,
        settings: Settings,
        on_change: Callable[[ModelEntry], None],
        on_remove: Callable[[ModelFolder], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._on_change = on_change
        self._on_remove = on_remove
        self._loader = ModelLoader(settings)
        self.archives = ArchiveLoader(settings, self._loader, self._note_archive)
        self._lock = threading.Lock()
        self._plan = Plan({}, {}, frozenset())
        self._at_start: set[Key] = set()
        self.is_settled = False
        """Whether it is known what is wanted."""

    def load_all(self) -> None:
        """Load every folder, the newest version of each model as its default: nobody said anything else."""
        try:
            folders = find_model_folders(self._settings.models)
        except ModelFolderError as error:
            log.error("no models", extra={"reason": error.message})
            folders = []
        self.apply(make_plan(folders, WantedState()))

    def apply(self, plan: Plan, changed: frozenset[Key] = frozenset()) -> None:
        """Follow a plan: load what is new, then choose the defaults, then let go what is gone.

        What must first be compiled or started is left to a thread.

        Args:
            plan: what is to be served.
            changed: versions whose folders are other ones than before.
        """
        asked, self._plan = plan.asked - self._plan.asked, plan
        if not self.is_settled:
            self._at_start = set(plan.list_compiled_defaults()[:LOADED_AT_START])
            asked = frozenset()
        slow = [each for each in plan.all() if not self._follow(each, each.wanted.key in changed)]
        for key in asked:
            self._load_lazy(key)
        with self._lock:
            self._defaults = {name: self._choose_default(name) for name in self._entries}
            if not self.is_settled:
                self._counted = frozenset(self._entries)
        for entry in self.entries():
            if entry.folder.version not in plan.versions.get(entry.folder.name, {}):
                self._remove(entry)
        self.is_settled = True
        if slow:
            threading.Thread(target=self._load_slowly, args=(slow,), name="load-models", daemon=True).start()

    def close(self) -> None:
        """Let every engine go."""
        for entry in self.entries():
            if entry.served is not None:
                self._put(replace(entry, state=State.UNLOADING, reason="the server stops", served=None))
                entry.served.close()
        self.archives.close()

    def _put(self, entry: ModelEntry) -> ModelEntry | None:
        """Put an entry in its place and return the one that was there."""
        name, version = entry.key
        with self._lock:
            before = self._find(entry.key)
            self._entries = {**self._entries, name: {**self._entries.get(name, {}), version: entry}}
            self._defaults = {**self._defaults, name: self._choose_default(name)}
            if entry.state is State.READY:
                self._counted |= {name}
        self._on_change(entry)
        if entry.state is State.UNAVAILABLE and entry.wanted.is_loaded:
            extra = {"model": name, "version": version, "reason": entry.reason}
            log.error("model unavailable", extra=extra)
        return before

    def _set(self, entry: ModelEntry) -> None:
        """Put an entry in its place, and let go the model that it takes the place of."""
        before = self._put(entry)
        if before is not None and before.served is not None and before.served is not entry.served:
            self._let_go(before)

    def _remove(self, entry: ModelEntry) -> None:
        name, version = entry.key
        with self._lock:
            left = {other: each for other, each in self._entries[name].items() if other != version}
            self._entries = {key: each for key, each in {**self._entries, name: left}.items() if each}
            self._defaults = {key: self._choose_default(key) for key in self._entries}
            self._counted &= frozenset(self._entries)
        self._scaling.pop(entry.key, None)
        if entry.served is None and entry.archive is None:
            self._on_remove(entry.folder)
            return
        self._unloading.add(entry.key)
        self._on_change(replace(entry, state=State.UNLOADING, reason="it is no longer wanted", served=None))
        self._unload(entry)

    def _unload(self, entry: ModelEntry) -> None:
        if entry.archive is not None and entry.served is None:
            self.archives.unload(entry.archive, lambda: self._note_gone(entry))
        else:
            self._let_go(entry)

    def _let_go(self, entry: ModelEntry) -> None:
        """Close a model when the requests that have it are answered, in a thread of its own."""
        threading.Thread(target=self._retire, args=(entry,), name="unload-model", daemon=True).start()

    def _retire(self, entry: ModelEntry) -> None:
        assert entry.served is not None, "only loaded models are let go"
        entry.served.retire(self._settings.prediction_timeout_ms / 1000)
        if entry.archive is not None:
            self.archives.end_explainer(entry.archive)
        self._note_gone(entry)

    def _note_gone(self, entry: ModelEntry) -> None:
        self._unloading.discard(entry.key)
        if self._find(entry.key) is None:
            self._on_remove(entry.folder)

    def _choose_default(self, name: str) -> str:
        """The default as it is now: the chosen one, once it is loaded; without a choice the newest that is ready."""
        entries, now = self._entries[name], self._defaults.get(name)
        chosen = self._plan.chosen_defaults.get(name)
        if chosen in entries:
            is_waiting = entries[chosen].state is State.LOADING
            if is_waiting and now in entries and entries[now].state is State.READY:
                return now
            return chosen
        ready = {version: entry for version, entry in entries.items() if entry.state is State.READY}
        return sort_versions(ready or entries)[-1].folder.version

    def _follow(self, planned: PlannedVersion, is_changed: bool) -> bool:
        """Bring one version to what is wanted; return False if that takes long."""
        entry, wanted = self._find(planned.wanted.key), planned.wanted
        if entry is not None and not is_changed and wanted.is_loaded_as(entry.wanted):
            if entry.wanted != wanted:
                archive = entry.archive and planned.limit(entry.archive)
                self._put(replace(entry, wanted=wanted, archive=archive))
                if entry.archive is not None and entry.served is None:
                    self._load_archive(planned)
            return True
        return self._load_at_once(planned)

    def _load_at_once(self, planned: PlannedVersion) -> bool:
        """Load a compiled model; return False if the folder is sound but needs the slow way first."""
        folder, wanted = planned.folder, planned.wanted
        if folder.is_archive:
            self._load_archive(planned)
            return True
        manifest = None
        try:
            manifest = folder.read_manifest()
            wanted.require_sound()
            if not wanted.is_loaded:
                self._set(ModelEntry(folder, wanted, State.UNAVAILABLE, "it has no workers", manifest))
                return True
            folder.verify_artifact(manifest)
            if runs_natively(manifest):
                self._wait_for(planned, manifest, f"{manifest.framework} is starting")
                return False
            is_eager = wanted.key in (self._plan.asked if self.is_settled else self._at_start)
            on_load = None if is_eager else lambda fault, load_s: self._note_load(wanted.key, fault, load_s)
            self._serve(planned, self._loader.load_compiled(planned, manifest, on_load))
        except CompiledModelError as error:
            self._wait_for(planned, manifest, f"{error.message}; compiling it now")
            return False
        except ModelFolderError as error:
            self._set(ModelEntry(folder, wanted, State.UNAVAILABLE, error.message, manifest))
        return True

    def _load_archive(self, planned: PlannedVersion) -> None:
        """Have the program of a model archive started or scaled, or ended where no worker is wanted."""
        if planned.wanted.is_loaded:
            self.archives.load(planned)
            return
        before = self._put(ModelEntry(planned.folder, planned.wanted, State.UNAVAILABLE, "it has no workers"))
        self._scaling.pop(planned.wanted.key, None)
        if before is not None and before.archive is not None:
            self._unloading.add(before.key)
            self._unload(before)

    def _note_archive(self, planned: PlannedVersion, status: ArchiveStatus) -> bool:
        """Bring the entry of a model archive up to date; return False if it is no longer wanted."""
        name, version = planned.wanted.key
        now = self._plan.versions.get(name, {}).get(version) if status.loaded is None else self._find_plan(planned)
        if now is None or now.folder != planned.folder or not now.wanted.is_loaded:
            return False
        before = self._find(now.wanted.key)
        if status.is_starting and before is not None and before.state is State.READY:  # it answers as it was meanwhile
            if before.handler is not None:
                self._scaling[before.key] = State.LOADING
            return True
        entry = status.make_entry(now)
        self._set(entry)
        self._note_scale(entry)
        old, new = before.archive if before is not None else None, status.archive
        if old is not None and new is not None and (old.key != new.key or status.loaded is not None):
            self.archives.unload(old)
        return True

    def _note_scale(self, entry: ModelEntry) -> None:
        """Note whether a program that answers runs as it is wanted; that it does not shows in this worker's report."""
        if entry.handler is not None and entry.reason:
            self._scaling[entry.key] = State.UNAVAILABLE
            extra = {"model": entry.wanted.name, "version": entry.wanted.version, "reason": entry.reason}
            log.error("model cannot be scaled", extra=extra)
        else:
            self._scaling.pop(entry.key, None)

    def _wait_for(self, planned: PlannedVersion, manifest: ModelManifest | None, reason: str) -> None:
        """Say that a version is being loaded, unless an earlier one of the same name serves meanwhile."""
        before = self._find(planned.wanted.key)
        if before is None or before.served is None:
            self._set(ModelEntry(planned.folder, planned.wanted, State.LOADING, reason, manifest))

    def _find_plan(self, planned: PlannedVersion) -> PlannedVersion | None:
        """What is planned by now of a version that was being loaded; None if it is loaded in vain."""
        name, version = planned.wanted.key
        now = self._plan.versions.get(name, {}).get(version)
        return now if now and now.folder == planned.folder and now.wanted.is_loaded_as(planned.wanted) else None

    def _serve(self, planned: PlannedVersion, loaded: LoadedModel) -> None:
        """Serve what was loaded, if it is still wanted."""
        now = self._find_plan(planned)
        if now is None:
            loaded.served.close()
            return
        self._set(loaded.fill(ModelEntry(now.folder, now.wanted, State.READY)))

    def _note_load(self, key: Key, fault: str | None, load_s: float) -> None:
        """Bring the entry of a model that loads when first used up to date."""
        entry = self._find(key)
        if entry is None or entry.served is None:  # it was let go meanwhile
            return
        if fault is None:
            self._set(replace(entry, reason="", load_s=load_s))
        else:
            self._set(replace(entry, state=State.UNAVAILABLE, reason=fault, served=None))

    def _load_lazy(self, key: Key) -> None:
        """Load a model that was to be loaded when first asked for."""
        entry = self._find(key)
        if entry is None or entry.served is None:
            return
        try:
            entry.served.load()
        except InferenceError as error:
            now = self._find(key)
            if now is not None and now.served is entry.served:  # a lazy one has said more than this already
                self._set(replace(entry, state=State.UNAVAILABLE, reason=error.message, served=None))

    def _load_slowly(self, slow: list[PlannedVersion]) -> None:
        """Compile, or start the framework, one version after the other."""
        for planned in slow:
            try:
                self._serve(planned, self._loader.load_slowly(planned))
            except ModelFolderError as error:
                now, before = self._find_plan(planned), self._find(planned.wanted.key)
                if now is not None:
                    manifest = before.manifest if before is not None else None
                    self._set(ModelEntry(now.folder, now.wanted, State.UNAVAILABLE, error.message, manifest))
