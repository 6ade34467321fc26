"""Watches the model folders: which there are, which are whole, and which are other ones than they were."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from app.errors import ModelFolderError
from app.registry.model_entry import State
from app.repository.model_folder import ModelFolder, describe_files, find_model_folders
from app.state.wanted import Key

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""How long a new folder among the models must stay as it is before it is loaded: it may still be copied."""
Fingerprint = tuple[object, ...]
"""What tells a folder from the one that had its place before: its inode number, then its files."""


@dataclass(frozen=True)
class Sighting:
    """A folder as it was last seen.

    Attributes:
        accepted: its fingerprint when it was last found to be whole; None if it never was.
        seen, since_s: the fingerprint that it has now, and `time.monotonic()` of when that was first seen.
    """

    folder: ModelFolder
    accepted: Fingerprint | None
    seen: Fingerprint
    since_s: float


@dataclass(frozen=True)
class FolderScan:
    """What the models folder held at one moment; the next scan starts from it."""

    sightings: Mapping[Key, Sighting]
    changed: frozenset[Key] = frozenset()

    @property
    def folders(self) -> list[ModelFolder]:
        """The folders that may be loaded."""
        return [each.folder for each in self.sightings.values() if each.accepted is not None]


def scan_folders(root: Path, before: FolderScan | None, states: Mapping[str, str]) -> FolderScan:
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
            sightings[key] = look_at(folder, known.get(key), states.get("/".join(key), ""), is_first=before is None)
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
    """Look at one folder; in use by this worker, it is as it was unless another folder took its place.

    Raises `OSError` if a file goes away meanwhile.
    """
    inode = folder.path.stat().st_ino
    is_in_use = state in (State.READY, State.LOADING)  # then the folder itself decides: compiling writes into it
    if is_in_use and last is not None and last.accepted is not None and last.accepted[0] == inode:
        return last
    seen = (inode, *describe_files(folder))
    if last is None or last.seen != seen:
        last = Sighting(folder, None if last is None else last.accepted, seen, time.monotonic())
    is_whole = is_first or folder.read_token() is not None or time.monotonic() - last.since_s >= SETTLE_S
    return replace(last, accepted=seen) if is_whole else last
