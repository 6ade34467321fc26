"""A JPEG that lacks data, or whose header says another size than its data have, is refused. libjpeg fills up either."""

import io
import re
import struct

import crafted
import numpy as np
import pytest
from crafted import encode
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.jpeg import jpeg_scans
from app.pipeline.decoding.jpeg.jpeg_segments import Scan, read_structure
from app.pipeline.decoding.limits import ImageLimits

LIMITS = ImageLimits(max_pixels=25_000_000)
NOISE = Image.fromarray(crafted.samples(31, 72, 104, 3))
SMOOTH = Image.fromarray(crafted.gradient(72, 104))
END = b"\xff\xd9"
CUT, FEW_PASSES, LONG = "pixel data end early", "passes", "go on behind"
OPTIONS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1, "optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 5},
}
PICTURES = {
    "noise": NOISE,
    "smooth": SMOOTH,
    "grey": NOISE.convert("L"),
    "CMYK": NOISE.convert("CMYK"),
    "flat": Image.new("RGB", (104, 72), "grey"),
}


def scans_of(body: bytes) -> list[Scan]:
    return read_structure(body).scans


def size_at(body: bytes) -> int:
    """The offset of height and width in the frame's header."""
    found = re.search(rb"\xff[\xc0-\xc2]\0", body)
    assert found is not None
    return found.end() + 2


def resize(body: bytes, width: int, height: int) -> bytes:
    at = size_at(body)
    return body[:at] + struct.pack(">HH", height, width) + body[at + 4 :]


def cut_at(body: bytes, at: int) -> bytes:
    """Cut behind a whole byte of data, and close the file."""
    return body[: at - (body[at - 1] == 0xFF)] + END


def refuses(body: bytes, reason: str) -> None:
    with pytest.raises(DamagedImageError, match=reason):
        decode(body, LIMITS)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_whole_jpeg_has_the_pixels_that_pillow_loads(picture: Image.Image, options: dict[str, object]) -> None:
    body = encode(picture, "JPEG", quality=90, **options)
    pixels = decode(body, LIMITS, follows_metadata=False).pixels
    with Image.open(io.BytesIO(body)) as loaded:
        assert np.array_equal(np.asarray(pixels), np.asarray(loaded.convert("RGB")))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cut_and_closed_jpeg_is_truncated_wherever_it_is_cut(options: dict[str, object]) -> None:
    body = encode(NOISE, "JPEG", quality=90, **options)
    for scan in scans_of(body):
        for at in range(scan.start + 1, scan.end - 24, 1 + (scan.end - scan.start) // 16):
            refuses(cut_at(body, at), f"{CUT}|{FEW_PASSES}|restart markers")


@pytest.mark.parametrize("subsampling", [0, 2], ids=["4:4:4", "4:2:0"])
def test_one_missing_unit_of_a_flat_jpeg_shows(subsampling: int) -> None:
    """A unit has 24 or 36 bits, fewer than libjpeg reads ahead."""
    body = encode(Image.new("RGB", (160, 160), "red"), "JPEG", subsampling=subsampling)
    (scan,) = scans_of(body)
    assert decode(body, LIMITS).size == (160, 160)
    refuses(cut_at(body, scan.end - 6), CUT)


def test_data_missing_in_any_pass_of_a_progressive_jpeg_show() -> None:
    body = encode(NOISE, "JPEG", progressive=True)
    scans = scans_of(body)
    assert len(scans) == 10
    for scan in scans:
        at = scan.start + 1 + (scan.end - scan.start) // 2
        refuses(body[: at - (body[at - 1] == 0xFF)] + body[scan.end :], CUT)


def test_progressive_jpeg_without_any_of_its_passes_is_truncated() -> None:
    body = encode(NOISE, "JPEG", progressive=True)
    scans = scans_of(body)
    begins = [body.index(b"\xff\xda", end) for end in [scans[0].start - 14, *(scan.end for scan in scans[:-1])]]
    for begin, scan in zip(begins, scans, strict=True):
        refuses(body[:begin] + body[scan.end :], FEW_PASSES)
        if scan is not scans[-1]:
            refuses(body[: scan.end] + END, FEW_PASSES)


def separate_planes() -> bytes:
    """A baseline JPEG with a scan for each plane, made of three grey ones."""
    grey = [encode(NOISE.getchannel(band), "JPEG") for band in range(3)]
    start, scan = grey[0].index(b"\xff\xc0"), b"\xff\xda\0\x08\1%c\0\0\x3f\0"
    frame = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 72, 104) + b"\3\1\x11\0\2\x11\0\3\x11\0"
    tables = grey[0][start + 13 : grey[0].index(b"\xff\xda")]
    data = [body[scans_of(body)[0].start : -2] for body in grey]
    return grey[0][:start] + frame + tables + b"".join(scan % (1 + each) + data[each] for each in range(3)) + END


