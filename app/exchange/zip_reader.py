"""Reads zip archives that nobody vouches for: the directory first and as a whole, then each member as it is counted.

The standard library's reader takes much on trust: prefixed bytes, overlapping members, any number of them. Here the
directory must describe the file from its first byte to its last, and agree with each member's own header.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from app.errors import ArchiveError

MAGIC = b"PK\x03\x04"
CHUNK_BYTES = 1 << 18
MAX_DIRECTORY_BYTES = 1 << 20
MAX_OFFSET = 1 << 62
"""A system's own bound lies a little above."""
# APPNOTE.TXT 4.3: signature, then the fields in their order.
LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END_64_LOCATOR = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
NOT_HERE_16, NOT_HERE_32 = 0xFFFF, 0xFFFFFFFF
"""A field with this value stands in the zip64 record instead."""
ZIP64_TAG = 1
STORED, DEFLATED = 0, 8
ENCRYPTED_FLAGS = 0x2041
DESCRIPTOR_FLAG = 0x8
WINDOWS_LINK = 0x400


@dataclass(frozen=True)
class ZipMember:
    """One file of the archive as the directory has it; `start` is where its own header begins."""

    name: str
    method: int
    flags: int
    checksum: int
    packed_bytes: int
    bytes: int
    start: int


def read_directory(file: BinaryIO, max_members: int) -> list[ZipMember]:
    """Read and check the directory of an archive; folders are left out.

    Raises:
        ArchiveError: it is damaged, holds more than `max_members`, links, devices or encrypted files, or does not cover
            the file.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        count, length, start, end = find_directory(file, size)
        if count > max_members:
            raise ArchiveError(f"the archive holds {count} members; at most {max_members} are allowed")
        if start + length != end or length > MAX_DIRECTORY_BYTES:
            raise ArchiveError("the archive's directory is not where its end says")
        members = list(read_entries(read_at(file, start, length), count))
        check_places(file, members, start)
    except struct.error:
        raise ArchiveError("the archive's directory is damaged") from None
    return [member for member in members if not member.name.endswith("/")]


def read_at(file: BinaryIO, start: int, length: int) -> bytes:
    """Read exactly so many bytes; raises `ArchiveError` where the file has fewer."""
    if not 0 <= start <= MAX_OFFSET:
        raise ArchiveError("the archive is cut short")
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise ArchiveError("the archive is cut short")
    return data


def find_directory(file: BinaryIO, size: int) -> tuple[int, int, int, int]:
    """Return the number of members, and length, start and end of the directory."""
    end = size - END.size
    magic, disk, first_disk, here, count, length, start, comment = END.unpack(read_at(file, end, END.size))
    if magic != b"PK\x05\x06" or comment:
        raise ArchiveError("the archive does not end where its directory ends: it is cut short, or bytes follow it")
    locator = read_at(file, end - END_64_LOCATOR.size, END_64_LOCATOR.size) if end >= END_64_LOCATOR.size else b""
    if locator.startswith(b"PK\x06\x07"):
        end = END_64_LOCATOR.unpack(locator)[2]
        magic, length_64, _, _, disk, first_disk, here, count, length, start = END_64.unpack(
            read_at(file, end, END_64.size)
        )
        if magic != b"PK\x06\x06" or end + 12 + length_64 + END_64_LOCATOR.size + END.size != size:
            raise ArchiveError("the archive's zip64 record is damaged")
    if disk or first_disk or here != count:
        raise ArchiveError("the archive is a part of several")
    return count, length, start, end


def read_entries(directory: bytes, count: int) -> Iterator[ZipMember]:
    """Yield the members of a directory; exactly `count`, and nothing after them."""
    offset = 0
    for _ in range(count):
        fields = ENTRY.unpack_from(directory, offset)
        magic, made_by, _, flags, method, _, _, checksum, packed, size, name_length, extra_length, comment = fields[:13]
        attributes, start = fields[15:]
        offset += ENTRY.size
        name = directory[offset : offset + name_length]
        extra = directory[offset + name_length : offset + name_length + extra_length]
        offset += name_length + extra_length + comment
        if magic != b"PK\x01\x02" or offset > len(directory):
            raise ArchiveError("the archive's directory is damaged")
        size, packed, start = read_zip64(extra, size, packed, start)
        member = ZipMember(name.decode("latin-1"), method, flags, checksum, packed, size, start)
        check_kind(member, made_by, attributes)
        yield member
    if offset != len(directory):
        raise ArchiveError("the archive's directory holds more than it says")


def read_zip64(extra: bytes, *values: int) -> list[int]:
    """Return the values with those that stand in the zip64 extra field put in their place."""
    found = list(values)
    missing = [index for index, value in enumerate(values) if value == NOT_HERE_32]
    offset = 0
    while missing and offset + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, offset)
        if tag == ZIP64_TAG:
            large = struct.unpack_from(f"<{len(missing)}Q", extra[: offset + 4 + length], offset + 4)
            for index, value in zip(missing, large, strict=True):
                found[index] = value
            return found
        offset += 4 + length
    if missing:
        raise ArchiveError("the archive's zip64 fields are missing")
    return found


def check_kind(member: ZipMember, made_by: int, attributes: int) -> None:
    """Refuse all but plain files and folders; the mode of a Unix file stands in the upper half of the attributes."""
    kind = stat.S_IFMT(attributes >> 16)
    folder = member.name.endswith("/")
    if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG) or (made_by >> 8 != 3 and attributes & WINDOWS_LINK):
        raise ArchiveError("the archive holds a link or a device; only plain files are allowed")
    if member.flags & ENCRYPTED_FLAGS:
        raise ArchiveError("the archive is encrypted")
    if member.method not in (STORED, DEFLATED):
        raise ArchiveError(f"the archive is packed by method {member.method}; only stored and deflated are read")
    if member.method == STORED and member.packed_bytes != member.bytes:
        raise ArchiveError("the archive's sizes contradict each other")
    if folder and member.bytes:
        raise ArchiveError("the archive holds a folder with content")


def check_places(file: BinaryIO, members: list[ZipMember], directory_start: int) -> None:
    """See that members begin at the file's first byte, do not overlap, and end before the directory."""
    ordered = sorted(members, key=lambda member: member.start)
    if ordered and ordered[0].start != 0:
        raise ArchiveError("bytes stand before the archive")
    ends = [find_data(file, member) + member.packed_bytes for member in ordered]
    starts = [member.start for member in ordered] + [directory_start]
    if any(end > start for end, start in zip(ends, starts[1:], strict=True)):
        raise ArchiveError("the archive's members overlap")
    if any(one == two for one, two in pairwise(starts)):
        raise ArchiveError("the archive's members overlap")


