"""Files built by hand as the formats' standards say, because no encoder at hand writes them."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]
# PNG, colour types
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
# PNG, Adam7: first column and row, and the steps between columns and rows, of each pass.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# TIFF 6.0: field types, and the tags the tests set
BYTE, ASCII, SHORT, LONG, LONG8 = 1, 2, 3, 4, 16
TIFF_TYPES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "L", LONG8: "Q"}
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 256, 257, 258, 259, 262, 274
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, COLOUR_MAP = 273, 277, 278, 279, 284, 320
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE_COLOUR, SEPARATED, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
RAW, DEFLATE = 1, 8


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Save a picture with Pillow."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    depth: int,
    colour_type: int,
    rows: Sequence[bytes],
    *,
    interlaced: bool = False,
    extra: Sequence[tuple[bytes, bytes]] = (),
    deflated: bytes | None = None,
) -> bytes:
    """A PNG of unfiltered rows; `extra` chunks stand before the pixels; `deflated` replaces the pixel data."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row for row in rows)) if deflated is None else deflated
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in chunks)


def interlace(pixels: Pixels) -> list[bytes]:
    """The rows of an interlaced PNG with 8-bit samples, in file order."""
    passes = [pixels[top::row_step, left::column_step] for left, top, column_step, row_step in PASSES]
    return [row.tobytes() for part in passes if part.size for row in part]


def tiff(
    size: tuple[int, int],
    bits: Sequence[int],
    photometric: int,
    strips: Sequence[bytes],
    tags: Mapping[int, tuple[int, Sequence[int]]] | None = None,
    *,
    order: str = "<",
    is_big: bool = False,
) -> bytes:
    """A TIFF, or BigTIFF, whose directory stands before its strips (or tiles, if `tags` give their size).

    `tags` maps a tag to its field type and values, and may replace those set here.
    """
    place = "Q" if is_big else "L"  # an offset, or a count of values
    room, start_at = struct.calcsize("<" + place), 16 if is_big else 8
    fields: dict[int, tuple[int, Sequence[int]]] = {
        WIDTH: (LONG, size[:1]),
        LENGTH: (LONG, size[1:]),
        BITS: (SHORT, bits),
        COMPRESSION: (SHORT, [RAW]),
        PHOTOMETRIC: (SHORT, [photometric]),
        SAMPLES: (SHORT, [len(bits)]),
        **(tags or {}),
    }
    places, counts = (TILE_OFFSETS, TILE_COUNTS) if TILE_WIDTH in fields else (STRIP_OFFSETS, STRIP_COUNTS)
    if places == STRIP_OFFSETS:
        fields.setdefault(ROWS_PER_STRIP, (LONG, size[1:]))
    fields.setdefault(counts, (LONG, [len(strip) for strip in strips]))
    fields.setdefault(places, (LONG, [0] * len(strips)))
    lengths = {tag: struct.calcsize("<" + TIFF_TYPES[kind]) * len(values) for tag, (kind, values) in fields.items()}
    values_at = start_at + (8 if is_big else 2) + (4 + 2 * room) * len(fields) + room
    strips_at = values_at + sum(length for length in lengths.values() if length > room)
    if not any(fields[places][1]):
        fields[places] = (LONG, [strips_at + sum(map(len, strips[:number])) for number in range(len(strips))])
    directory, outside = struct.pack(order + ("Q" if is_big else "H"), len(fields)), b""
    for tag, (kind, values) in sorted(fields.items()):
        data = struct.pack(f"{order}{len(values)}{TIFF_TYPES[kind]}", *values)
        if len(data) > room:
            outside += data
            data = struct.pack(order + place, values_at + len(outside) - len(data))
        directory += struct.pack(f"{order}HH{place}", tag, kind, len(values)) + data.ljust(room, b"\0")
    version = struct.pack(order + "HHHQ", 43, 8, 0, start_at) if is_big else struct.pack(order + "HL", 42, start_at)
    start = {"<": b"II", ">": b"MM"}[order] + version
    return start + directory + bytes(room) + outside + b"".join(strips)


def bmp(
    size: tuple[int, int], bits: int, rows: bytes, *, masks: Sequence[int] = (), palette: bytes = b"", packing: int = 0
) -> bytes:
    """A BMP, rows from the bottom up, padded to 4 bytes; with four `masks` its header is version 5."""
    length = 124 if masks else 40
    kind = 3 if masks else packing
    header = struct.pack("<IiiHHIIiiII", length, *size, 1, bits, kind, len(rows), 0, 0, len(palette) // 4, 0)
    header = (header + struct.pack(f"<{len(masks)}I", *masks)).ljust(length, b"\0")
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows


def riff(kind: bytes, data: bytes) -> bytes:
    data += bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBP" + kind + struct.pack("<I", len(data)) + data


def lossless_webp(width: int, height: int) -> bytes:
    """A WebP of a single colour in 28 bytes, whatever its size."""
    fields = [(width - 1, 14), (height - 1, 14), (0, 4), (0, 3)]  # no alpha, version 0; no transform, cache or groups
    fields += [(1, 1), (0, 3)] * 5  # five simple prefix codes of one symbol, 0
    bits = place = 0
    for value, count in fields:
        bits |= value << place
        place += count
    return riff(b"VP8L", b"\x2f" + bits.to_bytes((place + 7) // 8, "little"))


def extended_webp(width: int, height: int, flags: int = 0) -> bytes:
    """The header of an extended WebP, and nothing after it."""
    sides = [(side - 1).to_bytes(3, "little") for side in (width, height)]
    return riff(b"VP8X", bytes([flags, 0, 0, 0]) + b"".join(sides))


def lossy_webp(width: int, height: int) -> bytes:
    """The header of a lossy WebP, and nothing after it."""
    return riff(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height))


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG up to its first scan, then its end."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    scan = b"\1\1\0\0\x3f\0"
    segments = b"".join(
        marker + struct.pack(">H", 2 + len(data)) + data for marker, data in ((b"\xff\xc0", frame), (b"\xff\xda", scan))
    )
    return b"\xff\xd8" + segments + b"\xff\xd9"


def samples(seed: int, *shape: int) -> Pixels:
    """Random 8-bit samples."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def gradient(height: int, width: int) -> Pixels:
    """A smooth 8-bit RGB picture, whose corners all differ: for lossy formats."""
    down, across = np.linspace(0, 120, height), np.linspace(0, 100, width)
    base = np.add.outer(down, across)[..., None] + np.array([0, 15, 30])
    picture: Pixels = base.round().astype(np.uint8)
    return picture
