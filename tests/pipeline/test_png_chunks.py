"""PNGs whose chunks break the standard's rules of number, order and length, under right checksums, are refused."""

import struct
import time
import zlib

import crafted
import numpy as np
import pytest
from crafted import png_chunk
from sound_files import COLOURS, GREY, HEIGHT, INDEX, RGB, WIDTH

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits

LIMITS = ImageLimits(max_pixels=25_000_000)


def header(
    colour_type: int, depth: int = 8, *, size: tuple[int, int] = (WIDTH, HEIGHT), methods: bytes = b"\0\0\0"
) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBB", *size, depth, colour_type) + methods)


def data_of(pixels: np.ndarray) -> bytes:
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


def file_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


IDAT = {"grey": data_of(GREY), "RGB": data_of(RGB), "index": data_of(INDEX)}
PIXELS = {name: png_chunk(b"IDAT", data) for name, data in IDAT.items()}
HALVES = [png_chunk(b"IDAT", part) for part in (IDAT["RGB"][:40], IDAT["RGB"][40:])]
PLTE = png_chunk(b"PLTE", COLOURS.tobytes())
GREY_HEAD, RGB_HEAD, INDEX_HEAD = header(crafted.GREY), header(crafted.COLOUR), header(crafted.PALETTE)
TRNS = png_chunk(b"tRNS", b"\0\x0e")
GAMMA = png_chunk(b"gAMA", struct.pack(">I", 45455))
TEXT = png_chunk(b"tEXt", b"Title\0patch")
BROKEN = {
    "empty palette": file_of(INDEX_HEAD, png_chunk(b"PLTE", b""), PIXELS["index"]),
    "no palette": file_of(INDEX_HEAD, PIXELS["index"]),
    "palette of ten bytes": file_of(INDEX_HEAD, png_chunk(b"PLTE", bytes(10)), PIXELS["index"]),
    "palette of 257 colours": file_of(INDEX_HEAD, png_chunk(b"PLTE", bytes(771)), PIXELS["index"]),
    "palette of more colours than its depth": file_of(
        header(crafted.PALETTE, 1), png_chunk(b"PLTE", bytes(9)), png_chunk(b"IDAT", zlib.compress(bytes(2 * HEIGHT)))
    ),
    "palette that lacks a colour": file_of(INDEX_HEAD, png_chunk(b"PLTE", COLOURS[:3].tobytes()), PIXELS["index"]),
    "palette behind the pixels": file_of(INDEX_HEAD, PIXELS["index"], PLTE),
    "two palettes": file_of(INDEX_HEAD, PLTE, PLTE, PIXELS["index"]),
    "palette of grey": file_of(GREY_HEAD, PLTE, PIXELS["grey"]),
    "suggested palette behind the pixels": file_of(RGB_HEAD, PIXELS["RGB"], PLTE),
    "transparency behind the pixels": file_of(GREY_HEAD, PIXELS["grey"], TRNS),
    "transparency behind the pixels, of a palette": file_of(
        INDEX_HEAD, PLTE, PIXELS["index"], png_chunk(b"tRNS", b"\0")
    ),
    "transparency before the palette": file_of(INDEX_HEAD, png_chunk(b"tRNS", b"\0"), PLTE, PIXELS["index"]),
    "transparency longer than the palette": file_of(INDEX_HEAD, PLTE, png_chunk(b"tRNS", bytes(5)), PIXELS["index"]),
    "transparency twice": file_of(GREY_HEAD, TRNS, TRNS, PIXELS["grey"]),
    "transparency of one byte": file_of(GREY_HEAD, png_chunk(b"tRNS", b"\0"), PIXELS["grey"]),
    "transparency of two bytes for RGB": file_of(RGB_HEAD, TRNS, PIXELS["RGB"]),
    "transparency beside alpha": file_of(
        header(crafted.GREY_ALPHA), TRNS, png_chunk(b"IDAT", data_of(np.dstack([GREY, GREY])))
    ),
    "pixels in two places": file_of(RGB_HEAD, HALVES[0], TEXT, HALVES[1]),
    "no pixels": file_of(RGB_HEAD, TEXT),
    "two headers": file_of(RGB_HEAD, RGB_HEAD, PIXELS["RGB"]),
    "second header behind the pixels": file_of(RGB_HEAD, PIXELS["RGB"], GREY_HEAD),
    "header not first": file_of(TEXT, RGB_HEAD, PIXELS["RGB"]),
    "header of 12 bytes": file_of(png_chunk(b"IHDR", bytes([0, 0, 0, 7, 0, 0, 0, 5, 8, 2, 0, 0])), PIXELS["RGB"]),
    "header of 14 bytes": file_of(
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0) + b"\0"), PIXELS["RGB"]
    ),
    "width of 0": file_of(header(crafted.COLOUR, size=(0, HEIGHT)), PIXELS["RGB"]),
    "height of 0": file_of(header(crafted.COLOUR, size=(WIDTH, 0)), PIXELS["RGB"]),
    "RGB of 4 bits": file_of(header(crafted.COLOUR, 4), PIXELS["RGB"]),
    "grey of 3 bits": file_of(header(crafted.GREY, 3), PIXELS["grey"]),
    "palette of 16 bits": file_of(header(crafted.PALETTE, 16), PLTE, PIXELS["index"]),
    "colour type of 5": file_of(header(5), PIXELS["RGB"]),
    "another compression": file_of(header(crafted.COLOUR, methods=b"\1\0\0"), PIXELS["RGB"]),
    "another filter": file_of(header(crafted.COLOUR, methods=b"\0\1\0"), PIXELS["RGB"]),
    "another interlace": file_of(header(crafted.COLOUR, methods=b"\0\0\2"), PIXELS["RGB"]),
    "gamma behind the pixels": file_of(RGB_HEAD, PIXELS["RGB"], GAMMA),
    "gamma behind the palette": file_of(INDEX_HEAD, PLTE, GAMMA, PIXELS["index"]),
    "gamma twice": file_of(RGB_HEAD, GAMMA, GAMMA, PIXELS["RGB"]),
}
BROKEN |= {
    f"{kind.decode()} behind the pixels": file_of(RGB_HEAD, PIXELS["RGB"], png_chunk(kind, bytes(32)))
    for kind in (b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"cICP")
}


