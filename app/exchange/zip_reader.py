"""Reads zip archives from strangers: `zipfile` reads them, after the checks that stand here.

`zipfile` takes much on trust: bytes before the archive, overlapping members, any number of members. Here the directory
must describe the file from its first byte to its last, and each member's own header must agree with the directory.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from app.errors import ArchiveError

MAGIC = b"PK\x03\x04"
CHUNK_BYTES = 1 << 18
MAX_DIRECTORY_BYTES = 1 << 20
# APPNOTE.TXT 4.3: the signature of each record, then its fields in order.
LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
LOCATOR_64 = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
TAIL_BYTES = END_64.size + LOCATOR_64.size + END.size
IN_ZIP64 = 0xFFFFFFFF
"""A size or offset of this value stands in the zip64 field or record instead."""
ZIP64_TAG = 1
ENCRYPTED_FLAGS, DESCRIPTOR_FLAG, UTF_8_FLAG = 0x2041, 0x8, 0x800
UNIX, WINDOWS_LINK = 3, 0x400
MEMBER_DAMAGED = "a member is damaged: it is not what the archive's directory says"


@contextmanager
def refuse_damage(reason: str) -> Iterator[None]:
    """Turn what `zipfile` raises on a damaged archive, or on an unknown version of the format, into `ArchiveError`."""
    try:
        yield
    except (BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError, struct.error, zlib.error):
        raise ArchiveError(reason) from None


@refuse_damage("the archive is damaged, or of a version that is not known here")
def open_zip(file: BinaryIO, max_members: int) -> ZipFile:
    """Open an archive and compare its directory with the file; no member is unpacked yet.

    Raises `ArchiveError`: it is damaged, has bytes before or after it, or holds links, devices, encrypted files or more
    than `max_members`.
    """
    count, length, start = find_directory(file)
    if count > max_members:
        raise ArchiveError(f"the archive holds {count} members; at most {max_members} are allowed")
    if length > MAX_DIRECTORY_BYTES:
        raise ArchiveError(f"the archive's directory has {length} bytes; at most {MAX_DIRECTORY_BYTES} are allowed")
    archive = ZipFile(file)
    file.seek(start)
    check_entries(file.read(length), count)
    for info in archive.infolist():
        check_kind(info)
    check_places(file, archive.infolist(), start)
    return archive


def list_files(archive: ZipFile) -> list[ZipInfo]:
    """Return an archive's files without its folders; `orig_filename` is the name, `filename` ends at the first NUL."""
    return [info for info in archive.infolist() if not info.orig_filename.endswith("/")]


def read_member(archive: ZipFile, info: ZipInfo) -> Iterator[bytes]:
    """Yield the bytes of a member in chunks of bounded size.

    Raises `ArchiveError`: length or checksum differ from the directory's. At most one byte too many was yielded then.
    """
    longer = copy(info)
    longer.file_size += 1  # zipfile stops at this size without a word: a member that goes on must be seen
    left = info.file_size
    with refuse_damage(MEMBER_DAMAGED), archive.open(longer) as member:
        while chunk := member.read(CHUNK_BYTES):
            left -= len(chunk)
            yield chunk
    if left:
        raise ArchiveError(MEMBER_DAMAGED)


def find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Return the number of members and the directory's length and start, all from the record that ends the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    directory_end = size - END.size
    magic, *numbers, comment = END.unpack(tail[-END.size :])
    if magic != b"PK\x05\x06" or comment:
        raise ArchiveError("the archive does not end where its directory ends: it is cut short, or bytes follow it")
    locator = tail[-END.size - LOCATOR_64.size : -END.size]
    if locator.startswith(b"PK\x06\x07"):
        directory_end = size - TAIL_BYTES
        magic, record_bytes, _, _, *large = END_64.unpack(tail[: END_64.size])
        place = LOCATOR_64.unpack(locator)[2]
        agree = all(number in (0xFFFF, IN_ZIP64, other) for number, other in zip(numbers, large, strict=True))
        if (magic, record_bytes, place) != (b"PK\x06\x06", END_64.size - 12, directory_end) or not agree:
            raise ArchiveError("the archive's zip64 record is damaged")
        numbers = large
    disk, first_disk, here, count, length, start = numbers
    if disk or first_disk or here != count:
        raise ArchiveError("the archive is a part of several")
    if start + length != directory_end:
        raise ArchiveError("the archive's directory is not where its end says")
    return count, length, start


