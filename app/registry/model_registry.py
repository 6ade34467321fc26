"""The models of one worker, and the one writer that changes them.

Attempts to load, compile, start and scale post what came of them: quick ones run in one thread one after another, each
slow one in a thread of its own. One thread alone, the follower's, notes that and publishes the table that requests
read: no lock, and no model that can touch another.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from app.config.settings import Settings
from app.processes.threads import Inbox, Lane, start_thread
from app.registry.archive_loader import ArchiveLoader
from app.registry.endings import Endings
from app.registry.model_entry import ModelEntry, State
from app.registry.model_loader import WAITS_FOR_REQUEST, ModelLoader
from app.registry.serving_table import ServingTable, Snapshot, make_snapshot
from app.registry.version_slot import Attempt, SlowRoadError, VersionSlot, describe_fault
from app.repository.model_folder import ModelFolder
from app.state.wanted import Key, Plan

log = logging.getLogger(__name__)

LOADED_AT_START = 2
"""Default versions that a worker loads when it starts; others are loaded when they are first asked for."""


class ModelRegistry:
    """Brings the models to what a plan wants, and publishes them in `table`.

    A version that cannot be served is kept with its reason and tried again; it never stops the others. What is new is
    loaded before what is old is let go.

    `on_change` is called with every new entry, and `on_remove` with the folder of a version that is there no longer.
    When the first plan comes, the first `loaded_at_start` default versions with a `model.toml` are loaded at once;
    archives and models in their own framework start at once, too.

    Thread safety: all methods are for one thread, the writer's; `table` is for all.
    """

    def __init__(
        self,
        settings: Settings,
        on_change: Callable[[ModelEntry], None] = lambda _: None,
        on_remove: Callable[[ModelFolder], None] = lambda _: None,
        loaded_at_start: int = LOADED_AT_START,
    ) -> None:
        self.table = ServingTable()
        self._on_change = on_change
        self._on_remove = on_remove
        self._loaded_at_start = loaded_at_start
        self._loader = ModelLoader(settings)
        self.archives = ArchiveLoader(settings, self._loader)
        self._lane = Lane("load-models")
        self._inbox = Inbox()
        self._plan: Plan | None = None
        self._slots: dict[Key, VersionSlot] = {}
        self._endings = Endings(settings, self.archives, self._inbox, self._note_end)
        self._is_published = False
        self._news: list[ModelEntry] = []

    def apply(self, plan: Plan, changed: frozenset[Key] = frozenset()) -> None:
        """Follow a plan; the folders of the versions in `changed` are other ones than before."""
        if self._plan is None:
            self.table.now = Snapshot(counted=frozenset(plan.versions))
            defaults = [plan.find_version(name, None) for name in plan.versions]
            from_folders = [
                each.wanted.key for each in defaults if each.wanted.is_loaded and not each.folder.is_archive
            ]
            eager = frozenset(from_folders[: self._loaded_at_start])
        else:
            eager = plan.state.list_changed(self._plan.state, self.table.now.defaults)
        wanted = {each.wanted.key: each for versions in plan.versions.values() for each in versions.values()}
        for key, planned in wanted.items():
            if key not in self._slots:
                self._slots[key] = VersionSlot(planned)
            self._slots[key].want(planned, key in changed, key in eager)
        for key, slot in self._slots.items():
            slot.is_leaving = key not in wanted
        self._plan, self._is_published = plan, False
        self._advance()

    def work(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for an attempt to post something, note all that was posted, and go on from there."""
        self._inbox.work_off(timeout_s)
        self._advance()

    def note_rewritten(self, key: Key, names: tuple[str, ...]) -> None:
        """Say of a loaded version that its files were changed, or are again as they were where `names` is empty."""
        reason = f"changed since it was loaded, and read at the next load or start: {', '.join(names)}" if names else ""
        slot = self._slots.get(key)
        if slot is None or slot.entry.holds is None:
            return
        if not names and not slot.entry.is_in_memory:
            reason = WAITS_FOR_REQUEST
        if slot.entry.reason == reason:
            return
        self._put(slot, replace(slot.entry, reason=reason))
        if names:
            extra = {"model": key[0], "version": key[1], "reason": reason}
            log.warning("the files of a served model were changed", extra=extra)

    @property
    def is_loading(self) -> bool:
        """Whether a compiled model is being loaded, which takes a moment."""
        return any(slot.attempt is not None and slot.attempt.is_quick for slot in self._slots.values())

    @property
    def is_starting(self) -> bool:
        """Whether any first attempt at what is wanted is under way."""
        return any(slot.attempt is not None and slot.attempt.is_fresh for slot in self._slots.values())

    def states(self) -> dict[str, str]:
        """How far each version is with what is wanted of it, by `name/version`, for this worker's report."""
        states = {"/".join(key): State.UNLOADING.value for key in self._endings.counts}
        return states | {"/".join(key): slot.state.value for key, slot in self._slots.items()}

    def list_contents(self) -> dict[str, str]:
        """What of the files answers in this worker, by `name/version`, for its report."""
        return {"/".join(key): slot.entry.content_digest for key, slot in self._slots.items() if slot.entry.holds}

    def close(self) -> None:
        """Let every engine go at once: the server stops."""
        for slot in self._slots.values():
            if slot.attempt is not None:
                slot.attempt.is_dropped = True
            served = slot.entry.served
            if served is not None:
                self._put(slot, replace(slot.entry, state=State.UNLOADING, reason="the server stops", served=None))
                served.close()
        self._publish()
        self.archives.pools.close()

    def _advance(self) -> None:
        """Take the next step with every version, and publish."""
        for slot in list(self._slots.values()):
            if slot.is_leaving:
                self._leave(slot)
            elif not slot.planned.wanted.is_loaded:
                self._rest(slot)
            else:
                if slot.entry.wanted != slot.planned.wanted:
                    self._put(slot, slot.renew())
                if slot.attempt is None and (slot.is_behind or slot.is_due):
                    self._begin(slot)
        if not self._is_published:
            self._publish()
        self._endings.begin()

    def _leave(self, slot: VersionSlot) -> None:
        """Take a version out of the table, unless another one of the model is about to take its place."""
        name, version = slot.planned.wanted.key
        heirs = (each for key, each in self._slots.items() if key[0] == name and not each.is_leaving)
        if slot.entry.state is State.READY and any(each.attempt and each.attempt.is_quick for each in heirs):
            return
        del self._slots[name, version]
        self._endings.drop(slot.attempt)
        self._is_published = False
        if slot.entry.holds is not None:
            self._news.append(replace(slot.entry, state=State.UNLOADING, reason="it is no longer wanted", served=None))
            self._endings.add(slot.entry)
        elif slot.entry.key not in self._endings.counts:
            self._note_end(slot.entry)

    def _rest(self, slot: VersionSlot) -> None:
        """Let go what a version holds that is to have no workers."""
        self._endings.drop(slot.attempt)
        slot.attempt, slot.tried, slot.fault, slot.failures = None, None, "", 0
        if slot.entry.holds is not None:
            self._endings.add(slot.entry)
        if slot.entry.state is not State.UNAVAILABLE or slot.entry.wanted != slot.planned.wanted or slot.is_stale:
            slot.is_stale = False
            self._put(slot, self._loader.describe_idle(slot.planned))

    def _begin(self, slot: VersionSlot) -> None:
        """Begin an attempt to bring a version to what is wanted."""
        planned, entry = slot.planned, slot.entry
        draft = ModelEntry(planned.folder, planned.wanted, State.LOADING, "it is being loaded")
        attempt = Attempt(planned, draft, partial(self._inbox.post, self._note_progress), is_fresh=slot.is_behind)
        is_archive, is_stale = planned.folder.is_archive, slot.is_stale
        if is_archive and entry.key in self._endings.counts:
            return  # the pool of the one before must have ended, or it would be ended with this one
        slot.attempt, slot.tried, slot.is_stale = attempt, planned, False
        if entry.holds is None and attempt.is_fresh:
            self._put(slot, draft)
        if is_archive and entry.handler is not None and not is_stale:
            attempt.is_scaling = True
            self._run(attempt, partial(self.archives.scale, attempt, entry))
        elif is_archive:
            self._run(attempt, partial(self.archives.load, attempt))
        else:
            attempt.is_quick = True
            on_load = None if slot.is_eager else partial(self._inbox.post, self._note_first_use, attempt)
            self._run(attempt, partial(self._loader.load, attempt, on_load))

    def _run(self, attempt: Attempt, load: Callable[[], ModelEntry]) -> None:
        """Run a quick attempt after those before it, one that may take long in a thread of its own."""
        call = partial(self._try, attempt, load)
        if not (self._lane.run(call) if attempt.is_quick else start_thread("load-model", call)):
            self._fail(attempt, "the system has no thread to give")

    def _try(self, attempt: Attempt, load: Callable[[], ModelEntry]) -> None:
        """Run in the attempt's thread, and post what came of it."""
        try:
            entry = load()
        except SlowRoadError as error:
            self._inbox.post(self._go_slowly, attempt, str(error))
        except Exception as error:  # noqa: BLE001  # memory, files, a library's own error: all are this model's state
            self._inbox.post(self._fail, attempt, describe_fault(error))
        else:
            self._inbox.post(self._succeed, attempt, entry)

    def _find(self, attempt: Attempt) -> VersionSlot | None:
        """The slot that waits for an attempt; None if nobody does any more."""
        slot = self._slots.get(attempt.planned.wanted.key)
        return slot if slot is not None and slot.attempt is attempt else None

    def _note_progress(self, attempt: Attempt, draft: ModelEntry) -> None:
        slot = self._find(attempt)
        if slot is not None and slot.entry.holds is None and attempt.is_fresh:
            self._put(slot, replace(draft, wanted=slot.planned.wanted))

    def _go_slowly(self, attempt: Attempt, reason: str) -> None:
        attempt.is_quick = False
        if self._find(attempt) is not None:
            attempt.tell(reason)
            on_fault = partial(self._inbox.post, self._note_first_use, attempt)
            self._run(attempt, partial(self._loader.load_slowly, attempt, on_fault))

    def _succeed(self, attempt: Attempt, loaded: ModelEntry) -> None:
        """Serve what an attempt loaded, if it is still wanted."""
        slot = self._find(attempt)
        if slot is not None:
            slot.attempt = None
        if slot is None or not slot.takes(attempt, loaded):
            if not attempt.is_scaling:  # else it is what answers already
                self._endings.add(loaded)
            self._endings.note_end(attempt)
            return
        before = slot.entry
        slot.entry, slot.loaded_by, slot.fault, slot.failures = loaded, attempt, "", 0
        self._put(slot, slot.renew())
        if before.holds is not None and before.holds is not loaded.holds:
            self._endings.add(before)

    def _fail(self, attempt: Attempt, reason: str) -> None:
        """Have a version say why it cannot be served, and try again later."""
        slot = self._find(attempt)
        if slot is None:
            self._endings.note_end(attempt)
            return
        slot.attempt = None
        if slot.is_behind:  # it failed at something that is no longer wanted
            return
        if reason != slot.fault:
            extra = {"model": slot.entry.folder.name, "version": slot.entry.folder.version, "reason": reason}
            log.error("model cannot be scaled" if attempt.is_scaling else "model unavailable", extra=extra)
        slot.fail(attempt, reason)
        if attempt.is_scaling:  # it answers on
            self._put(slot, replace(slot.entry, reason=reason))
            return
        if slot.entry.holds is not None:
            self._endings.add(slot.entry)
        self._put(slot, replace(attempt.draft, state=State.UNAVAILABLE, reason=reason, wanted=slot.planned.wanted))

    def _note_first_use(self, attempt: Attempt, error: Exception | None, load_s: float) -> None:
        """Note that a model that was to be loaded when asked for, first or again, is loaded, or cannot be."""
        slot = self._slots.get(attempt.planned.wanted.key)
        if slot is None or slot.loaded_by is not attempt or slot.entry.served is None:  # it was let go meanwhile
            return
        if error is None:
            self._put(slot, replace(slot.entry, reason="", load_s=load_s))
        elif slot.attempt is None:
            slot.attempt, attempt.began_s = attempt, time.monotonic()
            self._fail(attempt, describe_fault(error))

    def _note_end(self, entry: ModelEntry) -> None:
        """Note that nothing of a version is ending any more."""
        if entry.key not in self._slots:
            self._on_remove(entry.folder)

    def _put(self, slot: VersionSlot, entry: ModelEntry) -> None:
        slot.entry, self._is_published = entry, False
        self._news.append(entry)

    def _publish(self) -> None:
        """Publish the entries as they are now; what they no longer name is let go after that."""
        entries = [slot.entry for slot in self._slots.values()]
        self.table.now = make_snapshot(entries, self._plan, self.table.now)
        self._is_published = True
        news, self._news = self._news, []
        for entry in news:
            self._on_change(entry)