@pytest.mark.parametrize("name", BROKEN)
def test_png_that_breaks_a_rule_of_its_chunks_is_damaged(name: str) -> None:
    with pytest.raises(DamagedImageError, match="The picture is damaged: "):
        decode(BROKEN[name], LIMITS)


SOUND = {
    "plain": file_of(RGB_HEAD, PIXELS["RGB"]),
    "pixels in three chunks, one empty": file_of(RGB_HEAD, HALVES[0], png_chunk(b"IDAT", b""), HALVES[1]),
    "suggested palette": file_of(RGB_HEAD, PLTE, PIXELS["RGB"]),
    "colours before the palette": file_of(RGB_HEAD, GAMMA, png_chunk(b"sRGB", b"\0"), PLTE, PIXELS["RGB"]),
    "texts around the pixels": file_of(TEXT, *[])[:8]
    + RGB_HEAD
    + TEXT
    + TEXT
    + PIXELS["RGB"]
    + TEXT
    + png_chunk(b"IEND", b""),
    "unknown chunk that may be skipped": file_of(RGB_HEAD, png_chunk(b"prVt", b"x"), PIXELS["RGB"]),
    "EXIF behind the pixels": file_of(RGB_HEAD, PIXELS["RGB"], png_chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0")),
}


@pytest.mark.parametrize("name", SOUND)
def test_png_that_keeps_the_rules_is_answered(name: str) -> None:
    assert (np.asarray(decode(SOUND[name], LIMITS).pixels) == RGB).all()


@pytest.mark.parametrize(
    "body",
    [
        file_of(RGB_HEAD, png_chunk(b"NEWc", b"x"), PIXELS["RGB"]),
        file_of(png_chunk(b"CgBI", b"\x50\0\x20\2"), RGB_HEAD, PIXELS["RGB"]),
    ],
    ids=["unknown", "Apple's"],
)
def test_png_with_an_unknown_chunk_that_is_needed_is_of_a_kind_that_is_not_taken(body: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="needs a reader that knows its chunk"):
        decode(body, LIMITS)


def test_many_chunks_of_different_names_take_no_time() -> None:
    names = (f"{chr(97 + n // 676 % 26)}{chr(97 + n // 26 % 26)}A{chr(97 + n % 26)}".encode() for n in range(15_000))
    body = file_of(RGB_HEAD, *[png_chunk(name, b"") for name in names], PIXELS["RGB"])
    started = time.process_time()
    assert (np.asarray(decode(body, LIMITS).pixels) == RGB).all()
    assert time.process_time() - started < 1
