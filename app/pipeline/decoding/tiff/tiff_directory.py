"""Reads a page's directory: its tags, and where the next page begins. Pillow tells nothing of kinds that it refuses."""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

HEADERS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
"""First bytes of a file: its byte order, and whether it is a BigTIFF."""
NUMBERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q", 18: "Q"}
"""Types of whole numbers, TIFF 6.0, section 2, and BigTIFF; values of other types are read as bytes."""
SIZES = {kind: struct.calcsize("<" + letter) for kind, letter in NUMBERS.items()}
MAX_FIELDS = 1024  # TIFF 6.0 and its supplements define about 300 tags
MAX_NUMBERS = 4096  # the longest value that is read is the palette of a 1-bit to 8-bit picture: 3 x 256


class Field(NamedTuple):
    """A tag's type, the number of its values, and the offset of the first one."""

    kind: int
    values: int
    at: int


@dataclass(frozen=True)
class Directory:
    """A page of a TIFF: its fields by tag, the offset of the next page, 0 after the last one, and the offsets between
    which the page itself stands.

    Values are read when they are asked for. They raise `struct.error` if they lie behind the file's end.
    """

    body: bytes = field(repr=False)
    order: str
    fields: dict[int, Field]
    next: int
    at: tuple[int, int]

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the whole numbers of a tag, at most `MAX_NUMBERS`."""
        found = self.fields.get(tag)
        if found is None or not found.values or found.kind not in NUMBERS:
            return default
        return unpack(f"{self.order}{min(found.values, MAX_NUMBERS)}{NUMBERS[found.kind]}", self.body, found.at)

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first whole number of a tag."""
        return self.numbers(tag, (default,))[0]

    def text(self, tag: int) -> bytes:
        """Return the text of a tag, whose values have one byte each."""
        found = self.fields.get(tag, Field(0, 0, 0))
        return self.body[found.at : found.at + found.values]

    @property
    def is_complete(self) -> bool:
        """Whether all values lie in the file."""
        ends = [each.at + each.values * SIZES.get(each.kind, 1) for each in self.fields.values()]
        return max(ends, default=0) <= len(self.body)

    def count(self, tag: int) -> int:
        """Return how many values a tag says that it has."""
        return self.fields[tag].values if tag in self.fields else 0


def read_directory(body: bytes, offset: int | None = None) -> Directory:
    """Read the directory at an offset, by default the first one. Raises `struct.error` if the file ends before."""
    order, is_big = HEADERS[body[:4]]
    place, counter = (order + "Q", order + "Q") if is_big else (order + "L", order + "H")
    width = struct.calcsize(place)
    if offset is None:
        (offset,) = unpack(place, body, width)
    (count,) = unpack(counter, body, offset)
    start, size = offset + struct.calcsize(counter), 4 + 2 * width
    end = min(start + size * count, len(body))
    (following,) = unpack(place, body, end) if end + width <= len(body) else (0,)
    fields: dict[int, Field] = {}
    layout = struct.Struct(f"{order}HH{place[1]}{width}x")
    for entry in range(start, start + size * min(count, MAX_FIELDS), size):
        tag, kind, values = layout.unpack_from(body, entry)
        at = entry + 4 + width
        if values * SIZES.get(kind, 1) > width:
            (at,) = unpack(place, body, at)
        fields.setdefault(tag, Field(kind, values, at))
    return Directory(body, order, fields, following if following != offset else 0, (offset, end))


def unpack(layout: str, body: bytes, at: int) -> tuple[int, ...]:
    """Read numbers; raises `struct.error` if they lie behind the file's end, however far."""
    return struct.unpack_from(layout, body, min(at, len(body)))
