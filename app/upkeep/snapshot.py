"""Opens every file that a backup takes, all at one moment, so that they can be read at leisure.

An open file keeps its content when its name goes. Models come and go by one rename each, so nothing is copied or locked
for longer than the opening takes.
"""

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from app.config.settings import Settings
from app.errors import BackupError
from app.repository.model_folder import ARCHIVE_FOLDER, TOKEN_FILE, find_model_folders
from app.upkeep.backup_file import INSTANCE, KEPT, MODELS, is_plain_name

OWN_HIDDEN = (TOKEN_FILE, ARCHIVE_FOLDER)
"""Names with a dot, in a model's folder, that belong to it."""
Facts = tuple[int, int, int]


class ChangedError(BackupError):
    """Something was changed while it was read."""


@dataclass(frozen=True)
class OpenFile:
    """A file that was opened: its name in the backup, and what it was then."""

    name: str
    path: Path
    file: BinaryIO
    facts: Facts
    mtime: int


@dataclass
class Snapshot:
    """All files, and what was passed over.

    Attributes:
        listed: the names that each folder held, with what tells the files apart; `inode` of the folder by its path.
        left_out: what is neither a file nor a folder, or has a name that no backup can hold.
    """

    files: list[OpenFile] = field(default_factory=list)
    listed: dict[Path, tuple[int, dict[str, Facts]]] = field(default_factory=dict)
    left_out: list[Path] = field(default_factory=list)

    def check_unchanged(self) -> None:
        """Raise `ChangedError` if a file was written to, or a folder that is still there holds others."""
        for each in self.files:
            if describe(os.fstat(each.file.fileno())) != each.facts:
                raise ChangedError(f"{each.path} was written to while it was read")
        for folder, (inode, names) in self.listed.items():
            with suppress(FileNotFoundError):
                if folder.stat().st_ino == inode and names != list_facts(folder):
                    raise ChangedError(f"{folder} was changed while it was read")


def take_snapshot(settings: Settings, stack: ExitStack) -> Snapshot:
    """Open everything; the files are closed with the `stack`. Raises `BackupError`, `ManifestError` or `OSError`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    snapshot = Snapshot()
    try:
        for name in KEPT:
            path = settings.instance / name
            if path.exists():
                add(snapshot, path, f"{INSTANCE}/{name}", stack)
        for folder in find_model_folders(settings.models):
            add(snapshot, folder.path, f"{MODELS}/{folder.label}", stack)
    except FileNotFoundError as error:
        raise ChangedError(f"{error.filename} went away while it was opened") from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise BackupError(
                f"there are more files than the {hard} that this process may open: raise it by 'ulimit -Hn'"
            ) from error
        raise BackupError(f"{error.filename} cannot be read: {error.strerror}") from error
    return snapshot


def add(snapshot: Snapshot, root: Path, name: str, stack: ExitStack) -> None:
    """Open a file, or all files of a folder."""
    if root.is_file():
        open_file(snapshot, root, name, stack)
        return
    snapshot.listed[root] = (root.stat().st_ino, list_facts(root))
    for path in walk(root, snapshot.left_out):
        open_file(snapshot, path, f"{name}/{path.relative_to(root).as_posix()}", stack)


def open_file(snapshot: Snapshot, path: Path, name: str, stack: ExitStack) -> None:
    """Open one file, also through a link; what cannot be kept is passed over."""
    if not is_plain_name(name):
        snapshot.left_out.append(path)
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = stack.enter_context(os.fdopen(descriptor, "rb"))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        snapshot.left_out.append(path)
        return
    snapshot.files.append(OpenFile(name, path, file, describe(status), int(status.st_mtime)))


def walk(root: Path, left_out: list[Path]) -> Iterator[Path]:
    """Yield the files below a folder in order; links to folders, pipes and devices are put with what is left out."""
    for where, folders, files in os.walk(root):
        here = Path(where)
        folders[:] = sorted(name for name in folders if is_kept(root, here / name))
        for name in [name for name in folders if (here / name).is_symlink()]:
            left_out.append(here / name)
            folders.remove(name)
        for name in sorted(files):
            path = here / name
            if not is_kept(root, path):
                continue
            if path.is_file():
                yield path
            else:
                left_out.append(path)


def is_kept(root: Path, path: Path) -> bool:
    """Whether a path is part of a model; what others hide among its files is not."""
    parts = path.relative_to(root).parts
    return parts[0] in OWN_HIDDEN or not any(part.startswith(".") for part in parts)


def describe(status: os.stat_result) -> Facts:
    """What tells a file from one that was written to, or put in its place."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def list_facts(root: Path) -> dict[str, Facts]:
    """The files below a folder by name; raises `FileNotFoundError` if one goes away meanwhile."""
    return {str(path.relative_to(root)): describe(path.stat()) for path in walk(root, [])}
