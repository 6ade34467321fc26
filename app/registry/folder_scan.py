"""Watches the model folders: which there are, which are whole, and which are other ones than they were."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from app.errors import ModelFolderError
from app.registry.model_entry import State
from app.repository.model_folder import FileFacts, ModelFolder, describe_file, describe_files, find_model_folders
from app.state.wanted import Key

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""How long a new folder among the models must stay as it is before it is loaded: it may still be copied."""


class Fingerprint(NamedTuple):
    """What tells a folder from the one that had its place before: its inode, and its files."""

    inode: int
    files: tuple[FileFacts, ...]


@dataclass(frozen=True)
class Sighting:
    """A folder as it was last seen.

    Attributes:
        accepted: its fingerprint when it was last found to be whole; None if it never was.
        seen, since_s: the fingerprint that it has now, and `time.monotonic()` of when that was first seen.
        listed_ns: the time at which its list of names was last changed when it was read.
        compared: the fingerprint that it had when its content was last compared with what this worker has loaded.
        rewritten: what differed then.
    """

    folder: ModelFolder
    accepted: Fingerprint | None
    seen: Fingerprint
    since_s: float
    listed_ns: int
    compared: Fingerprint | None = None
    rewritten: tuple[str, ...] = ()

    @property
    def may_differ(self) -> bool:
        """Whether its content may be another one than this worker has loaded."""
        return self.seen != self.accepted and (self.seen != self.compared or bool(self.rewritten))

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it has changed for a while."""
        return time.monotonic() - self.since_s >= SETTLE_S

    def compare(self, find_rewritten: "FindRewritten") -> "Sighting":
        """Compare its content with what this worker has loaded, unless that was done."""
        if self.seen in (self.accepted, self.compared):
            return self
        return replace(self, compared=self.seen, rewritten=find_rewritten(self.folder))

    def accept(self) -> "Sighting":
        """Accept it as it is now."""
        return replace(self, accepted=self.seen, compared=None, rewritten=())


FindRewritten = Callable[[ModelFolder], tuple[str, ...]]
"""Says what in a folder is other than this worker has loaded it."""


@dataclass(frozen=True)
class FolderScan:
    """What the models folder held at one moment; the next scan starts from it."""

    sightings: Mapping[Key, Sighting]
    changed: frozenset[Key] = frozenset()

    @property
    def folders(self) -> list[ModelFolder]:
        """The folders that may be loaded."""
        return [each.folder for each in self.sightings.values() if each.accepted is not None]

    @property
    def rewritten(self) -> Mapping[Key, tuple[str, ...]]:
        """The changed files of models that this worker has loaded, by version."""
        return {key: each.rewritten for key, each in self.sightings.items() if each.rewritten}

    def take_up(self, keys: Iterable[Key], find_rewritten: FindRewritten) -> "FolderScan":
        """Count those of the versions as changed, and accept them, whose content is other than this worker's."""
        sightings = dict(self.sightings)
        for key in keys & sightings.keys():
            sightings[key] = sightings[key].compare(find_rewritten)
        taken = {key for key in keys & sightings.keys() if sightings[key].rewritten}
        sightings |= {key: sightings[key].accept() for key in taken}
        return FolderScan(sightings, self.changed | taken)


def scan_folders(
    root: Path, before: FolderScan | None, states: Mapping[str, str], find_rewritten: FindRewritten
) -> FolderScan:
    """Look at the model folders; one that cannot be looked at stays as it was.

    `before` is the last scan. At the start it is None, and every folder is taken to be whole. `states` are those of the
    versions in this worker, by `name/version`.
    """
    known = before.sightings if before is not None else {}
    try:
        found = {(folder.name, folder.version): folder for folder in find_model_folders(root)}
    except (ModelFolderError, OSError) as error:  # it may be there again in a moment
        if before is None:
            log.error("no models", extra={"reason": str(error)})
        return FolderScan(known)
    found = {key: each.folder for key, each in known.items() if key not in found and not is_gone(each.folder)} | found
    sightings = {}
    for key, folder in found.items():
        try:
            sighting = look_at(folder, known.get(key), states.get("/".join(key), ""), is_first=before is None)
            is_loaded = states.get("/".join(key)) == State.READY
            sightings[key] = sighting.compare(find_rewritten) if is_loaded and sighting.is_settled else sighting
        except OSError:  # a file went away meanwhile
            if key in known:
                sightings[key] = known[key]
    kept = known.keys() & sightings.keys()
    changed = {key for key in kept if known[key].accepted not in (None, sightings[key].accepted)}
    return FolderScan(sightings, frozenset(changed))


def is_gone(folder: ModelFolder) -> bool:
    """Whether a folder is gone; False for one that cannot be looked at."""
    try:
        return not folder.path.is_dir()
    except OSError:
        return False


def look_at(folder: ModelFolder, last: Sighting | None, state: str, is_first: bool) -> Sighting:
    """Look at one folder; while this worker uses it, only another folder in its place counts as a change.

    Raises `OSError` if a file goes away meanwhile.
    """
    status = folder.path.stat()
    inode, listed_ns = status.st_ino, status.st_mtime_ns
    is_in_use = state in (State.READY, State.LOADING)  # then the folder itself decides: compiling writes into it
    if last is None or not is_in_use or last.listed_ns != listed_ns or not is_as(last.seen, inode):
        seen = Fingerprint(inode, tuple(describe_files(folder)))
        now = Sighting(folder, None, seen, time.monotonic(), listed_ns)
        if last is not None:
            since_s = last.since_s if last.seen == seen else now.since_s
            now = replace(last, seen=seen, since_s=since_s, listed_ns=listed_ns)
        last = now
    if is_in_use and last.accepted is not None and last.accepted.inode == inode:
        return last
    return last.accept() if is_first or folder.read_token() is not None or last.is_settled else last


def is_as(seen: Fingerprint, inode: int) -> bool:
    """Whether a folder, which has this inode, has the same files as before; what came is not looked for."""
    try:
        return seen.inode == inode and all(describe_file(facts[0]) == facts for facts in seen.files)
    except OSError:
        return False