def test_jpeg_with_a_scan_for_each_plane_is_whole_with_all_of_them() -> None:
    body = separate_planes()
    assert decode(body, LIMITS).size == (104, 72)
    scans = scans_of(body)
    refuses(body[: scans[1].end] + END, FEW_PASSES)
    refuses(cut_at(body, scans[2].end - 120), CUT)
    refuses(body[: scans[0].end - 120] + body[scans[0].end :], CUT)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_size_in_the_header_that_the_data_do_not_have_is_refused(options: dict[str, object]) -> None:
    body = encode(NOISE, "JPEG", quality=90, **options)
    for width, height in ((104, 144), (208, 72), (104, 88), (16_000, 1_500)):
        refuses(resize(body, width, height), f"{CUT}|restart markers")
    for width, height in ((104, 36), (52, 72), (8, 8)):
        refuses(resize(body, width, height), LONG)


def test_small_rest_behind_the_data_is_taken() -> None:
    """Cameras leave some bytes there."""
    for options in OPTIONS.values():
        body = encode(NOISE, "JPEG", **options)
        assert decode(body[:-2] + b"\x12\x34" * 20 + bytes(4096) + b"\xff" * 20 + END, LIMITS).size == (104, 72)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b"\xff\xd3", b"", 1),
        lambda body: body.replace(b"\xff\xd3", b"\xff\xd4", 1),
        lambda body: body[: body.index(b"\xff\xd2")] + body[body.index(b"\xff\xd4") :],
        lambda body: body.replace(b"\xff\xd3", b"\xff\xd8", 1),
        lambda body: body.replace(b"\xff\xd3", b"\xff\x01", 1),
        lambda body: body.replace(b"\xff\xdd\0\4\0\7", b"\xff\xfe\0\4\0\7", 1),
        lambda body: body[: body.index(b"\xff\xd3")] + END,
        lambda body: body[: body.index(b"\xff\xd3") + 2] + END,
    ],
    ids=["none", "another", "two intervals", "a start", "a reserved one", "no interval", "the rest", "behind one"],
)
@pytest.mark.parametrize("is_progressive", [False, True], ids=["baseline", "progressive"])
def test_restart_that_is_missing_or_out_of_turn_is_damage(change, is_progressive: bool) -> None:  # type: ignore[no-untyped-def]  # a lambda
    body = encode(NOISE.convert("L"), "JPEG", quality=90, restart_marker_blocks=7, progressive=is_progressive)
    assert decode(body, LIMITS).size == (104, 72)
    refuses(change(body), "restart markers|passes")


def test_flood_of_restarts_is_counted_at_once() -> None:
    body = encode(NOISE, "JPEG", restart_marker_rows=1)
    refuses(body[:-2] + b"\xff\xd0" * 400_000 + END, LONG)


def test_draft_of_a_cut_jpeg_is_refused_too() -> None:
    body = encode(NOISE, "JPEG", quality=90)
    assert decode(body, LIMITS, jpeg_min_size=(20, 10)).conversions == ("decoded at 1/4 of its size",)
    with pytest.raises(DamagedImageError, match=CUT):
        decode(cut_at(body, len(body) * 3 // 4), LIMITS, jpeg_min_size=(20, 10))


def test_arithmetic_coded_jpeg_is_refused_by_its_kind() -> None:
    body = encode(NOISE, "JPEG").replace(b"\xff\xc0", b"\xff\xc9")
    with pytest.raises(UnsupportedImageError, match="JPEG, arithmetic-coded, colour, 3 x 8 bits"):
        decode(body, LIMITS)


def test_every_message_stands_in_the_document_for_callers() -> None:
    document = (PROJECT_ROOT / "get_started" / "images.md").read_text(encoding="utf-8")
    for message in (jpeg_scans.CUT, jpeg_scans.FEW_PASSES, jpeg_scans.WRONG_RESTARTS):
        assert f"`{message}`" in document
