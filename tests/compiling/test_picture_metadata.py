"""Examples keep their pixels and colours, and lose all else that stands in a picture's file."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from app.compiling.picture_metadata import make_chunk, make_segment, strip_metadata
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.image_format import read_orientation
from app.pipeline.decoding.limits import ImageLimits

NAME = "Jane Doe"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def make_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x013B] = orientation, NAME, NAME
    exif.get_ifd(0x8825)[29] = NAME
    return exif.tobytes()


def write(mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def write_jpeg(mode: str = "RGB", orientation: int = 6, **options: Any) -> bytes:
    """A JPEG that names a patient wherever one can."""
    xmp = f"<x:xmpmeta>{NAME}</x:xmpmeta>".encode()
    body = write(mode, "JPEG", exif=make_exif(orientation), comment=NAME, xmp=xmp, icc_profile=PROFILE, **options)
    words = NAME.encode()
    named = (0xED, b"Photoshop 3.0\0" + words), (0xE0, b"JFXX\0" + words), (0xE2, b"FPXR\0" + words)
    other = b"".join(make_segment(*each) for each in named)
    return body[:2] + other + body[2:] + words


def write_png(mode: str = "RGB", orientation: int = 8, **options: Any) -> bytes:
    """The same as a PNG."""
    texts = PngInfo()
    texts.add_text("Patient", NAME)
    texts.add_itxt("Patient", NAME)
    texts.add_itxt("Packed", NAME, zip=True)
    texts.add_text("Packed", NAME, zip=True)
    profile = () if mode in ("L", "P") else (("icc_profile", PROFILE),)
    body = write(mode, "PNG", exif=make_exif(orientation), pnginfo=texts, **dict(profile), **options)
    end = body.index(b"IEND") - 4
    return body[:end] + make_chunk(b"prVt", NAME.encode()) + body[end:] + NAME.encode()


FILES = {
    "baseline": write_jpeg(),
    "upright": write_jpeg(orientation=1),
    "progressive": write_jpeg(progressive=True),
    "with restarts": write_jpeg(restart_marker_rows=1),
    "grey": write_jpeg("L"),
    "CMYK": write_jpeg("CMYK"),
    "4:4:4": write_jpeg(subsampling=0),
    "PNG": write_png(),
    "upright PNG": write_png(orientation=1),
    "grey PNG": write_png("L"),
    "palette": write_png("P", transparency=0),
    "RGBA": write_png("RGBA"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_orientation_and_profile_stay_and_names_go(name: str) -> None:
    stripped = strip_metadata(FILES[name])
    before, after = (decode(file, ImageLimits(10_000)) for file in (FILES[name], stripped))
    assert after.pixels.tobytes() == before.pixels.tobytes()
    assert (after.conversions, after.mode, after.format) == (before.conversions, before.mode, before.format)
    with Image.open(io.BytesIO(FILES[name])) as old, Image.open(io.BytesIO(stripped)) as new:
        assert read_orientation(new) == read_orientation(old)
        assert new.info.get("icc_profile") == old.info.get("icc_profile")
        assert new.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "adobe", "exif"} | {
            *("adobe_transform", "icc_profile", "progressive", "progression", "transparency")
        }
    assert b"Jane" not in stripped
    assert len(stripped) < len(FILES[name])
    assert strip_metadata(stripped) == stripped


def test_compressed_pixels_are_copied_not_made_anew() -> None:
    scan = FILES["baseline"].partition(b"\xff\xda")[2].rpartition(b"\xff\xd9")[0]
    assert len(scan) > 1000
    assert strip_metadata(FILES["baseline"]).partition(b"\xff\xda")[2] == scan + b"\xff\xd9"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_file_without_metadata_stays_as_it_is(kind: str) -> None:
    body = write("RGB", kind)
    assert strip_metadata(body) == body
