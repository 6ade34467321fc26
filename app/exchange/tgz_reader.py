"""Reads gzipped tar archives from strangers, front to back: plain files and folders only.

`tarfile` alone would take an extended header into memory whatever its size, in a process that serves others. So only
its reader of one header is used. An extended header is small here, and may give nothing but a name and times.
"""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.errors import ArchiveError

MAGIC = b"\x1f\x8b\x08"
BLOCK_BYTES = 512
CHUNK_BYTES = 1 << 18
MAX_EXTENDED_BYTES = 8192
MAX_PADDING_BYTES = 1 << 18
KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
ALLOWED_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE)
HARMLESS_KEYS = frozenset(("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"))
"""What writers add to extended headers unasked."""
RECORD_PATTERN = re.compile(rb"([0-9]{1,5}) ([A-Za-z.]+)=([^\n]*)\n")


def read_tgz(path: Path, max_members: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield name and content of every file; each content must be read to its end before the next file.

    Raises `ArchiveError`: it is damaged, or holds more than plain files and folders.
    """
    with gzip.open(path) as file:
        try:
            yield from read_files(file, max_members)  # type: ignore[arg-type]  # a GzipFile reads as any binary file does
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise ArchiveError("the archive is damaged or cut short") from None


def read_files(file: BinaryIO, max_members: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield name and content of every file of a tar stream, which ends with zeros."""
    name, headers = None, 0
    while any(block := read_exactly(file, BLOCK_BYTES)):
        headers += 1
        if headers > 2 * max_members:  # each member may have an extended header
            raise ArchiveError(f"the archive holds more than the {max_members} members that are allowed")
        member = read_header(block)
        if member.type == tarfile.XHDTYPE:
            name = read_extended(file, member.size)
            continue
        if member.isdir() and member.size:
            raise ArchiveError("the archive holds a folder with content")
        if not member.isdir():
            yield name or member.name, read_content(file, member.size)
        name = None
    rest = file.read(MAX_PADDING_BYTES + 1)
    if len(rest) > MAX_PADDING_BYTES or any(rest):
        raise ArchiveError("bytes follow the archive's end")


def read_exactly(file: BinaryIO, count: int) -> bytes:
    """Read `count` bytes; raises `ArchiveError` where the stream has fewer."""
    data = file.read(count)
    if len(data) != count:
        raise ArchiveError("the archive is cut short")
    return data


def read_header(block: bytes) -> tarfile.TarInfo:
    """Read a header of a file, folder or extended header; raises `ArchiveError` if it is damaged or of another kind."""
    try:
        member = tarfile.TarInfo.frombuf(block, "latin-1", "strict")
    except tarfile.HeaderError:
        raise ArchiveError("a header of the archive is damaged") from None
    if member.size < 0:  # the binary form of numbers knows them
        raise ArchiveError("a header of the archive holds no valid number")
    if member.type not in ALLOWED_TYPES:
        kind = KINDS.get(member.type, f"a member of kind {member.type.decode('latin-1')!r}")
        raise ArchiveError(f"the archive holds {kind}; only plain files are allowed")
    return member


def read_extended(file: BinaryIO, size: int) -> str | None:
    """Read an extended header; return the name that it gives to the next member, if any. Raises `ArchiveError`."""
    if size > MAX_EXTENDED_BYTES:
        raise ArchiveError(f"an extended header of the archive is larger than {MAX_EXTENDED_BYTES} bytes")
    text = b"".join(read_content(file, size))
    name, offset = None, 0
    while offset < size:
        found = RECORD_PATTERN.match(text, offset)
        if not found or int(found[1]) != found.end() - offset:
            raise ArchiveError("an extended header of the archive is damaged")
        key = found[2].decode()
        if key == "path":
            name = found[3].decode("latin-1")
        elif key not in HARMLESS_KEYS:
            raise ArchiveError(f"an extended header of the archive holds {key}, which is not allowed")
        offset = found.end()
    return name


def read_content(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield a member's bytes in chunks, and pass over the padding behind them."""
    for start in range(0, size, CHUNK_BYTES):
        yield read_exactly(file, min(CHUNK_BYTES, size - start))
    read_exactly(file, -size % BLOCK_BYTES)
