"""Reads what a JPEG is made of: its frame and its scans. Many segments or scans make a small file take minutes to read;
both are counted here before Pillow reads it.
"""

import re
import struct
from typing import NamedTuple

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.image_format import BROKEN_HEADER, NOT_TAKEN, describe_samples

# JPEG, B.1.1.2: any marker but stuffed bytes and fill bytes; and one that starts a segment, or ends the picture.
MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
END, SCAN, RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
# JPEG, B.1.1.3: a frame's processes; JPEG-LS (T.87) has one of its own.
FRAMES = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC3: "lossless",
    0xF7: "JPEG-LS",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded progressive",
    0xCB: "arithmetic-coded lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xDE), "hierarchical"),
}
PROGRESSIVE = 0xC2
TAKEN_FRAMES = (0xC0, 0xC1, PROGRESSIVE)
"""Whether an arithmetic-coded picture was cut cannot be told: its coder leaves out zeros at the end (T.81, D.1.8)."""
COLOURS = {1: "grey", 3: "colour", 4: "CMYK"}
MAX_SEGMENTS = 1_000  # a colour profile of 32 MiB takes 512 segments
MAX_SCANS = 100  # a progressive file has about 10; each costs a pass over the whole picture
NO_END = "The JPEG is truncated: its end marker is missing; send the whole file."


class Frame(NamedTuple):
    """A picture's size in pixels, and whether it comes in passes from coarse to fine. `planes` has for each plane its
    name, and how many of its blocks stand side by side and one below the other in a unit.
    """

    width: int
    height: int
    planes: tuple[tuple[int, int, int], ...]
    is_progressive: bool


class Scan(NamedTuple):
    """One pass over the planes with these names. It brings a band of coefficients from `before` to `after` missing
    bits; `before` is 0 in their first pass. Its data lie from `start` to `end`, and restart every `interval` units (0:
    never). `has_markers` if markers stand among them.
    """

    names: bytes
    band: slice
    before: int
    after: int
    interval: int
    start: int
    end: int
    has_markers: bool


class Structure(NamedTuple):
    """A JPEG's frame and scans, in order; a marker that ends the picture follows them."""

    frame: Frame
    scans: list[Scan]


def read_structure(body: bytes) -> Structure:
    """Read the segments up to the picture's end. Raises `UnsupportedImageError` for a kind that is not taken, and for
    too many segments or scans; `DamagedImageError`, `struct.error` or `IndexError` for a file that is broken or cut.
    """
    frame, scans, position, interval = None, list[Scan](), 2, 0
    for _ in range(MAX_SEGMENTS):
        marker = SEGMENT.search(body, position)
        if marker is None:
            raise DamagedImageError(NO_END if scans else BROKEN_HEADER)
        position = marker.end()
        kind = body[position - 1]
        if kind == END:
            if frame is not None and scans:
                return Structure(frame, scans)
        elif kind == SCAN:
            scans.append(read_scan(body, position, interval))
            position = scans[-1].end
            if len(scans) > MAX_SCANS:
                break
        else:
            if kind in FRAMES and frame is None:
                frame = read_frame(body, position, kind)
            elif kind == RESTART_INTERVAL:
                (interval,) = struct.unpack_from(">H", body, position + 2)
            position += body[position] << 8 | body[position + 1]
    raise UnsupportedImageError(f"The JPEG has more than {MAX_SCANS} scans or {MAX_SEGMENTS} segments.")


def read_frame(body: bytes, position: int, kind: int) -> Frame:
    """Read a frame's header; raises `UnsupportedImageError` for one that is not taken."""
    _, bits, height, width, count = struct.unpack_from(">HBHHB", body, position)
    if kind not in TAKEN_FRAMES or bits != 8 or not height or count not in COLOURS:
        name = FRAMES[kind] if FRAMES[kind].startswith("JPEG") else f"JPEG, {FRAMES[kind]}"
        text = describe_samples(name, COLOURS.get(count, "other colours"), count, [bits])
        raise UnsupportedImageError(NOT_TAKEN.format(text if height else f"{text}, its height after the pixels"))
    numbers = body[position + 8 : position + 8 + 3 * count]
    planes = tuple((numbers[at], numbers[at + 1] >> 4, numbers[at + 1] & 15) for at in range(0, 3 * count, 3))
    return Frame(width, height, planes, kind == PROGRESSIVE)


def read_scan(body: bytes, position: int, interval: int) -> Scan:
    """Read a scan's header, and find the end of its data."""
    start = position + (body[position] << 8 | body[position + 1])
    parameters = position + 3 + 2 * body[position + 2]
    first, last, bits = body[parameters], body[parameters + 1], body[parameters + 2]
    inside = MARKER.search(body, start)
    end = inside and SEGMENT.search(body, inside.start())
    if inside is None or end is None:
        raise DamagedImageError(NO_END)
    names = body[position + 3 : parameters : 2]
    band = slice(first, last + 1)
    return Scan(names, band, bits >> 4, bits & 15, interval, start, end.start(), inside.start() < end.start())
