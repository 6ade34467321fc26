"""TIFFs of random layouts, each by its number: the same number makes the same file."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import crafted
import numpy as np
from crafted import LONG, SHORT, Pixels, encode, tiff
from numpy.random import Generator
from PIL import Image

COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # TIFF 6.0: samples of a pixel, by photometric interpretation
COMMON_BITS = {
    0: (1, 2, 4, 8, 16),
    1: (1, 2, 4, 8, 12, 16),
    2: (8, 8, 16),
    3: (1, 2, 4, 8),
    5: (8, 16),
    6: (8,),
    8: (8,),
}
RARE_BITS = {0: (12, 32, 64), 1: (3, 24, 32, 64), 2: (2, 4, 12, 32, 64), 3: (16,), 5: (32,), 6: (16,), 8: (16,)}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # TIFF 6.0, section 19
LZW, PACKBITS, OLD_DEFLATE, PREDICTOR, FILL_ORDER = 5, 32773, 32946, 317, 266
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Shape:
    """How a TIFF stores its pixels."""

    photometric: int
    bits: int
    extras: list[int]
    sample_format: int
    order: str
    is_planar: bool

    @property
    def samples(self) -> int:
        return COLOURS[self.photometric] + len(self.extras)


def pick(random: Generator, *choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def draw_shape(random: Generator) -> Shape:
    photometric = pick(random, 0, 1, 1, 2, 2, 2, 3, 5, 6, 8)
    rare = random.random() < 0.15
    bits = pick(random, *(RARE_BITS if rare else COMMON_BITS)[photometric])
    sample_format = pick(random, SIGNED, FLOAT) if rare and bits in (16, 32, 64) and random.random() < 0.6 else UNSIGNED
    extras = pick(random, [0], [1], [2], [0, 0], [2, 0]) if random.random() < 0.25 else []
    is_planar = COLOURS[photometric] + len(extras) > 1 and random.random() < 0.25
    return Shape(photometric, bits, extras, sample_format, pick(random, "<", ">"), is_planar)


def draw_samples(random: Generator, height: int, width: int, samples: int) -> Pixels:
    """Slopes with some noise, 0 to 1, [height, width, samples]."""
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[:, None]
    picture: Pixels = 0.1 + 0.4 * (random.random(samples) * down + random.random(samples) * across)
    return picture + 0.1 * random.random(picture.shape)


def quantize(values: Pixels, shape: Shape) -> Pixels:
    if shape.sample_format == FLOAT:
        return values.astype(f"{shape.order}f{shape.bits // 8}")
    largest = 2 ** (shape.bits - (shape.sample_format == SIGNED)) - 1
    whole = (values * largest).astype(np.uint64)
    return whole.astype(f"{shape.order}u{shape.bits // 8}") if shape.bits in (8, 16, 32, 64) else whole


def pack(part: Pixels, bits: int) -> bytes:
    """Rows of samples as a TIFF stores them; rows of samples of odd bits end at a whole byte."""
    if bits in (8, 16, 32, 64):
        return part.tobytes()
    rows = part.reshape(len(part), -1, 1)
    digits = (rows >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(digits.reshape(len(part), -1).astype(np.uint8), axis=1).tobytes()


def difference(part: Pixels) -> Pixels:
    """TIFF 6.0, section 14: each sample less the one to its left."""
    result = part.copy()
    result[:, 1:] -= part[:, :-1]
    return result


def pack_bits(data: bytes) -> bytes:
    """TIFF 6.0, section 9: literal runs of up to 128 bytes, or one repeated byte."""
    runs = [data[start : start + 100] for start in range(0, len(data), 100)]
    return b"".join(
        bytes([257 - len(run), run[0]]) if len(set(run)) == 1 < len(run) else bytes([len(run) - 1]) + run
        for run in runs
    )


def lzw(data: bytes) -> bytes:
    """TIFF 6.0, section 13, with a table that is cleared before a code would take 10 bits."""
    codes = [code for start in range(0, len(data), 200) for code in (256, *data[start : start + 200])] + [257]
    bits = "".join(f"{code:09b}" for code in codes)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


COMPRESS = {
    crafted.RAW: bytes,
    LZW: lzw,
    crafted.DEFLATE: zlib.compress,
    PACKBITS: pack_bits,
    OLD_DEFLATE: zlib.compress,
}


def cut(stored: Pixels, random: Generator, tags: dict[int, Any]) -> list[Pixels]:
    """Cut the samples into strips or tiles, and say so in the tags."""
    height, width, _ = stored.shape
    if random.random() < 0.35:
        tile_width, tile_height = pick(random, 16, 32), pick(random, 16, 48)
        tags[crafted.TILE_WIDTH] = (pick(random, SHORT, LONG), [tile_width])
        tags[crafted.TILE_LENGTH] = (pick(random, SHORT, LONG), [tile_height])
        margin = ((0, -height % tile_height), (0, -width % tile_width), (0, 0))
        padded = np.pad(stored, margin)
        return [
            padded[top : top + tile_height, left : left + tile_width]
            for top in range(0, height, tile_height)
            for left in range(0, width, tile_width)
        ]
    rows = int(random.integers(1, height + 1))
    if rows < height or random.random() < 0.5:
        tags[crafted.ROWS_PER_STRIP] = (pick(random, SHORT, LONG), [rows])
    else:
        tags[crafted.ROWS_PER_STRIP] = (LONG, [2**32 - 1])
    return [stored[top : top + rows] for top in range(0, height, rows)]


def add_colours(random: Generator, shape: Shape, tags: dict[int, Any]) -> None:
    if shape.photometric == crafted.PALETTE_COLOUR:
        deepest = pick(random, 255, 65535, 65535)
        tags[crafted.COLOUR_MAP] = (SHORT, random.integers(0, deepest + 1, 3 * 2**shape.bits).tolist())
    if shape.photometric == crafted.YCBCR:
        tags[530] = (SHORT, [1, 1])  # no subsampling
    if shape.extras:
        tags[crafted.EXTRA_SAMPLES] = (SHORT, shape.extras)
    if shape.sample_format != UNSIGNED or random.random() < 0.2:
        tags[crafted.SAMPLE_FORMAT] = (SHORT, [shape.sample_format] * shape.samples)
    if shape.is_planar:
        tags[crafted.PLANAR] = (SHORT, [2])


def make_tiff(number: int) -> bytes:
    """A TIFF written by hand."""
    random = np.random.default_rng([1, number])
    shape = draw_shape(random)
    height, width = (int(side) for side in random.integers(1, 50, 2))
    samples = quantize(draw_samples(random, height, width, shape.samples), shape)
    tags: dict[int, Any] = {}
    add_colours(random, shape, tags)
    if random.random() < 0.4:
        tags[crafted.ORIENTATION] = (pick(random, crafted.BYTE, SHORT, LONG), [int(random.integers(1, 9))])
    planes = [samples[..., [band]] for band in range(shape.samples)] if shape.is_planar else [samples]
    state = random.bit_generator.state
    parts = []
    for plane in planes:
        random.bit_generator.state = state  # every plane is cut alike
        parts += cut(plane, random, tags)
    compression = pick(random, *COMPRESS)
    is_whole = shape.bits in (8, 16, 32) and shape.sample_format != FLOAT
    if is_whole and compression in (LZW, crafted.DEFLATE, OLD_DEFLATE) and random.random() < 0.5:
        tags[PREDICTOR] = (SHORT, [2])
        parts = [difference(part) for part in parts]
    by_row = compression == PACKBITS  # TIFF 6.0, section 9: no run reaches into the next row
    strips = [
        b"".join(
            COMPRESS[compression](pack(rows, shape.bits)) for rows in (np.split(part, len(part)) if by_row else [part])
        )
        for part in parts
    ]
    tags[crafted.COMPRESSION] = (SHORT, [compression])
    if shape.bits <= 8 and random.random() < 0.15:
        tags[FILL_ORDER] = (SHORT, [2])
        strips = [strip.translate(REVERSED) for strip in strips]
    bits = [shape.bits] * (1 if shape.samples == 1 or random.random() < 0.1 else shape.samples)
    tags[crafted.SAMPLES] = (SHORT, [shape.samples])
    is_big = random.random() < 0.25
    return tiff((width, height), bits, shape.photometric, strips, tags, order=shape.order, is_big=is_big)


def make_encoded_tiff(number: int) -> bytes:
    """A TIFF of libtiff, in the compressions that are not written by hand."""
    random = np.random.default_rng([2, number])
    height, width = (int(side) for side in random.integers(8, 60, 2))
    mode = pick(random, "RGB", "L", "1", "RGBA", "CMYK", "YCbCr", "LA", "P", "I;16", "I;16B")
    picture = Image.fromarray((255 * draw_samples(random, height, width, 3)).astype(np.uint8))
    picture = picture.convert("L").convert("I").convert(mode) if mode.startswith("I;") else picture.convert(mode)
    jpeg = ("jpeg",) if mode in ("RGB", "L", "CMYK", "YCbCr") else ()
    fax = ("group3", "group4", "tiff_ccitt") if mode == "1" else ()
    compression = pick(random, "tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma", "packbits", *jpeg * 3, *fax * 3)
    options: dict[str, Any] = {"tiffinfo": {crafted.ORIENTATION: int(random.integers(1, 9))}}
    if compression == "jpeg":
        options["quality"] = 95
    return encode(picture, "TIFF", compression=compression, **options)


def make_tiffs(count: int) -> Iterator[tuple[str, bytes]]:
    """Half of them and more by hand."""
    for number in range(count):
        yield f"TIFF {number}", make_tiff(number) if number % 4 else make_encoded_tiff(number)
