"""A PNG, BMP or TIFF whose pixel data are not those of its size, or lie where they cannot, is no whole picture."""

import gc
import io
import struct
import weakref
import zlib

import crafted
import numpy as np
import pytest
from crafted import LONG, SHORT, encode, png, png_chunk, tiff
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding import image_format
from app.pipeline.decoding import png as png_module
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.tiff import tiff_jpeg, tiff_strips

LIMITS = ImageLimits(max_pixels=25_000_000)
PIXELS = crafted.samples(41, 40, 30, 3)
ROWS = [row.tobytes() for row in PIXELS]
STRIPS = [PIXELS[top : top + 10].tobytes() for top in range(0, 40, 10)]
GOES_ON = "go on behind"


def refuses(body: bytes, reason: str) -> None:
    with pytest.raises(DamagedImageError, match=reason):
        decode(body, LIMITS)


def takes(body: bytes) -> None:
    assert (np.asarray(decode(body, LIMITS).pixels) == PIXELS).all()


@pytest.mark.parametrize("height", [1, 20, 38])
def test_png_of_fewer_rows_than_its_data_is_damaged(height: int) -> None:
    refuses(png((30, height), 8, crafted.COLOUR, ROWS), GOES_ON)


def test_png_whose_last_chunks_of_data_are_not_needed_is_damaged() -> None:
    data = zlib.compress(b"".join(b"\0" + row for row in ROWS))
    body = png((30, 20), 8, crafted.COLOUR, [], deflated=b"")
    pieces = b"".join(png_chunk(b"IDAT", data[at : at + 200]) for at in range(0, len(data), 200))
    place = body.index(b"IDAT") - 4
    refuses(body[:place] + pieces + body[place + 12 :], GOES_ON)


def test_small_rest_in_a_png_is_taken() -> None:
    data = zlib.compress(b"".join(b"\0" + row for row in ROWS))
    takes(png((30, 40), 8, crafted.COLOUR, [], deflated=data + bytes(40)))


def test_png_does_not_keep_itself_alive() -> None:
    with Image.open(io.BytesIO(png((30, 40), 8, crafted.COLOUR, ROWS))) as image:
        png_module.load_pixels(image, 3000)
        seen = weakref.ref(image)
    gc.disable()
    try:
        del image
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("says", [True, False], ids=["says its length", "says only the file's"])
def test_bmp_of_fewer_rows_than_its_data_is_damaged(says: bool) -> None:
    body = bytearray(encode(Image.fromarray(PIXELS), "BMP"))
    if not says:
        body[34:38] = bytes(4)
    takes(bytes(body))
    takes(bytes(body) + bytes(5000))
    body[22:26] = struct.pack("<i", 20)
    refuses(bytes(body), GOES_ON)


def rgb_tiff(strips: list[bytes], height: int = 40, tags: dict[int, tuple[int, list[int]]] | None = None) -> bytes:
    return tiff((30, height), [8] * 3, crafted.RGB, strips, {crafted.ROWS_PER_STRIP: (LONG, [10]), **(tags or {})})


def test_tiff_of_fewer_rows_than_its_strips_is_damaged() -> None:
    takes(rgb_tiff(STRIPS))
    refuses(rgb_tiff(STRIPS, 20), GOES_ON)
    refuses(rgb_tiff([zlib.compress(strip) for strip in STRIPS], 30, {crafted.COMPRESSION: (SHORT, [8])}), GOES_ON)
    refuses(rgb_tiff([PIXELS.tobytes()], 20, {crafted.ROWS_PER_STRIP: (LONG, [40])}), GOES_ON)


def test_last_strip_of_a_tiff_may_be_filled_up() -> None:
    strips = [PIXELS[:30].tobytes(), PIXELS[30:].tobytes() + bytes(1800)]
    takes(rgb_tiff(strips, tags={crafted.ROWS_PER_STRIP: (LONG, [30])}))


@pytest.mark.parametrize(
    "places",
    [[0, 1000, 2000, 3000], [4, 1000, 2000, 3000], [10, 1000, 2000, 3000], [500] * 4, [500, 1400, 500, 2300]],
    ids=["at 0", "in the header", "in the directory", "all at one place", "two at one place"],
)
@pytest.mark.parametrize("is_tiled", [False, True], ids=["strips", "tiles"])
def test_tiff_whose_strips_or_tiles_share_a_place_is_damaged(places: list[int], is_tiled: bool) -> None:
    tags = {crafted.STRIP_OFFSETS: (LONG, places)}
    if is_tiled:
        tags = {
            crafted.TILE_OFFSETS: (LONG, places),
            crafted.TILE_WIDTH: (SHORT, [16]),
            crafted.TILE_LENGTH: (SHORT, [32]),
        }
    refuses(rgb_tiff(STRIPS, tags=tags), "overlap")


def test_uncompressed_strips_that_overlap_are_damaged() -> None:
    refuses(rgb_tiff(STRIPS, tags={crafted.STRIP_OFFSETS: (LONG, [500, 1300, 2300, 3200])}), "overlap")


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("kind", [SHORT, LONG])
def test_tiff_tables_of_any_type_are_read(kind: int, is_big: bool) -> None:
    tags = {
        crafted.ROWS_PER_STRIP: (kind, [10]),
        crafted.STRIP_COUNTS: (kind, [900] * 4),
        crafted.STRIP_OFFSETS: (kind, [600, 1500, 2400, 3300]),
    }
    head = tiff((30, 40), [8] * 3, crafted.RGB, [], tags, is_big=is_big)
    takes(head.ljust(600, b"\0") + b"".join(STRIPS))


@pytest.mark.parametrize("tags", [{}, {322: 32, 323: 32}], ids=["strips", "tiles"])
def test_jpeg_in_a_tiff_that_was_cut_is_truncated(tags: dict[int, int]) -> None:
    picture = Image.fromarray(crafted.samples(42, 64, 64, 3))
    body = encode(picture, "TIFF", compression="jpeg", tiffinfo=tags)
    assert decode(body, LIMITS).size == (64, 64)
    last = body.rindex(b"\xff\xd9", 0, body.rindex(b"\xff\xd9"))
    start = body.rindex(b"\xff\xda", 0, last)
    at = start + (last - start) // 2
    at -= body[at - 1] == 0xFF
    cut = body[:at] + b"\xff\xd9" + bytes(last - at) + body[last + 2 :]
    refuses(cut, "The JPEG is truncated")


def test_tiff_of_too_many_jpegs_is_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_jpeg, "MAX_JPEGS", 3)
    body = encode(Image.fromarray(PIXELS[:32]), "TIFF", compression="jpeg", tiffinfo={crafted.ROWS_PER_STRIP: 8})
    with pytest.raises(UnsupportedImageError, match="more than 3 JPEGs"):
        decode(body, LIMITS)


def test_every_message_stands_in_the_document_for_callers() -> None:
    document = (PROJECT_ROOT / "get_started" / "images.md").read_text(encoding="utf-8")
    assert f"`{image_format.LONG.format('PNG')}`" in document
    assert f"`{tiff_strips.SHARED}`" in document
