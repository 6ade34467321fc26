"""PNG, JPEG, BMP and WebP files of random layouts, each by its number: the same number makes the same file."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import crafted
import numpy as np
from crafted import Pixels, encode, png_chunk
from numpy.random import Generator
from PIL import Image
from tiff_layouts import draw_samples, make_tiffs, pack, pick

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG, IHDR: samples of a pixel, by colour type
GAMMA, COLOURS = struct.pack(">I", 45455), struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
RESOLUTION = struct.pack(">IIB", 2835, 2835, 1)
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def paeth(left: int, above: int, corner: int) -> int:
    return min((left, above, corner), key=lambda value: abs(left + above - corner - value))


def filter_row(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """PNG, filter types 0 to 4."""
    predicted = [0] * len(row)
    for place in range(len(row)):
        left, corner = (row[place - step], above[place - step]) if place >= step else (0, 0)
        up = above[place]
        predicted[place] = (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind]
    return bytes([kind]) + bytes((byte - guess) % 256 for byte, guess in zip(row, predicted, strict=True))


def filter_rows(random: Generator, samples: Pixels, depth: int) -> bytes:
    step = max(1, samples.shape[2] * depth // 8)
    above, filtered = b"", b""
    for row in samples:
        packed = pack(row[np.newaxis], depth)
        filtered += filter_row(int(random.integers(5)), packed, above or bytes(len(packed)), step)
        above = packed
    return filtered


def exif_block(random: Generator) -> bytes:
    """An EXIF block whose orientation has any of the types that are met."""
    order = pick(random, "<", ">")
    kind = pick(random, crafted.BYTE, crafted.SHORT, crafted.LONG)
    value = struct.pack(order + crafted.TIFF_TYPES[kind], int(random.integers(1, 9))).ljust(4, b"\0")
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HL", 42, 8)
    return start + struct.pack(order + "HHHL", 1, crafted.ORIENTATION, kind, 1) + value + bytes(4)


def draw_chunks(random: Generator, colour_type: int, depth: int, samples: Pixels) -> Iterator[bytes]:
    """Chunks before the pixels, in the order of the standard."""
    bits = bytes([min(depth, 5)] * (3 if colour_type == crafted.PALETTE else CHANNELS[colour_type]))
    for share, kind, content in (
        (0.3, b"gAMA", GAMMA),
        (0.3, b"cHRM", COLOURS),
        (0.2, b"sRGB", b"\0"),
        (0.1, b"sBIT", bits),
    ):
        if random.random() < share:
            yield png_chunk(kind, content)
    yield from draw_palette_chunks(random, colour_type, samples)
    others = ((b"pHYs", RESOLUTION), (b"tEXt", b"Title\0patch"), (b"eXIf", exif_block(random)))
    yield from (png_chunk(kind, content) for kind, content in others if random.random() < 0.25)


def draw_palette_chunks(random: Generator, colour_type: int, samples: Pixels) -> Iterator[bytes]:
    """A palette, needed or only suggested, and what is transparent."""
    if colour_type == crafted.PALETTE:
        colours = int(samples.max()) + 1
        yield png_chunk(b"PLTE", random.integers(0, 256, 3 * colours, dtype=np.uint8).tobytes())
        if random.random() < 0.4:
            yield png_chunk(b"tRNS", random.bytes(int(random.integers(1, colours + 1))))
    if colour_type == crafted.COLOUR and random.random() < 0.1:
        yield png_chunk(b"PLTE", bytes(30))
    if colour_type in (crafted.GREY, crafted.COLOUR) and random.random() < 0.3:
        yield png_chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes())


def make_png(number: int) -> bytes:
    random = np.random.default_rng([3, number])
    colour_type = pick(random, *CHANNELS)
    depth = pick(random, *DEPTHS[colour_type])
    height, width = (int(side) for side in random.integers(1, 40, 2))
    values = draw_samples(random, height, width, CHANNELS[colour_type]) * (2**depth - 1)
    samples = values.astype(">u2" if depth == 16 else np.uint8 if depth == 8 else np.uint64)
    interlaced = random.random() < 0.4
    steps = crafted.PASSES if interlaced else ((0, 0, 1, 1),)
    passes = [samples[top::down, left::across] for left, top, across, down in steps]
    data = b"".join(filter_rows(random, part, depth) for part in passes if part.size)
    deflated = zlib.compress(data, int(random.integers(10)))
    cut = int(random.integers(len(deflated)))
    chunks = [png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced))]
    chunks += draw_chunks(random, colour_type, depth, samples)
    chunks += [png_chunk(b"IDAT", part) for part in (deflated[:cut], deflated[cut:])]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def draw_picture(random: Generator, mode: str) -> Image.Image:
    height, width = (int(side) for side in random.integers(1, 70, 2))
    samples = (255 * draw_samples(random, height, width, len(mode))).astype(np.uint8)
    return Image.fromarray(samples[..., 0] if mode == "L" else samples, mode)


def make_jpeg(number: int) -> bytes:
    random = np.random.default_rng([4, number])
    mode = pick(random, "L", "RGB", "RGB", "RGB", "CMYK")
    options: dict[str, Any] = {
        "quality": int(random.integers(30, 101)),
        "progressive": random.random() < 0.4,
        "optimize": random.random() < 0.3,
        "restart_marker_blocks": int(random.integers(0, 4)),
    }
    if mode == "RGB":
        options |= pick(random, *({"subsampling": each} for each in ("4:4:4", "4:2:2", "4:2:0")), {"keep_rgb": True})
    if random.random() < 0.4:
        options["exif"] = b"Exif\0\0" + exif_block(random)
    body = encode(draw_picture(random, mode), "JPEG", **options)
    adobe = body.find(b"\xff\xee\0\x0eAdobe")
    if mode == "CMYK" and random.random() < 0.5:
        body = body[: adobe + 15] + b"\2" + body[adobe + 16 :]  # YCCK
    if mode != "CMYK" and random.random() < 0.2 and body[2:4] == b"\xff\xe0":
        body = body[:2] + body[20:]  # no JFIF segment
    if random.random() < 0.2:
        body = body[:2] + b"\xff\xfe\0\x07patch" + b"\xff\xff\xff" + body[3:]  # a comment, and fill bytes
    return body


def make_bmp(number: int) -> bytes:
    random = np.random.default_rng([5, number])
    bits = pick(random, 1, 4, 8, 16, 24, 32)
    length = pick(random, 40, 56, 108, 124) if bits in (16, 32) else pick(random, 12, 40, 40, 52, 56, 64, 108, 124)
    height, width = (int(side) for side in random.integers(1, 40, 2))
    masks = draw_masks(random, bits) if bits in (16, 32) and random.random() < 0.7 else []
    colours = draw_palette(random, bits, length) if bits <= 8 else np.zeros((0, 3), np.uint8)
    rows = draw_rows(random, bits, (height, width), len(colours))
    is_top_down = length != 12 and random.random() < 0.3
    data = b"".join(row + bytes(-len(row) % 4) for row in (rows if is_top_down else rows[::-1]))
    size = (width, -height if is_top_down else height)
    return assemble_bmp(random, length, size, bits, masks[: 3 if length < 56 else 4], colours, data)


def draw_rows(random: Generator, bits: int, shape: tuple[int, int], colours: int) -> list[bytes]:
    if bits <= 8:
        indices = random.integers(0, colours, (*shape, 1), dtype=np.uint64)
        return [pack((row if bits < 8 else row.astype(np.uint8))[np.newaxis], bits) for row in indices]
    if bits == 24:
        return [row.tobytes() for row in (255 * draw_samples(random, *shape, 3)).astype(np.uint8)]
    return [row.tobytes() for row in random.integers(0, 2**bits, shape, dtype=np.uint32).astype(f"<u{bits // 8}")]


def draw_masks(random: Generator, bits: int) -> list[int]:
    common = {
        16: (
            [0xF800, 0x7E0, 0x1F, 0],
            [0x7C00, 0x3E0, 0x1F, 0],
            [0x7C00, 0x3E0, 0x1F, 0x8000],
            [0xF00, 0xF0, 0xF, 0xF000],
        ),
        32: (
            [0xFF0000, 0xFF00, 0xFF, 0],
            [0xFF0000, 0xFF00, 0xFF, 0xFF000000],
            [0xFF, 0xFF00, 0xFF0000, 0xFF000000],
            [0x3FF00000, 0xFFC00, 0x3FF, 0],
            [0xFF000000, 0xFF0000, 0xFF00, 0xFF],
        ),
    }
    return list(pick(random, *common[bits]))


def draw_palette(random: Generator, bits: int, length: int) -> Pixels:
    count = 2**bits if length == 12 or random.random() < 0.5 else int(random.integers(1, 2**bits + 1))
    kind = pick(random, "random", "random", "grey", "black and white")
    if kind == "grey":
        return np.linspace(0, 255, count).round().astype(np.uint8)[:, None].repeat(3, axis=1)
    if kind == "black and white" and length != 12:
        return np.array([[0] * 3, [255] * 3], np.uint8)[:: pick(random, 1, -1)]
    return random.integers(0, 256, (count, 3), dtype=np.uint8)


def assemble_bmp(
    random: Generator, length: int, size: tuple[int, int], bits: int, masks: list[int], colours: Pixels, data: bytes
) -> bytes:
    palette = (colours if length == 12 else np.pad(colours, ((0, 0), (0, 1)))).tobytes()
    fields = struct.pack(f"<{len(masks)}I", *masks)
    if length == 12:
        header = struct.pack("<IHHHH", 12, *size, 1, bits)
    else:
        kind = 3 if masks else 0
        header = struct.pack("<IiiHHIIiiII", length, *size, 1, bits, kind, len(data), 2835, 2835, len(colours), 0)
        header = header + fields if length == 40 else (header + fields).ljust(length, b"\0")
    gap = bytes(4 * int(random.integers(3)) if random.random() < 0.2 else 0)
    start = 14 + len(header) + len(palette) + len(gap)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + gap + data


def make_webp(number: int) -> bytes:
    random = np.random.default_rng([6, number])
    options: dict[str, Any] = {
        "lossless": random.random() < 0.5,
        "quality": int(random.integers(10, 101)),
        "exact": random.random() < 0.5,
    }
    if random.random() < 0.4:
        options["exif"] = b"Exif\0\0" + exif_block(random)
    return encode(draw_picture(random, pick(random, "RGB", "RGBA")), "WEBP", **options)


COUNTS = {make_png: 400, make_jpeg: 250, make_bmp: 250, make_webp: 100}


def make_layouts() -> Iterator[tuple[str, bytes]]:
    """2,000 files, each with a name that says how it is made again."""
    yield from make_tiffs(1000)
    for make, count in COUNTS.items():
        yield from (
            (f"{make.__name__.removeprefix('make_').upper()} {number}", make(number)) for number in range(count)
        )
