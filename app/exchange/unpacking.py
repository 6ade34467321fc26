"""Unpacks an archive or a folder that somebody brings into a new folder of ours: all of it or nothing.

The limits are checked while bytes are read; no header's word is taken for them.
"""

import os
import re
import shutil
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.config.settings import Settings
from app.errors import ArchiveError
from app.exchange import tgz_reader, zip_reader
from app.exchange.model_format import HANDLER_MANIFEST, ModelFormat, describe_unknown, identify_file
from app.manifest.model_manifest import MANIFEST_FILE
from app.repository.model_content import is_hidden

NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
MAX_NAME_LENGTH = 200
MAX_DEPTH = 16
FREE_BYTES = 1 << 20
"""An archive may hold these bytes whatever its ratio: short texts and the padding of tar pack well."""
UNPACKED_FACTOR = 4
"""An archive may unpack to so many times the bytes that it may have itself."""
Files = Iterator[tuple[str, Iterator[bytes]]]


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may hold: bytes and members in all, and unpacked bytes for each packed one."""

    bytes: int
    members: int = 256
    ratio: int = 100


def find_limits(settings: Settings) -> ArchiveLimits:
    """Return the limits of an archive that is brought to this server."""
    return ArchiveLimits(bytes=UNPACKED_FACTOR * settings.max_model_bytes)


def unpack(source: Path, target: Path, limits: ArchiveLimits) -> Path:
    """Unpack a zip archive, a gzipped tar archive or a plain folder into the new folder `target`.

    Returns `target`, or the one folder in it that holds all of the content. Raises `ArchiveError` or `OSError`;
    `target` is removed then.
    """
    target.mkdir()
    try:
        names = write_files(source, target, limits)
        refuse_nested(target, names)
        return target / find_root(names)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def open_source(source: Path, limits: ArchiveLimits) -> Files:
    """Choose the reader by the first bytes."""
    if source.is_dir():
        return read_folder(source, limits)
    if not source.is_file():
        raise ArchiveError(f"{source.name} is neither a file nor a folder")
    with source.open("rb") as file:
        head = file.read(4)
    if head == zip_reader.MAGIC:
        return read_zip(source, limits)
    if head.startswith(tgz_reader.MAGIC):
        return tgz_reader.read_tgz(source, limits.members)
    raise ArchiveError(describe_unknown(source))


def read_zip(source: Path, limits: ArchiveLimits) -> Files:
    """Yield name and content of every file of a zip archive."""
    with source.open("rb") as file:
        archive = zip_reader.open_zip(file, limits.members)
        for info in zip_reader.list_files(archive):
            yield info.orig_filename, zip_reader.read_member(archive, info)


def read_folder(source: Path, limits: ArchiveLimits) -> Files:
    """Yield path and content of every file in order; follows no link, even one that appears meanwhile.

    Raises `ArchiveError` for links, pipes, devices and too many members.
    """
    count = 0
    for where, folders, files, descriptor in os.fwalk(source, follow_symlinks=False):
        folders.sort()
        count += len(folders) + len(files)
        if count > limits.members:
            raise ArchiveError(f"the folder holds more than the {limits.members} members that are allowed")
        for name in (*folders, *files):
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise ArchiveError("the folder holds a link, a pipe or a device; only plain files are allowed")
        for name in sorted(files):
            path = Path(where, name).relative_to(source).as_posix()
            yield path, read_plain_file(name, descriptor)


def read_plain_file(name: str, folder: int) -> Iterator[bytes]:
    """Yield the bytes of a plain file; raises `ArchiveError` if it has a second name, a hard link."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
            raise ArchiveError("the folder holds a link; only plain files with one name are allowed")
        while chunk := file.read(zip_reader.CHUNK_BYTES):
            yield chunk


def read_checked(source: Path, limits: ArchiveLimits) -> Files:
    """Yield name and content of every file of a source; raises `ArchiveError` where a name or a limit is not kept."""
    files, names, allowed = open_source(source, limits), Names(limits.members), limits.bytes
    if not source.is_dir():  # the bytes of a folder are not packed
        allowed = min(allowed, max(FREE_BYTES, limits.ratio * source.stat().st_size))
    left = allowed

    def count(chunks: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal left
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise ArchiveError(f"the archive unpacks to more than the {allowed} bytes that are allowed")
            yield chunk

    for name, chunks in files:
        names.add(name)
        yield name, count(chunks)
    names.check_manifests()


def verify_zip(source: Path, limits: ArchiveLimits) -> None:
    """Read a zip archive to its end without writing it; raises `ArchiveError` as `unpack` does."""
    for _, chunks in read_checked(source, limits):
        deque(chunks, maxlen=0)


def write_files(source: Path, target: Path, limits: ArchiveLimits) -> list[str]:
    """Write the source's files below `target` and return their names; hidden ones are read, but not written."""
    names = []
    for name, chunks in read_checked(source, limits):
        if is_hidden(name):
            deque(chunks, maxlen=0)
            continue
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.writelines(chunks)
        names.append(name)
    return names


def refuse_nested(target: Path, names: list[str]) -> None:
    """Refuse an archive inside the archive; model files that are zip archives themselves are allowed."""
    for name in names:
        if identify_file(target / name) in (ModelFormat.ARCHIVE, ModelFormat.MAR, ModelFormat.PACKED):
            raise ArchiveError(f"the archive holds another archive: {name}")


class Names:
    """The names met so far; no two of them may mean one file on any file system."""

    def __init__(self, limit: int) -> None:
        self.all: list[str] = []
        self._limit = limit
        self._folded: dict[str, str] = {}
        self._folders: set[str] = set()

    def add(self, name: str) -> None:
        """Add the name of a file; raises `ArchiveError` if it is not allowed beside the others."""
        check_name(name)
        if len(self.all) == self._limit:
            raise ArchiveError(f"the archive holds more than the {self._limit} members that are allowed")
        parts = name.split("/")
        paths = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        for path in paths:
            if self._folded.setdefault(path.casefold(), path) != path:
                raise ArchiveError("two names of the archive differ only in upper and lower case")
        taken = self._folders | set(self.all)
        if name in taken or set(paths[:-1]) & set(self.all):
            raise ArchiveError("the archive holds a name twice")
        self.all.append(name)
        self._folders.update(paths[:-1])

    def check_manifests(self) -> None:
        """Refuse two manifests: two readers might each go by another one."""
        ends = f"/{MANIFEST_FILE}", f"/{HANDLER_MANIFEST.casefold()}"
        manifests = [name for name in self.all if f"/{name.casefold()}".endswith(ends)]
        if len(manifests) > 1:
            raise ArchiveError("the archive holds more than one manifest")


def check_name(name: str) -> None:
    """Refuse a name that is not plain, relative and short; raises `ArchiveError`."""
    parts = name.split("/")
    if not NAME_PATTERN.fullmatch(name) or {".", ".."} & set(parts):
        raise ArchiveError(f"the archive holds a name that is not allowed: {name[:60]!a}")
    if len(name) > MAX_NAME_LENGTH or len(parts) > MAX_DEPTH:
        raise ArchiveError(f"the archive holds a name that is longer or deeper than allowed: {name[:60]!a}")


def find_root(names: list[str]) -> str:
    """Return the one folder that holds every file, or "." for none and for MAR-INF itself."""
    if not names:
        raise ArchiveError("the archive holds no file")
    firsts = {name.split("/", 1)[0] for name in names}
    if len(firsts) == 1 and "/" in names[0] and HANDLER_MANIFEST not in names:
        return firsts.pop()
    return "."
