"""Puts what was restored into its place by renames, all of it, whatever ends the process on the way.

Everything is staged inside the folders that it is for, since either may be a file system of its own. A journal in the
instance folder says that all is staged. From then on the restore only goes forward: whoever finds the journal next, a
command or a server that starts, makes the renames that are left. Every step may be made twice.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from app.config.settings import Settings
from app.errors import BackupError, DiskFullError, SettingsError, StateStoreError
from app.processes.atomic import FOR_OWNER, synchronize, write_file
from app.processes.exposure import become_owner
from app.server.instance_claim import claim_alone, claim_instance
from app.state.worker_reports import read_reports

STAGING, NEW, OLD, JOURNAL, DATABASE_FILE = ".restore", "new", "old", "journal.json", "database.db"
"""`DATABASE_FILE` is the state where another database keeps it."""
WAIT_S, PAUSE_S = 60.0, 0.1


@dataclass(frozen=True)
class Journal:
    """What the renames are.

    Attributes:
        models: the folder of the models; the instance folder is where the journal lies.
        new_models, new_instance: names that are staged, and take their places.
        old_models, old_instance: names that leave their places, if they are there.
        fills_database: whether the state goes into another database than the instance folder's own.
        database: what `mark_database` says of the setting that names the database.
    """

    models: str
    new_models: list[str]
    old_models: list[str]
    new_instance: list[str]
    old_instance: list[str]
    fills_database: bool
    database: str

    def write(self, instance: Path) -> None:
        """Write it in one step: the restore is decided then."""
        path = find_journal(instance)
        write_file(path, json.dumps(asdict(self)), FOR_OWNER)
        synchronize(path.parent)


def find_journal(instance: Path) -> Path:
    """Where the journal of a restore lies."""
    return instance / STAGING / JOURNAL


def is_unfinished(settings: Settings) -> bool:
    """Whether a restore was decided, and has renames left."""
    return find_journal(settings.instance).exists()


@contextmanager
def hold_stopped(settings: Settings) -> Iterator[None]:
    """Keep servers from starting in the instance folder until the block ends; raises `BackupError` if one runs."""
    descriptor = claim_alone(settings)
    if descriptor is None:
        raise BackupError(f"a server runs in {settings.instance}, or a backup or another restore: stop it first")
    try:
        if reports := read_reports(settings.instance):
            raise BackupError(f"process {reports[0].pid} serves from {settings.instance}: stop it first")
        yield
    finally:
        os.close(descriptor)


def finish_restore(settings: Settings) -> None:
    """Make what is left of a restore that was decided, and ended before its last rename; usually there is none.

    Raises `SettingsError` if that cannot be done: nothing may be served then.
    """
    deadline = time.monotonic() + WAIT_S
    while is_unfinished(settings):
        with become_owner(settings.instance):
            descriptor = claim_alone(settings)
            if descriptor is not None:
                try:
                    finish_alone(settings)
                finally:
                    os.close(descriptor)
                continue
        if time.monotonic() > deadline:
            raise SettingsError(f"another process restores {settings.instance}: try again when it is done.")
        time.sleep(PAUSE_S)


def claim_restored(settings: Settings) -> int:
    """Claim the instance folder once no restore has anything left to do there; raises as `claim_instance`."""
    while True:
        finish_restore(settings)
        claim = claim_instance(settings)
        if not is_unfinished(settings):
            return claim
        os.close(claim)  # a restore was killed while this process waited for it


def finish_alone(settings: Settings) -> None:
    """Finish a restore; the caller has made sure that nobody else does."""
    try:
        text = find_journal(settings.instance).read_text(encoding="utf-8")
    except FileNotFoundError:  # another process was quicker
        return
    try:
        journal = Journal(**json.loads(text))
        check_journal(settings, journal)
        make_renames(settings, journal)
    except (OSError, ValueError, TypeError, StateStoreError, DiskFullError) as error:
        raise SettingsError(
            f"a restore into {settings.instance} was decided, and cannot be finished: {error}."
        ) from error
    remove_staging(settings)


def check_journal(settings: Settings, journal: Journal) -> None:
    """Raise `SettingsError` if a restore was decided with settings that lead elsewhere."""
    fault = ""
    if not is_same_folder(Path(journal.models), settings.models):
        fault = f"SCANCER_MODELS={journal.models}"
    elif journal.database != mark_database(settings.database):
        fault = "another SCANCER_DATABASE"
    if fault:
        raise SettingsError(
            f"a restore into {settings.instance} was decided with {fault}, and is not finished: set it so until it is."
        )


def mark_database(url: str) -> str:
    """Return a SHA-256 that tells databases apart; another password is the same database."""
    return hashlib.sha256(re.sub(r"(://[^:@/]*):[^@]*@", r"\1@", url).encode()).hexdigest()


def is_same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder that is there."""
    return one.exists() and other.exists() and one.samefile(other)


def make_renames(settings: Settings, journal: Journal) -> None:
    """Make all renames, then remove the journal."""
    if journal.fills_database:
        from app.state.copying.database_copy import replace_database

        replace_database(settings.instance / STAGING / DATABASE_FILE, settings.database)
    swap(settings.models, journal.new_models, journal.old_models)
    swap(settings.instance, journal.new_instance, journal.old_instance)
    find_journal(settings.instance).unlink()
    synchronize(settings.instance / STAGING)


def swap(root: Path, new: Iterable[str], old: Iterable[str]) -> None:
    """Move what is old out of a folder, and what is new into it."""
    new = set(new)
    if not new and not any(os.path.lexists(root / name) for name in old):
        return
    staged, leaving = root / STAGING / NEW, root / STAGING / OLD
    if not (staged.is_dir() and leaving.is_dir()):
        raise FileNotFoundError(errno.ENOENT, "what was staged is gone", str(staged))
    for name in sorted({*new, *old}, key=lambda name: (name in new, name)):
        is_staged = os.path.lexists(staged / name)
        if (is_staged or name not in new) and os.path.lexists(root / name):
            (root / name).rename(leaving / name)
        if is_staged:
            (staged / name).rename(root / name)
    for folder in (leaving, staged, root):
        synchronize(folder)


def remove_staging(settings: Settings) -> None:
    """Remove what a restore has left, the old files among it; only where no journal says that it is needed."""
    for root in (settings.models, settings.instance):
        shutil.rmtree(root / STAGING, ignore_errors=True)
