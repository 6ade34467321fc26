"""Unpacks what somebody brings, an archive or a folder, into a new folder of ours; all of it or nothing.

Every rule holds while bytes are read, whatever a header promised: members, total size, ratio to the packed size, names.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import ArchiveError
from app.exchange import tgz_reader, zip_reader
from app.exchange.model_format import HANDLER_MANIFEST, ModelFormat, identify_file
from app.manifest.model_manifest import MANIFEST_FILE

NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
MAX_NAME_LENGTH = 200
MAX_DEPTH = 16
FREE_BYTES = 1 << 20
"""So much may come out of any archive, however small: short texts and the padding of tar pack well."""
Files = Iterator[tuple[str, Iterator[bytes]]]


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may hold.

    Attributes:
        members: files and folders.
        bytes: of all files together.
        ratio: bytes unpacked for each packed one.
    """

    bytes: int
    members: int = 256
    ratio: int = 100


def unpack(source: Path, target: Path, limits: ArchiveLimits) -> Path:
    """Unpack a zip archive, a gzipped tar archive or a plain folder into the new folder `target`.

    Returns:
        The folder that the content begins in: `target`, or the one root folder that all of it lies in.

    Raises:
        ArchiveError: it is none of these, is damaged, or breaks a rule; `target` is gone again.
        OSError: it cannot be read, or `target` not be written; `target` is gone again.
    """
    target.mkdir()
    try:
        names = write_files(open_source(source, limits), target, limits, measure(source))
        refuse_nested(target, names)
        return target / find_root(names)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def measure(source: Path) -> int | None:
    """Size of an archive; None for a folder, whose bytes are not packed."""
    return None if source.is_dir() else source.stat().st_size


def open_source(source: Path, limits: ArchiveLimits) -> Files:
    """Choose the reader by the first bytes."""
    if source.is_dir():
        return read_folder(source, limits)
    if not source.is_file():
        raise ArchiveError(f"{source.name} is no file and no folder")
    with source.open("rb") as file:
        head = file.read(4)
    if head == zip_reader.MAGIC:
        return read_zip(source, limits)
    if head.startswith(tgz_reader.MAGIC):
        return tgz_reader.read_tgz(source, limits.members)
    raise ArchiveError(f"{source.name} is of no known format, or damaged")


def read_zip(source: Path, limits: ArchiveLimits) -> Files:
    """Yield name and content of every file of a zip archive."""
    with source.open("rb") as file:
        for member in zip_reader.read_directory(file, limits.members):
            yield member.name, zip_reader.read_member(file, member)


def verify_zip(source: Path, limits: ArchiveLimits) -> None:
    """Read a zip archive to its end and keep nothing of it; raises `ArchiveError` as `unpack` does."""
    names, count = Names(limits.members), Counter(limits, measure(source))
    for name, chunks in read_zip(source, limits):
        names.add(name)
        for chunk in chunks:
            count.add(len(chunk))


def read_folder(source: Path, limits: ArchiveLimits) -> Files:
    """Yield name and content of every file of a folder, by name; follows no link, not even one put there meanwhile."""
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
    """Yield the bytes of a plain file that has no second name."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
            raise ArchiveError("the folder holds a link; only plain files of one name are allowed")
        while chunk := file.read(zip_reader.CHUNK_BYTES):
            yield chunk


def write_files(files: Files, target: Path, limits: ArchiveLimits, packed_bytes: int | None) -> list[str]:
    """Write files below `target` and return their names."""
    names, count = Names(limits.members), Counter(limits, packed_bytes)
    for name, chunks in files:
        names.add(name)
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for chunk in chunks:
                count.add(len(chunk))
                file.write(chunk)
    names.check_manifests()
    return names.all


class Counter:
    """Counts the bytes that come out; of something packed, no more than its size allows."""

    def __init__(self, limits: ArchiveLimits, packed_bytes: int | None) -> None:
        self._allowed = self._left = limits.bytes
        if packed_bytes is not None:
            self._allowed = self._left = min(limits.bytes, max(FREE_BYTES, limits.ratio * packed_bytes))

    def add(self, count: int) -> None:
        """Count bytes; raises `ArchiveError` when there are too many."""
        self._left -= count
        if self._left < 0:
            raise ArchiveError(f"the archive unpacks to more than the {self._allowed} bytes that are allowed")


def refuse_nested(target: Path, names: list[str]) -> None:
    """Refuse an archive in the archive, unless it is a model file that is a zip by its nature."""
    for name in names:
        if identify_file(target / name) in (ModelFormat.ARCHIVE, ModelFormat.MAR, ModelFormat.PACKED):
            raise ArchiveError(f"the archive holds another archive: {name}")


class Names:
    """The names met so far: each is plain, and no two are one on any file system."""

    def __init__(self, limit: int) -> None:
        self.all: list[str] = []
        self._limit = limit
        self._folded: dict[str, str] = {}
        self._folders: set[str] = set()

    def add(self, name: str) -> None:
        """Take the name of a file; raises `ArchiveError` if it is not allowed."""
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
        """Refuse two manifests: two readers might each believe another."""
        manifests = [
            name
            for name in self.all
            if name.casefold().rpartition("/")[2] == MANIFEST_FILE
            or f"/{name.casefold()}".endswith(f"/{HANDLER_MANIFEST.casefold()}")
        ]
        if len(manifests) > 1:
            raise ArchiveError("the archive holds more than one manifest")


def check_name(name: str) -> None:
    """Refuse a name that is not plain, relative and short."""
    parts = name.split("/")
    if not NAME_PATTERN.fullmatch(name) or {".", ".."} & set(parts):
        raise ArchiveError(f"the archive holds a name that is not allowed: {name[:60]!a}")
    if len(name) > MAX_NAME_LENGTH or len(parts) > MAX_DEPTH:
        raise ArchiveError(f"the archive holds a name that is longer or deeper than allowed: {name[:60]!a}")


def find_root(names: list[str]) -> str:
    """The one folder that every file lies in, unless the manifest lies beside it; "." otherwise."""
    if not names:
        raise ArchiveError("the archive holds no file")
    firsts = {name.split("/", 1)[0] for name in names}
    if len(firsts) == 1 and "/" in names[0] and HANDLER_MANIFEST not in names:
        return firsts.pop()
    return "."
