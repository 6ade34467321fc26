"""Cut, flipped, oversized and costly files answer 4xx at once, and never a picture whose pixels the file lacks."""

import random
import subprocess
import sys
import time
import zlib

import crafted
import pytest
from crafted import png, tiff
from PIL import Image
from sound_files import FILES, RGB, SIZE, Case
from sound_tiffs import TIFFS

from app.config.setting_types import PROJECT_ROOT
from app.errors import AnsweredError, DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits

LIMITS = ImageLimits(max_pixels=25_000_000)
SOUND = {case.name: case for case in FILES + TIFFS}
# One file of each way of storing pixels.
FRAGILE = [case for case in SOUND.values() if "orientation" not in case.name or case.name.endswith("orientation 6")]


def by_name(case: Case) -> str:
    return case.name


def outcome(body: bytes) -> Image.Image | AnsweredError:
    try:
        return decode(body, LIMITS).pixels
    except AnsweredError as error:
        return error


@pytest.mark.parametrize("case", FRAGILE, ids=by_name)
def test_cut_file_answers_4xx_or_the_whole_picture_but_never_missing_pixels(case: Case) -> None:
    whole = decode(case.body, LIMITS).pixels.tobytes()
    step = max(1, len(case.body) // 150)
    for end in [*range(18, len(case.body), step), len(case.body) - 1]:
        found = outcome(case.body[:end])
        if isinstance(found, Image.Image):
            assert found.tobytes() == whole, f"other pixels after a cut at {end}"
        else:
            assert isinstance(found, DamagedImageError), f"{found!r} after a cut at {end}"


@pytest.mark.parametrize("case", FRAGILE, ids=by_name)
def test_flipped_bytes_answer_a_picture_or_4xx(case: Case) -> None:
    chance = random.Random(case.name)
    for _ in range(150):
        body = bytearray(case.body)
        for _ in range(chance.choice([1, 1, 2, 4])):
            body[chance.randrange(len(body))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        found = outcome(bytes(body))  # any other exception, and any warning, fails here
        assert isinstance(found, Image.Image) or 400 <= found.status < 500


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "name", ["PNG RGB", "JPEG", "JPEG progressive", "TIFF RGB", "TIFF tiled deflate", "BMP 24-bit"]
)
def test_truncated_file_answers_422(name: str, cut: float) -> None:
    body = SOUND[name].body
    with pytest.raises(DamagedImageError):
        decode(body[: int(len(body) * cut)], LIMITS)


WEBP_KINDS = {
    "WebP": crafted.lossless_webp,
    "lossy WebP": crafted.lossy_webp,
    "extended WebP": crafted.extended_webp,
}
FORMATS = ("PNG", "JPEG", "TIFF", "tiled TIFF", "BMP", *WEBP_KINDS)
# A side of a plain WebP has 14 bits.
OVERSIZED = [(each, (13_000, 13_000)) for each in FORMATS] + [
    (each, size)
    for each in FORMATS
    for size in ((20_000, 10), (10, 20_000), (16_385, 1))
    if each not in ("WebP", "lossy WebP")
]


@pytest.mark.parametrize("file_format, size", OVERSIZED)
def test_oversized_header_answers_422(file_format: str, size: tuple[int, int]) -> None:
    body = make_oversized(file_format, size)
    assert len(body) < 400
    with pytest.raises(
        UnsupportedImageError, match=r"pixels; at most 25000000 in all and 16384 on a side are taken\.$"
    ):
        decode(body, LIMITS)


def make_oversized(file_format: str, size: tuple[int, int]) -> bytes:
    if file_format == "PNG":
        return png(size, 8, crafted.COLOUR, [b"no pixels"])
    if file_format == "JPEG":
        return crafted.jpeg_header(*size)
    if file_format == "TIFF":
        return tiff(size, [8, 8, 8], crafted.RGB, [b"no pixels"])
    if file_format == "tiled TIFF":  # the picture is small, its tiles are not
        tiles = {crafted.TILE_WIDTH: (crafted.LONG, size[:1]), crafted.TILE_LENGTH: (crafted.LONG, size[1:])}
        return tiff((8, 8), [8, 8, 8], crafted.RGB, [b"no pixels"], tiles)
    if file_format == "BMP":
        return crafted.bmp(size, 24, b"no pixels")
    return WEBP_KINDS[file_format](*size)


def test_oversized_header_takes_no_memory() -> None:
    """The process may take 64 MiB more address space; the smallest of these pictures would need 169 MB."""
    code = """
import resource, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from test_hostile_files import FORMATS, LIMITS, make_oversized
from app.errors import UnsupportedImageError
from app.pipeline.decoding.decode import decode

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for file_format in FORMATS:
    try:
        decode(make_oversized(file_format, (13_000, 13_000)), LIMITS)
    except UnsupportedImageError:
        print(file_format)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("address space is limited and read the Linux way")
    command = [sys.executable, "-c", code, str(PROJECT_ROOT / "tests" / "pipeline")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert tuple(done.stdout.splitlines()) == FORMATS


def test_oversized_tile_is_not_told_as_the_size_of_the_picture() -> None:
    with pytest.raises(UnsupportedImageError, match=r"^A tile of the picture has 13000 x 13000 pixels; "):
        decode(make_oversized("tiled TIFF", (13_000, 13_000)), LIMITS)


def test_smallest_webp_is_28_bytes_and_sound() -> None:
    body = crafted.lossless_webp(100, 60)
    assert len(body) == 28
    assert decode(body, LIMITS).pixels.size == (100, 60)


@pytest.mark.parametrize("tiled", [False, True], ids=["strips", "tiles"])
@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "deflate"])
def test_tiff_without_its_last_part_answers_422(tiled: bool, compressed: bool) -> None:
    part = bytes([200]) * 256
    tags: dict[int, tuple[int, list[int]]] = {crafted.ROWS_PER_STRIP: (crafted.SHORT, [16])}
    if tiled:
        tags = {crafted.TILE_WIDTH: (crafted.SHORT, [16]), crafted.TILE_LENGTH: (crafted.SHORT, [16])}
    if compressed:
        tags[crafted.COMPRESSION] = (crafted.SHORT, [crafted.DEFLATE])
        part = zlib.compress(part)
    whole = tiff((16, 32), [8], crafted.BLACK_IS_ZERO, [part, part], tags)
    assert decode(whole, LIMITS).pixels.getextrema() == ((200, 200),) * 3
    with pytest.raises(DamagedImageError):
        decode(tiff((16, 32), [8], crafted.BLACK_IS_ZERO, [part], tags), LIMITS)


def test_tiff_without_its_last_plane_answers_422() -> None:
    planes = [RGB[..., band].tobytes() for band in range(2)]
    with pytest.raises(DamagedImageError):
        decode(tiff(SIZE, [8, 8, 8], crafted.RGB, planes, {crafted.PLANAR: (crafted.SHORT, [2])}), LIMITS)


def test_table_of_a_million_strips_is_refused_at_once() -> None:
    table = [8] * 1_000_000
    tags = {crafted.STRIP_OFFSETS: (crafted.BYTE, table), crafted.ROWS_PER_STRIP: (crafted.SHORT, [1])}
    body = tiff((1, 16_000), [8], crafted.BLACK_IS_ZERO, [b""], tags)
    started = time.process_time()
    with pytest.raises(DamagedImageError):
        decode(body, LIMITS)
    assert time.process_time() - started < 1
