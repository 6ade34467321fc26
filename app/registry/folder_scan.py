"""Watches the model folders: which there are, which are whole, and which are other ones than they were."""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from app.engines.compile_report import COMPILED_FOLDER
from app.engines.int8_report import INT8_FOLDER
from app.errors import ModelFolderError
from app.registry.model_entry import State
from app.repository.model_folder import EXAMPLES_FOLDER, ModelFolder, describe_files, find_model_folders
from app.state.wanted import Key

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""How long a new folder among the models must stay as it is before it is loaded: it may still be copied."""
BESIDE_MODEL = re.compile(rf"({COMPILED_FOLDER}|{INT8_FOLDER}|{EXAMPLES_FOLDER})/.*|.*\.(md|txt)|LICEN[CS]E")
"""Files and folders that commands and people write beside a model; they do not change what it answers."""


class Fingerprint(NamedTuple):
    """What tells a folder from the one that had its place before: its inode, and path, bytes and time of its files."""

    inode: int
    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Sighting:
    """A folder as it was last seen.

    Attributes:
        accepted: its fingerprint when it was last found to be whole; None if it never was.
        seen, since_s: the fingerprint that it has now, and `time.monotonic()` of when that was first seen.
        rewritten: the model's files that were changed or removed since this worker loaded it.
    """

    folder: ModelFolder
    accepted: Fingerprint | None
    seen: Fingerprint
    since_s: float
    rewritten: tuple[str, ...] = ()


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
    """Look at one folder; while this worker uses it, only another folder in its place counts as a change.

    Raises `OSError` if a file goes away meanwhile.
    """
    inode = folder.path.stat().st_ino
    is_in_use = state in (State.READY, State.LOADING)  # then the folder itself decides: compiling writes into it
    if is_in_use and last is not None and last.accepted is not None and last.accepted.inode == inode:
        return replace(last, rewritten=find_rewritten(folder, last.accepted))
    seen = Fingerprint(inode, tuple(describe_files(folder)))
    if last is None or last.seen != seen:
        last = Sighting(folder, None if last is None else last.accepted, seen, time.monotonic())
    is_whole = is_first or folder.read_token() is not None or time.monotonic() - last.since_s >= SETTLE_S
    return replace(last, accepted=seen, rewritten=()) if is_whole else last


def find_rewritten(folder: ModelFolder, accepted: Fingerprint) -> tuple[str, ...]:
    """Return the files of a loaded model that are other ones now than in its fingerprint, or gone."""
    names = []
    for file, size, time_ns in accepted.files:
        path = Path(file)
        name = path.relative_to(folder.path).as_posix()
        if not BESIDE_MODEL.fullmatch(name) and not is_as(path, size, time_ns):
            names.append(name)
    return tuple(names)


def is_as(path: Path, size: int, time_ns: int) -> bool:
    """Whether a file has that size in bytes and that time of its last change."""
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size, time_ns)