def check_entries(directory: bytes, count: int) -> None:
    """Refuse a directory that is not filled by exactly `count` entries; `zipfile` does not count them."""
    offset = 0
    for _ in range(count):
        lengths = ENTRY.unpack_from(directory, offset)[10:13]
        offset += ENTRY.size + sum(lengths)
    if offset != len(directory):
        raise ArchiveError(f"the archive's directory is not filled by the {count} members that it counts")


def check_kind(info: ZipInfo) -> None:
    """Refuse all but plain files and folders; the upper half of the attributes is the mode of a Unix file."""
    is_folder = info.orig_filename.endswith("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    is_windows_link = info.create_system != UNIX and info.external_attr & WINDOWS_LINK
    if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG) or is_windows_link:
        raise ArchiveError("the archive holds a link or a device; only plain files are allowed")
    if info.flag_bits & ENCRYPTED_FLAGS:
        raise ArchiveError("the archive is encrypted")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ArchiveError(
            f"the archive is packed by method {info.compress_type}; only stored and deflated members are read"
        )
    if info.compress_type == ZIP_STORED and info.compress_size != info.file_size:
        raise ArchiveError("the archive's sizes contradict each other")
    if is_folder and info.file_size:
        raise ArchiveError("the archive holds a folder with content")


def check_places(file: BinaryIO, members: list[ZipInfo], directory_start: int) -> None:
    """Refuse members that leave bytes before the first, overlap, or reach into the directory."""
    ordered = sorted(members, key=lambda info: info.header_offset)
    if ordered and ordered[0].header_offset != 0:
        raise ArchiveError("bytes stand before the archive")
    taken = 0
    for info in ordered:
        if not taken <= info.header_offset < directory_start:
            raise ArchiveError("the archive's members overlap")
        taken = find_data(file, info) + info.compress_size
    if taken > directory_start:
        raise ArchiveError("the archive's members overlap")


def find_data(file: BinaryIO, info: ZipInfo) -> int:
    """Return the offset of a member's data; raises `ArchiveError` if its own header differs from the directory."""
    file.seek(info.header_offset)
    magic, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = LOCAL.unpack(
        file.read(LOCAL.size)
    )
    name = file.read(name_length).decode("utf-8" if flags & UTF_8_FLAG else "cp437")
    sizes = read_zip64(file.read(extra_length), size, packed)
    allowed = [(info.CRC, info.file_size, info.compress_size)]
    if flags & DESCRIPTOR_FLAG:  # what is not known before the data stands behind them
        allowed += [(0, 0, 0), (info.CRC, 0, 0)]
    told = (info.orig_filename, info.compress_type, info.flag_bits)
    if magic != MAGIC or (name, method, flags) != told or (checksum, *sizes) not in allowed:
        raise ArchiveError("a member's own header differs from the archive's directory")
    return file.tell()


def read_zip64(extra: bytes, *sizes: int) -> list[int]:
    """Return the sizes of a member's own header; those that it leaves out stand in its zip64 field."""
    missing = sizes.count(IN_ZIP64)
    while missing and len(extra) >= 4:
        tag, length = struct.unpack_from("<2H", extra)
        if tag == ZIP64_TAG:
            large = iter(struct.unpack_from(f"<{missing}Q", extra[: 4 + length], 4))
            return [next(large) if size == IN_ZIP64 else size for size in sizes]
        extra = extra[4 + length :]
    return list(sizes)
