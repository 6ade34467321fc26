"""Keeps a worker's models as they are wanted: looks at the state store and the folders, and has changes applied."""

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from app.config.settings import Settings
from app.errors import AnsweredError, ModelFolderError, StateStoreError
from app.registry.model_arrivals import sweep
from app.registry.model_entry import State
from app.registry.model_registry import ModelRegistry
from app.repository.model_folder import ModelFolder, find_model_folders
from app.state.store_access import StoreAccess
from app.state.wanted import Key, WantedState, make_plan
from app.state.worker_reports import ReportWriter, read_reports

log = logging.getLogger(__name__)

POLL_S = 0.15
"""How often the store is asked whether anything changed, which takes 0.2 to 0.5 ms of CPU."""
SCAN_S = 1.0
"""How often the model folders are looked at."""
SETTLE_S = 1.0
"""How long a folder that somebody puts among the models must stay as it is before it is loaded: it may be a copy."""

Fingerprint = tuple[object, ...]


class ModelFollower:
    """Follows the state store and the model folders for one worker.

    Thread safety: `start` and `close` are for one thread; the rest runs in a thread of its own.
    """

    def __init__(self, settings: Settings, registry: ModelRegistry, access: StoreAccess) -> None:
        self._settings = settings
        self._registry = registry
        self._access = access
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._writer: ReportWriter | None = None
        self._state: WantedState | None = None
        self._folders: dict[Key, ModelFolder] = {}
        self._prints: dict[Key, Fingerprint] = {}
        self._unsettled: dict[Key, tuple[Fingerprint, float]] = {}
        self._next_scan = 0.0
        self._is_first = True
        self._fault = ""

    def start(self) -> None:
        """Load what is wanted now, and follow from then on."""
        with suppress(StateStoreError, AnsweredError, OSError):  # a fault of the store is found again below
            sweep(self._settings, self._access)  # what workers left that were killed
        read_reports(self._settings.instance)  # so that those of an earlier server go
        self._try_to_follow()
        self._thread = threading.Thread(target=self._run, name="follow-models", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follow no longer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._access.close()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._try_to_follow()

    def _try_to_follow(self) -> None:
        """Follow, and log a fault when it begins and when it is over; what was known before is served meanwhile."""
        try:
            self._follow()
            fault = ""
        except (StateStoreError, AnsweredError) as error:
            fault = error.message
        except OSError as error:  # a full disk, say; the thread must outlive it
            fault = str(error)
        if fault and fault != self._fault:
            log.error("models are not followed", extra={"reason": fault})
        elif self._fault and not fault:
            log.info("models are followed again")
        self._fault = fault

    def _follow(self) -> None:
        generation = self._access.read_generation() if self._access.exists() else 0
        is_changed = self._state is None or generation != self._state.generation
        changed: frozenset[Key] = frozenset()
        before = set(self._folders)
        # The folders first: one that is seen was announced in the store before, which is then read.
        if is_changed or time.monotonic() >= self._next_scan:
            changed = self._scan()
        if is_changed:
            self._state = self._access.read() if self._access.exists() else WantedState()
        assert self._state is not None, "read above"
        if is_changed or changed or before != set(self._folders):
            self._registry.apply(make_plan(self._folders.values(), self._state), changed)
            self._forget_removals(self._state)
        if self._writer is None:
            self._writer = ReportWriter(self._settings.instance)
        self._writer.write(self._state.generation, self._registry.states())

    def _scan(self) -> frozenset[Key]:
        """Look at the model folders; return those that are other ones than they were."""
        self._next_scan = time.monotonic() + SCAN_S
        try:
            found = {(folder.name, folder.version): folder for folder in find_model_folders(self._settings.models)}
            states = self._registry.states()
            prints = {key: self._identify(folder, states.get("/".join(key))) for key, folder in found.items()}
        except (ModelFolderError, OSError) as error:  # it may be there again in a moment
            if self._is_first:
                log.error("no models", extra={"reason": str(error)})
            self._is_first = False
            return frozenset()
        accepted = {key for key in found if self._accept(found[key], key, prints[key])}
        changed = {key for key in accepted & self._folders.keys() if self._prints[key] != prints[key]}
        self._prints = {
            key: prints[key] if key in accepted else self._prints[key] for key in self._keep(found, accepted)
        }
        self._folders = {key: found[key] for key in self._prints}
        self._unsettled = {key: each for key, each in self._unsettled.items() if key in found}
        self._is_first = False
        return frozenset(changed)

    def _keep(self, found: Iterable[Key], accepted: set[Key]) -> list[Key]:
        """Those accepted now or before, of all found."""
        return [key for key in found if key in accepted or key in self._prints]

    def _accept(self, folder: ModelFolder, key: Key, fingerprint: Fingerprint) -> bool:
        """Whether a folder may be loaded as it is: nobody is writing into it."""
        if self._is_first or self._prints.get(key) == fingerprint or folder.read_token() is not None:
            return True
        seen, since = self._unsettled.get(key, (None, 0.0))
        if seen != fingerprint:
            self._unsettled[key] = fingerprint, time.monotonic()
            return False
        return time.monotonic() - since >= SETTLE_S

    def _identify(self, folder: ModelFolder, state: str | None) -> Fingerprint:
        """What tells a folder from the one that had its place before; of one in use the folder itself suffices."""
        number = folder.path.stat().st_ino
        known = self._prints.get((folder.name, folder.version), (None,))
        if state in (State.READY, State.LOADING) and known[0] == number:
            return known
        return number, *describe_files(folder)

    def _forget_removals(self, state: WantedState) -> None:
        """Forget that a folder was not to be served once it is gone; one that is put there later is another one."""
        gone = {key for key, wanted in state.versions.items() if not wanted.is_registered} - self._folders.keys()
        if gone and self._settings.models.is_dir():
            with self._access.open().change() as draft:
                for key in gone:
                    if key in draft.versions and not draft.versions[key].is_registered:
                        del draft.versions[key]


def describe_files(folder: ModelFolder) -> list[tuple[str, int, int]]:
    """Path, size and time of every file of a version; what a compilation has begun is passed over."""
    files = []
    for path in (*folder.path.glob("[!.]*"), *folder.path.glob("[!.]*/*"), *folder.path.glob("[!.]*/*/*")):
        if path.is_file():
            status = path.stat()
            files.append((str(path), status.st_size, status.st_mtime_ns))
    return sorted(files)
