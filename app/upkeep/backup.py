"""`flask backup`: writes models, users, defaults and state to one file while a server may run."""

import io
import os
import re
import secrets
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import app
from app.config.setting_types import OWN_DATABASE
from app.config.settings import PREFIX, SETTINGS, Settings
from app.errors import BackupError
from app.processes.atomic import FOR_OWNER, synchronize
from app.processes.disk_errors import translate_disk_errors
from app.processes.exposure import become_owner
from app.processes.locks import try_lock
from app.state.copying.state_copy import has_state, hold_state
from app.upkeep.backup_file import MANIFEST, STATE, BackupManifest, Counter, FileFacts, read_backup
from app.upkeep.backup_file import SETTINGS as SETTINGS_FILE
from app.upkeep.snapshot import ChangedError, Snapshot, take_snapshot
from app.upkeep.swap import claim_restored

TRIES, PAUSE_S = 5, 1.0


@dataclass(frozen=True)
class Written:
    """A backup that was written and read back, and what could not be kept in it."""

    manifest: BackupManifest
    left_out: list[Path]


def write_backup(settings: Settings, output: Path) -> Written:
    """Write a backup; an earlier file of that name stays until the new one is whole and was read back.

    Raises `BackupError`, `StateStoreError`, `ManifestError` or `DiskFullError`.
    """
    with translate_disk_errors(BackupError, f"{output} cannot be written"):
        sweep(output)
        for left in reversed(range(TRIES)):
            with open_staged(output) as (file, staged):
                try:
                    return write_once(settings, file, staged, output)
                except ChangedError as error:
                    if not left:
                        raise BackupError(f"{error.message}, {TRIES} times: back up when nobody writes there") from None
            time.sleep(PAUSE_S)
    raise AssertionError("the last try returns or raises")


def write_once(settings: Settings, file: BinaryIO, staged: Path, output: Path) -> Written:
    """Write, read back and rename; raises `ChangedError` if something changed meanwhile."""
    with ExitStack() as opened:
        with become_owner(settings.instance), hold_place(settings), hold_state(settings) as state:
            snapshot = take_snapshot(settings, opened)
        manifest = write_members(file, settings, state, snapshot)
        snapshot.check_unchanged()
    if state is None and has_state(settings):
        raise ChangedError("the state came while it was looked for")
    file.flush()
    os.fsync(file.fileno())
    if read_backup(staged) != manifest:
        raise BackupError(f"{output} does not hold what was written to it")
    staged.rename(output)
    synchronize(output.parent)
    return Written(manifest, snapshot.left_out)


@contextmanager
def hold_place(settings: Settings) -> Iterator[None]:
    """Keep a restore from beginning, until the block ends; where there is no instance folder, none ever began."""
    if not settings.instance.is_dir():
        yield
        return
    claim = claim_restored(settings)
    try:
        yield
    finally:
        os.close(claim)


def write_members(file: BinaryIO, settings: Settings, state: bytes | None, snapshot: Snapshot) -> BackupManifest:
    """Write all files, and the manifest last."""
    files: dict[str, FileFacts] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        texts = {SETTINGS_FILE: list_settings(settings).encode()} | ({} if state is None else {STATE: state})
        for name, content in texts.items():
            files[name] = add(archive, name, io.BytesIO(content), len(content), int(time.time()))
        for each in snapshot.files:
            files[each.name] = add(archive, each.name, each.file, each.facts[1], each.mtime)
        kind = settings.database.partition(":")[0].partition("+")[0]
        if kind == OWN_DATABASE != settings.database:
            kind = "sqlite-url"  # servers share it, so its tables keep the users
        manifest = BackupManifest(datetime.now(UTC).isoformat(timespec="seconds"), app.__version__, kind, files)
        content = manifest.write()
        add(archive, MANIFEST, io.BytesIO(content), len(content), int(time.time()))
    return manifest


class CountedFile:
    """A file as `tarfile` reads it; `counter` knows size and SHA-256 of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.counter = file, Counter()

    def read(self, size: int) -> bytes:
        """The next bytes."""
        return self.counter.count(self._file.read(size))


def add(archive: tarfile.TarFile, name: str, file: BinaryIO, size: int, mtime: int) -> FileFacts:
    """Add a member; raises `ChangedError` if the file has become shorter than its `size` in bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, mtime, FOR_OWNER
    counted = CountedFile(file)
    try:
        archive.addfile(info, counted)  # type: ignore[arg-type]  # it only reads
    except OSError as error:
        if error.errno is None:  # tarfile's own: "unexpected end of data"
            raise ChangedError(f"{name} became shorter while it was read") from error
        raise
    return counted.counter.facts


def list_settings(settings: Settings) -> str:
    """The settings that are not the defaults, a variable a line; of a secret one only that it is set."""
    lines = []
    for name, item in SETTINGS.items():
        value = getattr(settings, name)
        if value == item.default:
            continue
        if item.metadata["is_secret"]:
            lines.append(f"# {PREFIX}{name.upper()} is set; it may hold a password, so its value is not here")
        else:
            lines.append(f"{PREFIX}{name.upper()}={','.join(value) if type(value) is tuple else value}")
    return "".join(f"{line}\n" for line in lines)


@contextmanager
def open_staged(output: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a new file beside `output`, for its owner alone and locked while this process lives; it is gone if it has
    not been renamed when the block ends.
    """
    lock = None
    while lock is None:  # None where another process swept it just then
        staged = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
        lock = try_lock(staged, makes_file=True)
    try:
        with staged.open("r+b") as file:
            yield file, staged
    finally:
        staged.unlink(missing_ok=True)
        os.close(lock)


def sweep(output: Path) -> None:
    """Remove the files of backups that were killed: they are beside `output`, and nobody has their locks."""
    pattern = re.compile(rf"\.{re.escape(output.name)}\.[0-9a-f]{{8}}")
    for left in [path for path in output.parent.iterdir() if pattern.fullmatch(path.name)]:
        lock = try_lock(left)
        if lock is not None:
            with suppress(FileNotFoundError):
                left.unlink()
            os.close(lock)
