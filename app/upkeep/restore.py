"""`flask restore`: verifies a backup, stages it beside what is there, and swaps both."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.config.setting_types import OWN_DATABASE
from app.config.settings import Settings
from app.errors import BackupError
from app.processes.atomic import FOR_OWNER, synchronize_tree
from app.processes.disk_errors import translate_disk_errors
from app.processes.exposure import become_owner
from app.processes.plain_files import open_plain
from app.repository.model_folder import find_model_folders
from app.state.database_check import check_reachable
from app.state.store_access import STATE_FILE
from app.upkeep.backup import list_settings
from app.upkeep.backup_file import (
    INSTANCE,
    KEPT,
    MODELS,
    STATE,
    BackupManifest,
    Counter,
    FileFacts,
    pass_over,
    read_opened,
)
from app.upkeep.backup_file import SETTINGS as SETTINGS_FILE
from app.upkeep.snapshot import Snapshot, take_snapshot
from app.upkeep.swap import (
    DATABASE_FILE,
    NEW,
    OLD,
    STAGING,
    Journal,
    finish_alone,
    hold_stopped,
    is_unfinished,
    mark_database,
    remove_staging,
)
from app.users import USERS_FILE, UsersFile

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Restored:
    """A backup that was restored, and the settings that were others where it was made."""

    manifest: BackupManifest
    other_settings: list[str]


def restore_backup(settings: Settings, file: Path) -> Restored:
    """Put a backup in the place of what is there. The file is verified before anything is written.

    Root does it as the owner of the instance folder. Raises `BackupError`, `StateStoreError`, `UsersError` or
    `DiskFullError`; everything is as it was then. Raises `SettingsError` if a restore was decided and cannot be
    finished.
    """
    with translate_disk_errors(BackupError, f"{file} cannot be restored"), ExitStack() as stack:
        opened = stack.enter_context(open_plain(file))
        manifest = read_opened(file, opened)
        for folder in (settings.instance, settings.models):
            folder.mkdir(parents=True, exist_ok=True)
        with become_owner(settings.instance), hold_stopped(settings):
            if is_unfinished(settings):
                finish_alone(settings)
            remove_staging(settings)
            try:
                others = stage(settings, file, opened, manifest)
            except BaseException:
                if not is_unfinished(settings):
                    remove_staging(settings)
                raise
            finish_alone(settings)
    return Restored(manifest, others)


def stage(settings: Settings, file: Path, opened: BinaryIO, manifest: BackupManifest) -> list[str]:
    """Write everything beside its place, check it there, and decide; return the settings that differ."""
    if settings.database != OWN_DATABASE:
        check_reachable(settings.database)
    with ExitStack() as stack:
        same = find_same(manifest, take_snapshot(settings, stack))
    staging = Staging(settings, same)
    if read_opened(file, opened, staging.write) != manifest:
        raise BackupError(f"{file} was changed while it was read")
    staging.prepare_state(manifest.database)
    UsersFile(staging.instance).read()
    journal = make_journal(settings, manifest, staging, same)
    check_movable(settings.models, {*journal.new_models, *journal.old_models})
    check_movable(settings.instance, {*journal.new_instance, *journal.old_instance})
    for root in staging.roots:
        synchronize_tree(root)
    journal.write(settings.instance)
    return sorted({*staging.settings_text.splitlines()} ^ {*list_settings(settings).splitlines()})


def find_same(manifest: BackupManifest, snapshot: Snapshot) -> set[str]:
    """Find what is already as the backup holds it: `models`, and what is kept of the instance folder.

    It need not be written then, and perhaps cannot: a container's models and users may lie where nobody may write.
    """
    found = {each.name: hash_file(each.file) for each in snapshot.files}

    def choose(files: dict[str, FileFacts], prefix: str) -> dict[str, FileFacts]:
        return {name: facts for name, facts in files.items() if f"{name}/".startswith(f"{prefix}/")}

    parts = [MODELS, *(f"{INSTANCE}/{name}" for name in KEPT)]
    return {part for part in parts if choose(found, part) and choose(found, part) == choose(manifest.files, part)}


def hash_file(file: BinaryIO) -> FileFacts:
    """Size and SHA-256 of an open file."""
    counter = Counter()
    while counter.count(file.read(CHUNK_BYTES)):
        pass
    return counter.facts


def make_journal(settings: Settings, manifest: BackupManifest, staging: "Staging", same: set[str]) -> Journal:
    """List what goes and what comes."""
    new_models, old_models = set(), set()
    if MODELS not in same:
        new_models = {label.split("/")[0] for label in manifest.list_versions()}
        old_models = {folder.name for folder in find_model_folders(settings.models)} | new_models
    old_instance = [name for name in KEPT if f"{INSTANCE}/{name}" not in same]
    if settings.database == OWN_DATABASE:
        old_instance += [STATE_FILE, f"{STATE_FILE}-wal", f"{STATE_FILE}-shm"]
    return Journal(
        models=str(settings.models.absolute()),
        new_models=sorted(new_models),
        old_models=sorted(old_models),
        new_instance=sorted(path.name for path in staging.instance.iterdir()),
        old_instance=old_instance,
        fills_database=settings.database != OWN_DATABASE,
        database=mark_database(settings.database),
    )


def check_movable(root: Path, names: Iterable[str]) -> None:
    """Raise `BackupError` if something could not be renamed within a folder, since it is a mount of its own."""
    mounts, device = read_mounts(), root.stat().st_dev
    for name in names:
        path = root.resolve() / name
        if os.path.lexists(path) and (str(path) in mounts or path.lstat().st_dev != device):
            raise BackupError(f"{root / name} is mounted there, so nothing can take its place: mount {root} alone")


def read_mounts() -> set[str]:
    """Return the paths where something is mounted, perhaps of the same file system, where the kernel says so."""
    with suppress(FileNotFoundError):
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in lines}
    return set()


class Staging:
    """The folders in which a backup is unpacked, beside what it will replace; parts that are the `same` are left out.

    Attributes:
        instance: what will lie in the instance folder.
        settings_text: the settings of where the backup was made, a variable a line.
    """

    def __init__(self, settings: Settings, same: set[str]) -> None:
        self._settings, self._same = settings, same
        self.settings_text = ""
        self.instance, self._models = (root / STAGING / NEW for root in (settings.instance, settings.models))
        is_own = settings.database == OWN_DATABASE
        self._state = self.instance / STATE_FILE if is_own else self.instance.with_name(DATABASE_FILE)
        self.roots = [self.instance.parent] if MODELS in same else [self.instance.parent, self._models.parent]
        for root in self.roots:
            root.mkdir(mode=0o700)
            for name in (NEW, OLD):  # both, so that the renames themselves want no room
                (root / name).mkdir()

    def write(self, name: str, chunks: Iterator[bytes]) -> None:
        """Write a member of the backup."""
        if name == SETTINGS_FILE:
            self.settings_text = b"".join(chunks).decode(errors="replace")
        elif any(f"{name}/".startswith(f"{part}/") for part in self._same):
            pass_over(name, chunks)
        else:
            path = self._find_place(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                if not name.startswith(f"{MODELS}/"):
                    path.chmod(FOR_OWNER)
                file.writelines(chunks)

    def _find_place(self, name: str) -> Path:
        if name == STATE:
            return self._state
        part, _, rest = name.partition("/")
        return (self._models if part == MODELS else self.instance) / rest

    def prepare_state(self, source: str) -> None:
        """Make the state ready; `source` is the kind of database of the backup. Raises as `staged_state`."""
        from app.upkeep.staged_state import prepare_state  # SQLAlchemy, which no other command needs

        is_same = f"{INSTANCE}/{USERS_FILE}" in self._same
        users = UsersFile(self._settings.instance if is_same else self.instance).read()
        prepare_state(self._settings, self._state, self.instance, users, source)
