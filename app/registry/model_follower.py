"""Keeps a worker's models as they are wanted: looks at the state store and the folders, and has the registry follow."""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace

from app.config.settings import Settings
from app.errors import AnsweredError, StateStoreError
from app.registry.folder_scan import FolderScan, scan_folders
from app.registry.model_arrivals import sweep
from app.registry.model_entry import State
from app.registry.model_registry import ModelRegistry
from app.repository.model_content import find_changed
from app.repository.model_folder import ModelFolder
from app.state.store_access import StoreAccess
from app.state.wanted import Key, Plan, WantedState, make_plan
from app.state.worker_reports import ReportWriter, read_reports

log = logging.getLogger(__name__)

POLL_S = 0.15
"""How often the store is asked whether anything changed, which takes 0.2 to 0.5 ms of CPU."""
SCAN_S = 1.0
"""How often the model folders are looked at."""

JOIN_S = 2.0
"""How long a worker that starts waits for programs: another worker may have started them, and then it only joins."""


class ModelFollower:
    """Follows the state store and the model folders for one worker, in the one thread that changes its models.

    A change is reported as followed once the registry has followed it: what fails before that is tried again.

    Thread safety: `start` and `close` are for one thread; the rest runs in a thread of its own.
    """

    def __init__(self, settings: Settings, registry: ModelRegistry, access: StoreAccess) -> None:
        self.registry = registry
        self._settings = settings
        self._access = access
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._writer: ReportWriter | None = None
        self._plan: Plan | None = None
        self._awaited: set[Key] = set()
        self._gone: set[Key] = set()
        self._followed: int | None = None
        self._scan: FolderScan | None = None
        self._next_scan_s = 0.0
        self._fault = ""

    def start(self) -> None:
        """Load what is wanted now, and follow from then on."""
        with suppress(StateStoreError, AnsweredError, OSError):  # a fault of the store is found again below
            sweep(self._settings, self._access)  # what workers left that were killed
        read_reports(self._settings.instance)  # so that those of an earlier server go
        self._try_to_follow()
        joined_by_s = time.monotonic() + JOIN_S
        while self.registry.is_loading or (self.registry.is_starting and time.monotonic() < joined_by_s):
            self.registry.work(POLL_S)
        self._try_to_follow()
        self._thread = threading.Thread(target=self._run, name="follow-models", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follow no longer, and let every model go."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.registry.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._access.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            started_s = time.monotonic()
            self._try_to_follow()
            if self._fault:
                self._stop.wait(POLL_S - (time.monotonic() - started_s))

    def _try_to_follow(self) -> None:
        """Follow, and log a fault when it begins and when it is over; what was known before is served meanwhile."""
        try:
            self.registry.work(POLL_S if self._thread is not None else 0)
            self._follow()
            fault = ""
        except (StateStoreError, AnsweredError) as error:
            fault = error.message
        except Exception as error:  # noqa: BLE001  # memory or files: the thread must outlive it, and tries again
            fault = f"{type(error).__name__}: {error}"
        if fault and fault != self._fault:
            log.error("models are not followed", extra={"reason": fault})
        elif self._fault and not fault:
            log.info("models are followed again")
        self._fault = fault

    def _follow(self) -> None:
        """Have the registry follow what changed, note that it has, and report.

        What is reported is the generation of before the folders were looked at. The state may be newer, and name a
        version whose folder came after the look. That is not followed yet, and the next round sees it.
        """
        generation = self._access.read_generation()
        is_changed = generation != self._followed
        scan, plan = self._scan, self._plan
        # The folders first: one that is seen was announced in the store before, which is then read.
        if scan is None or is_changed or time.monotonic() >= self._next_scan_s:
            choices = (plan.state if plan is not None else self._access.read()).defaults.items()
            scan = scan_folders(self._settings.models, self._scan, self.registry.states(), self._find_rewritten)
            self._gone = {choice for choice in choices if choice not in scan.sightings}
        state = self._access.read() if plan is None or is_changed else plan.state
        if asked := self._list_asked(scan, state) | self._list_overtaken(scan):
            scan = scan.take_up(asked, self._find_rewritten)
        is_new = self._scan is None or (scan is not self._scan and (scan.changed or scan.folders != self._scan.folders))
        if plan is None or is_changed or is_new:
            plan = make_plan(scan.folders, state)
        plan = self._keep_defaults(plan, scan)
        if plan is not self._plan:
            self.registry.apply(plan, scan.changed)
        if scan is not self._scan:
            self._next_scan_s = time.monotonic() + SCAN_S
            restored = self._scan.rewritten.keys() - scan.rewritten.keys() if self._scan is not None else ()
            for key, names in [*scan.rewritten.items(), *((key, ()) for key in restored)]:
                self.registry.note_rewritten(key, names)
            self._scan = replace(scan, changed=frozenset())  # which the registry knows now
            self._forget_removals(scan, plan.state)
        self._plan, self._followed = plan, generation
        if self._writer is None:
            self._writer = ReportWriter(self._settings.instance)
        self._writer.write(generation, self.registry.states(), self.registry.list_contents())
        self._keep_defaults(plan, scan)  # where a default went, another one answers now

    def _find_rewritten(self, folder: ModelFolder) -> tuple[str, ...]:
        entry = self.registry.table.get(folder.name, folder.version)
        return find_changed(folder.path, entry.framework, entry.content)

    def _list_asked(self, scan: FolderScan, state: WantedState) -> set[Key]:
        """The versions that somebody has asked to be loaded as their files are now, and that may have changed."""
        asked = state.loads.items() - (self._plan.state.loads.items() if self._plan is not None else ())
        names = {name for name, _ in asked}
        return {key for key, sighting in scan.sightings.items() if key[0] in names and sighting.may_differ}

    def _list_overtaken(self, scan: FolderScan) -> set[Key]:
        """The versions whose files have changed, and that another worker answers by other files than this one.

        A worker that starts reads what is there. All take that up, or two workers would answer differently.
        """
        changed = {key for key, each in scan.sightings.items() if each.may_differ}
        if not changed:
            return set()
        own = self.registry.list_contents()
        others = [report.contents for report in read_reports(self._settings.instance)]
        answered = {key: {each["/".join(key)] for each in others if "/".join(key) in each} for key in changed}
        overtaken = {key for key in changed if "/".join(key) in own and answered[key] - {own["/".join(key)]}}
        for name, version in overtaken:
            log.warning("another worker answers by changed files", extra={"model": name, "version": version})
        return overtaken

    def _keep_defaults(self, plan: Plan, scan: FolderScan) -> Plan:
        """Write the defaults that answer into the store before anything else can take their place; return the new plan.

        A model of one version needs none. The versions that come together, with the server or with their model, are
        waited for: the newest that can answer is the default. A choice whose folder is gone is one no longer.
        """
        states = self.registry.states()
        planned = [(name, version) for name, versions in plan.versions.items() for version in versions]
        loading = {key for key in planned if states.get("/".join(key), State.LOADING) == State.LOADING}
        self._awaited = {
            key for key in loading if key in self._awaited or key[0] not in self.registry.table.now.entries
        }
        kept = {}
        for entry in self.registry.table.defaults():
            name, version = entry.key
            versions, chosen = plan.versions.get(name, {}), plan.state.defaults.get(name)
            if entry.state is not State.READY or version not in versions or chosen in versions:
                continue
            late = {key for key in loading if key[0] == name}
            if (late and late <= self._awaited) or (chosen is None and len(versions) == 1):
                continue
            sighting = scan.sightings.get((name, chosen or ""))
            is_found = sighting is not None and sighting.accepted is not None  # else it may still be copied
            if chosen is None or is_found or (name, chosen) in self._gone:
                kept[name] = version
        if not kept:
            return plan
        with self._access.open().change() as draft:
            for name, version in kept.items():
                if draft.defaults.get(name) == plan.state.defaults.get(name):
                    draft.defaults[name] = version
                    log.info("default version kept until another is chosen", extra={"model": name, "version": version})
        return make_plan(scan.folders, self._access.read())

    def _forget_removals(self, scan: FolderScan, state: WantedState) -> None:
        """Forget that a folder was not to be served once it is gone; one that is put there later is another one."""
        gone = {key for key, wanted in state.versions.items() if not wanted.is_registered} - scan.sightings.keys()
        if gone and self._settings.models.is_dir():
            with self._access.open().change() as draft:
                for key in gone:
                    if key in draft.versions and not draft.versions[key].is_registered:
                        del draft.versions[key]