def find_data(file: BinaryIO, member: ZipMember) -> int:
    """Return where a member's data begin, after comparing its own header with the directory's entry."""
    fields = LOCAL.unpack(read_at(file, member.start, LOCAL.size))
    magic, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = fields
    name = read_at(file, member.start + LOCAL.size, name_length).decode("latin-1")
    extra = read_at(file, member.start + LOCAL.size + name_length, extra_length)
    if magic != MAGIC or (name, method, flags) != (member.name, member.method, member.flags):
        raise ArchiveError("a member's own header differs from the archive's directory")
    size, packed = read_zip64(extra, size, packed)
    known = (checksum, packed, size)
    told = (member.checksum, member.packed_bytes, member.bytes)
    if known != told and not (flags & DESCRIPTOR_FLAG and known in ((0, 0, 0), (checksum, 0, 0))):
        raise ArchiveError("a member's own header differs from the archive's directory")
    return int(member.start + LOCAL.size + name_length + extra_length)


def read_member(file: BinaryIO, member: ZipMember) -> Iterator[bytes]:
    """Yield the bytes of a member, never more than its directory entry promises.

    Raises:
        ArchiveError: they are fewer or more, or are not those of the checksum.
    """
    file.seek(find_data(file, member))
    checksum, left = 0, member.bytes
    for chunk in inflate(file, member):
        left -= len(chunk)
        if left < 0:
            raise ArchiveError("a member is larger than the archive's directory says")
        checksum = zlib.crc32(chunk, checksum)
        yield chunk
    if left or checksum != member.checksum:
        raise ArchiveError("a member is damaged: it is not what the archive's directory says")


def inflate(file: BinaryIO, member: ZipMember) -> Iterator[bytes]:
    """Yield a member's data unpacked, in chunks of bounded size."""
    left = member.packed_bytes
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == DEFLATED else None
    while left:
        data = file.read(min(CHUNK_BYTES, left))
        if not data:
            raise ArchiveError("the archive is cut short")
        left -= len(data)
        if unpacker is None:
            yield data
        else:
            yield from unpack_chunk(unpacker, data)
    if unpacker is not None and (not unpacker.eof or unpacker.unused_data):
        raise ArchiveError("a member's packed data are damaged")


def unpack_chunk(unpacker: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    """Yield what some packed bytes hold, at most `CHUNK_BYTES` at a time."""
    while data:
        try:
            chunk = unpacker.decompress(data, CHUNK_BYTES)
        except zlib.error:
            raise ArchiveError("a member's packed data are damaged") from None
        if chunk:
            yield chunk
        data = unpacker.unconsumed_tail
        if unpacker.eof:
            return


def list_names(path: Path, max_members: int) -> list[str]:
    """The names of an archive's files; raises `ArchiveError` as `read_directory`."""
    with path.open("rb") as file:
        return [member.name for member in read_directory(file, max_members)]
