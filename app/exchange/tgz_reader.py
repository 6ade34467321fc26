"""Reads gzipped tar archives that nobody vouches for, front to back, plain files only.

The standard library's reader takes an extended header into memory whatever its size, and knows links and devices. Here
a member is a plain file or a folder, and of extended headers only the few keys are known that writers add unasked.
"""

import gzip
import re
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
NAME, SIZE, CHECKSUM, PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), slice(345, 500)
TYPE, USTAR = 156, slice(257, 262)
FILE_TYPES, FOLDER_TYPE, EXTENDED_TYPE = b"0\0", b"5"[0], b"x"[0]
KINDS = {"1": "a hard link", "2": "a link", "3": "a device", "4": "a device", "6": "a pipe"}
HARMLESS_KEYS = frozenset(("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"))
RECORD_PATTERN = re.compile(rb"([0-9]{1,5}) ([A-Za-z.]+)=([^\n]*)\n")


def read_tgz(path: Path, max_members: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield name and content of every file; each content must be read to its end before the next file.

    Raises:
        ArchiveError: the archive is damaged, or holds more than plain files and folders.
    """
    with gzip.open(path) as file:
        try:
            yield from read_files(file, max_members)  # type: ignore[arg-type]  # a GzipFile reads as any binary file does
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
                raise
            raise ArchiveError("the archive is damaged or cut short") from None


def read_files(file: BinaryIO, max_members: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield name and content of every file of a tar stream, to its two blocks of zeros and the padding after them."""
    name, headers = None, 0
    while any(header := read_block(file)):
        headers += 1
        if headers > 2 * max_members:  # each may have an extended one
            raise ArchiveError(f"the archive holds more than the {max_members} members that are allowed")
        size = read_number(header[SIZE])
        check_header(header)
        if header[TYPE] == EXTENDED_TYPE:
            name = read_extended(file, size)
            continue
        own = read_text(header[NAME])
        prefix = read_text(header[PREFIX]) if header[USTAR] == b"ustar" and header[263:265] == b"00" else ""
        full = name or (f"{prefix}/{own}" if prefix else own)
        name = None
        if header[TYPE] != FOLDER_TYPE:
            yield full, read_content(file, size)
        elif size:
            raise ArchiveError("the archive holds a folder with content")
    rest = file.read(MAX_PADDING_BYTES + 1)
    if len(rest) > MAX_PADDING_BYTES or any(rest):
        raise ArchiveError("bytes follow the archive's end")


def read_block(file: BinaryIO) -> bytes:
    """Read one block."""
    block = file.read(BLOCK_BYTES)
    if len(block) != BLOCK_BYTES:
        raise ArchiveError("the archive is cut short")
    return block


def read_text(field: bytes) -> str:
    """The text of a field, to its first NUL."""
    return field.split(b"\0", 1)[0].decode("latin-1")


def read_number(field: bytes) -> int:
    """Read an octal number; GNU's binary form, for files of over 8 GiB, is not taken."""
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,11}", digits):
        raise ArchiveError("a header of the archive holds no valid number")
    return int(digits, 8)


def check_header(header: bytes) -> None:
    """Check a header's sum and kind."""
    told = read_number(header[CHECKSUM])
    if told != sum(header) - sum(header[CHECKSUM]) + 8 * ord(" "):
        raise ArchiveError("a header of the archive is damaged")
    kind = header[TYPE]
    if kind not in FILE_TYPES and kind not in (FOLDER_TYPE, EXTENDED_TYPE):
        named = KINDS.get(chr(kind), f"a member of kind {chr(kind)!r}")
        raise ArchiveError(f"the archive holds {named}; only plain files are allowed")


def read_extended(file: BinaryIO, size: int) -> str | None:
    """Read an extended header and return the name it gives to the next member, if it does.

    Raises:
        ArchiveError: it is large, malformed, or changes anything but names and times.
    """
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
    """Yield a member's bytes and pass over the padding after them."""
    left = size
    while left:
        chunk = file.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise ArchiveError("the archive is cut short")
        left -= len(chunk)
        yield chunk
    if size % BLOCK_BYTES:
        padding = BLOCK_BYTES - size % BLOCK_BYTES
        if len(file.read(padding)) != padding:
            raise ArchiveError("the archive is cut short")
