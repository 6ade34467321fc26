"""PNG and JPEG files that Pillow would read wrongly, or for minutes, are refused."""

import random
import struct
import time
import zlib
from collections.abc import Callable

import crafted
import numpy as np
import pytest
from crafted import encode, png, png_chunk
from PIL import Image

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.jpeg.jpeg_format import Jpeg
from app.pipeline.decoding.jpeg.jpeg_segments import MAX_SCANS, MAX_SEGMENTS
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.png import MAX_CHUNKS, Png

LIMITS = ImageLimits(max_pixels=25_000_000)
PIXELS = crafted.samples(20, 9, 11)
ROWS = [row.tobytes() for row in PIXELS]
SIZE = (11, 9)
JPEG = encode(Image.fromarray(crafted.gradient(24, 32)), "JPEG")


def split(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Cut a PNG into what stands before, in and after its pixel data."""
    start = body.index(b"IDAT") + 4
    (length,) = struct.unpack_from(">I", body, start - 8)
    return body[:start], body[start : start + length], body[start + length :]


def seal(deflated: bytes) -> bytes:
    """Make a PNG with right checksums around any pixel data."""
    return png(SIZE, 8, crafted.GREY, [], deflated=deflated)


def refuses(body: bytes, error: type[Exception]) -> None:
    started = time.process_time()
    with pytest.raises(error):
        decode(body, LIMITS)
    assert time.process_time() - started < 0.5


def test_wrong_checksum_of_pixel_data_answers_422() -> None:
    before, data, after = split(png(SIZE, 8, crafted.GREY, ROWS))
    refuses(before + data + bytes([after[0] ^ 1]) + after[1:], DamagedImageError)


def test_flipped_pixel_data_answers_422_at_every_byte() -> None:
    before, data, after = split(png(SIZE, 8, crafted.GREY, ROWS))
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(DamagedImageError, match="checksum"):
            decode(before + flipped + after, LIMITS)


def test_wrong_checksum_of_any_chunk_answers_422() -> None:
    body = png(SIZE, 8, crafted.GREY, ROWS, extra=[(b"tEXt", b"Title\0patch")])
    for kind in (b"IHDR", b"tEXt", b"IDAT", b"IEND"):
        place = body.index(kind)
        (length,) = struct.unpack_from(">I", body, place - 4)
        checksum = place + 4 + length
        refuses(body[:checksum] + bytes([body[checksum] ^ 0xFF]) + body[checksum + 1 :], DamagedImageError)


def test_broken_deflate_data_under_a_right_checksum_answers_4xx_or_the_whole_height() -> None:
    deflated = zlib.compress(b"".join(b"\0" + row for row in ROWS))
    chance = random.Random(21)
    refused = 0
    for _ in range(200):
        data = bytearray(deflated)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            assert decode(seal(bytes(data)), LIMITS).pixels.size == SIZE
        except DamagedImageError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("rows", [0, 1, 4, 8])
def test_png_whose_pixel_data_ends_early_answers_422(rows: int) -> None:
    data = b"".join(b"\0" + row for row in ROWS[:rows])
    refuses(seal(zlib.compress(data)), DamagedImageError)
    refuses(seal(zlib.compress(data + b"\0\1\2\3")), DamagedImageError)


@pytest.mark.parametrize("missing", [1, 5, 12, 40])
def test_interlaced_png_whose_pixel_data_ends_early_answers_422(missing: int) -> None:
    rows = crafted.interlace(PIXELS)
    data = zlib.compress(b"".join(b"\0" + row for row in rows)[:-missing])
    refuses(png(SIZE, 8, crafted.GREY, [], interlaced=True, deflated=data), DamagedImageError)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 5), (5, 2), (9, 9)], ids=str)
def test_black_png_is_whole(size: tuple[int, int], interlaced: bool) -> None:
    black = np.zeros(size[::-1], np.uint8)
    rows = crafted.interlace(black) if interlaced else [row.tobytes() for row in black]
    body = png(size, 8, crafted.GREY, rows, interlaced=interlaced)
    assert decode(body, LIMITS).pixels.size == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_black_png_of_every_mode_is_whole(mode: str) -> None:
    assert decode(encode(Image.new(mode, (13, 3)), "PNG"), LIMITS).pixels.size == (13, 3)


def test_pixel_data_in_several_chunks_is_joined() -> None:
    rows = [*ROWS[:-1], bytes(11)]
    before, data, after = split(png(SIZE, 8, crafted.GREY, rows))
    pieces = b"".join(png_chunk(b"IDAT", data[place : place + 7]) for place in range(0, len(data), 7))
    body = before[:-8] + pieces + after[4:]
    assert decode(body, LIMITS).pixels.tobytes() == decode(png(SIZE, 8, crafted.GREY, rows), LIMITS).pixels.tobytes()


def test_png_without_its_end_answers_422() -> None:
    refuses(png(SIZE, 8, crafted.GREY, ROWS)[:-12], DamagedImageError)


def flood_png(kind: bytes) -> bytes:
    body = png(SIZE, 8, crafted.GREY, ROWS)
    place = body.index(b"IDAT") - 4
    return body[:place] + png_chunk(kind, b"") * MAX_CHUNKS + body[place:]


def flood_segments() -> bytes:
    return JPEG[:2] + b"\xff\xe1\0\2" * MAX_SEGMENTS + JPEG[2:]


def flood_segments_after_a_false_end() -> bytes:
    return JPEG[:2] + b"\xff\xd9" + b"\xff\xe1\0\2" * MAX_SEGMENTS + JPEG[2:]


def flood_scans() -> bytes:
    body = encode(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:-2] + body[last:-2] * MAX_SCANS + b"\xff\xd9"


@pytest.mark.parametrize(
    "make",
    [
        lambda: flood_png(b"IDAT"),
        lambda: flood_png(b"teSt"),
        flood_segments,
        flood_segments_after_a_false_end,
        flood_scans,
    ],
    ids=["PNG pixel chunks", "PNG other chunks", "JPEG segments", "JPEG segments after an end", "JPEG scans"],
)
def test_file_of_too_many_parts_is_refused_at_once(make: Callable[[], bytes]) -> None:
    refuses(make(), UnsupportedImageError)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}], ids=str
)
def test_jpeg_markers_are_told_from_pixel_data(options: dict[str, bool]) -> None:
    """Noise holds many stuffed 0xFF bytes, which are no markers. Scans after the picture's end do not count."""
    noise = encode(Image.fromarray(crafted.samples(22, 300, 300, 3)), "JPEG", quality=100, **options)
    assert noise.count(b"\xff\0") > 200
    Jpeg().check_file(noise, LIMITS)
    Jpeg().check_file(noise + noise * MAX_SCANS, LIMITS)
    assert decode(noise, LIMITS).pixels.size == (300, 300)


def test_profile_in_many_segments_is_taken() -> None:
    body = encode(Image.new("RGB", (8, 8)), "JPEG", icc_profile=bytes(5_000_000))
    Jpeg().check_file(body, LIMITS)
    assert decode(body, LIMITS).pixels.size == (8, 8)


def test_png_check_is_cheap_beside_decoding() -> None:
    """The picture is a 96x96 patch, the size of most requests."""
    body = encode(Image.fromarray(crafted.samples(23, 96, 96, 3)), "PNG")

    def cpu_of(work: Callable[[], object]) -> float:
        started = time.process_time()
        for _ in range(200):
            work()
        return time.process_time() - started

    check_s = min(cpu_of(lambda: Png().check_file(body, LIMITS)) for _ in range(3))
    whole_s = min(cpu_of(lambda: decode(body, LIMITS)) for _ in range(3))
    assert check_s < whole_s / 3
