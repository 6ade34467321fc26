"""`decode` follows its written rule on every kind of file, and refuses other files with the status of the rule."""

import base64
import gzip
import io
import random
import re
import struct
import subprocess
import sys
import time
import zipfile

import crafted
import numpy as np
import pytest
from crafted import encode, png, tiff
from PIL import Image, PngImagePlugin
from sound_files import (
    ALPHA,
    DEEP_GREY,
    FILES,
    GREY,
    HEIGHT,
    INDEX,
    RGB,
    SIZE,
    SMOOTH,
    WIDTH,
    Case,
    exif,
    rows_of,
    turn,
)
from sound_tiffs import TIFFS

from app.config.setting_types import PROJECT_ROOT
from app.errors import AnsweredError, BadRequestError, DamagedImageError, UnsupportedImageError, UnsupportedMediaError
from app.pipeline.decoding import decode as decode_module
from app.pipeline.decoding.decode import FORMATS, decode
from app.pipeline.decoding.image_format import ImageFormat
from app.pipeline.decoding.limits import ImageLimits

LIMITS = ImageLimits(max_pixels=25_000_000)
SOUND = FILES + TIFFS


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.name)
def test_sound_file_becomes_the_rgb_picture_of_the_written_rule(case: Case) -> None:
    picture = decode(case.body, LIMITS)
    pixels = np.asarray(picture.pixels)
    assert picture.pixels.mode == "RGB"
    assert pixels.shape == case.pixels.shape
    assert np.abs(pixels - case.pixels.astype(float)).max() <= case.tolerance
    assert (picture.format, picture.mode, picture.conversions) == (case.format, case.mode, case.conversions)


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.name)
def test_signature_of_one_format_alone_matches_a_file(case: Case) -> None:
    matching = [each.name.upper() for each in FORMATS if each.signature.match(case.body)]
    assert matching == [case.format]


class Ppm(ImageFormat):
    """A format as a stranger would add it."""

    name = "PPM"
    signature = re.compile(rb"P6\s")


def test_new_format_is_a_name_a_signature_and_an_entry_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    body = encode(Image.fromarray(RGB), "PPM")
    with pytest.raises(UnsupportedMediaError):
        decode(body, LIMITS)
    monkeypatch.setattr(decode_module, "FORMATS", (*FORMATS, Ppm))
    picture = decode(body, LIMITS)
    assert (np.asarray(picture.pixels) == RGB).all()
    assert (picture.format, picture.conversions) == ("PPM", ())
    with pytest.raises(DamagedImageError):
        decode(body[:-1], LIMITS)
    with pytest.raises(UnsupportedImageError):
        decode(body, ImageLimits(max_pixels=WIDTH * HEIGHT - 1, max_side_px=100))


def test_empty_body_answers_400() -> None:
    with pytest.raises(BadRequestError):
        decode(b"", LIMITS)


def make_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("patch.png", SOUND[0].body)
    return file.getvalue()


def box(brand: bytes) -> bytes:
    """The beginning of a file of ISO/IEC 14496-12."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(64)


FOREIGN = {
    "GIF": ("a GIF picture", encode(Image.fromarray(GREY), "GIF")),
    "animated GIF": (
        "a GIF picture",
        encode(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(ALPHA)]),
    ),
    "ICO": ("an icon", encode(Image.fromarray(crafted.samples(9, 32, 32, 3)), "ICO")),
    "PPM": ("a PNM picture", encode(Image.fromarray(RGB), "PPM")),
    "JPEG 2000": ("a JPEG 2000 picture", encode(Image.fromarray(crafted.samples(9, 32, 32, 3)), "JPEG2000")),
    "bare JPEG 2000": ("a JPEG 2000 picture", b"\xff\x4f\xff\x51\0\x2f" + bytes(64)),
    "JPEG XL": ("a JPEG XL picture", b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"jxl ")),
    "bare JPEG XL": ("a JPEG XL picture", b"\xff\x0a" + bytes(64)),
    "EPS": ("a PostScript file", encode(Image.fromarray(RGB), "EPS")),
    "PDF": ("a PDF document", encode(Image.fromarray(RGB), "PDF")),
    "PDF behind other bytes": ("a PDF document", b"\xef\xbb\xbf\n%PDF-1.7\n" + bytes(64)),
    "SVG": ("an SVG drawing", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'),
    "bare SVG": ("an SVG drawing", b"<svg/>"),
    "HEIC": ("a HEIC picture", box(b"heic")),
    "HEIF": ("a HEIC picture", box(b"mif1")),
    "AVIF": ("an AVIF picture", box(b"avif")),
    "AVIF by its second brand": ("an AVIF picture", box(b"mif1").replace(b"mif1mif1", b"mif1avif")),
    "CR3": ("a Canon CR3 camera raw file", box(b"crx ")),
    "video": ("a video", box(b"isom").replace(b"mif1", b"iso2")),
    "DICOM": ("a DICOM file", bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + bytes(64)),
    "DICOM without its start": ("a DICOM file", b"\x08\0\x05\0CS\x0a\0ISO_IR 100"),
    "NIfTI": ("a NIfTI volume", struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(64)),
    "NIfTI, packed": ("a gzip file, which may hold a NIfTI volume", gzip.compress(bytes(400))),
    "NRRD": ("an NRRD volume", b"NRRD0004\ntype: short\n"),
    "HDF5": ("an HDF5 file", b"\x89HDF\r\n\x1a\n" + bytes(64)),
    "CZI": ("a Zeiss CZI slide", b"ZISRAWFILE" + bytes(64)),
    "Olympus raw": ("a camera raw file", b"IIRO\x08\0\0\0" + bytes(64)),
    "Panasonic raw": ("a camera raw file", b"IIU\0\x18\0\0\0" + bytes(64)),
    "Fuji raw": ("a camera raw file", b"FUJIFILMCCD-RAW 0201" + bytes(64)),
    "PSD": ("a Photoshop document", b"8BPS\0\1" + bytes(64)),
    "EXR": ("an OpenEXR picture", b"\x76\x2f\x31\x01\2\0\0\0" + bytes(64)),
    "HDR": ("a Radiance HDR picture", b"#?RADIANCE\n"),
    "NumPy": ("a NumPy array", b"\x93NUMPY\1\0" + bytes(64)),
    "text": ("text", b"This is no picture.\n" * 20),
    "text of another language": (
        "text",
        "Kein Bild, nur Wörter – so viele, dass eines zerschnitten wird. ".encode() * 50,
    ),
    "text that begins as a BMP does": ("text", b"BMI of the patients, in kg/m2\n" * 20),
    "base64": ("a picture in base64", base64.b64encode(SOUND[0].body)),
    "data URL": ("a picture in base64", b"data:image/png;base64," + base64.b64encode(SOUND[0].body)),
    "JSON": ("JSON", b'{"instances": [{"data": "AAAA"}]}'),
    "HTML": ("an HTML page", b"<!DOCTYPE html>\n<html><body><svg></svg></body></html>"),
    "XML": ("an XML document", b'<?xml version="1.0"?><note/>'),
    "zip": ("a ZIP archive", make_archive()),
    "tar": ("an archive", bytes(257) + b"ustar\x0000" + bytes(200)),
    "PNG with other line ends": (
        "a picture whose bytes were changed as if it were text",
        png(SIZE, 8, crafted.GREY, rows_of(GREY)).replace(b"\r\n", b"\n"),
    ),
    "JPEG read as UTF-8": (
        "a picture whose bytes were changed as if it were text",
        encode(Image.fromarray(RGB), "JPEG").decode("utf-8", "replace").encode(),
    ),
    "PNG read as Latin-1": (
        "a picture whose bytes were changed as if it were text",
        encode(Image.fromarray(RGB), "PNG").decode("latin-1").encode(),
    ),
    "MATLAB": ("a MATLAB file", b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(128)),
    "EMF": ("a Windows metafile", b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(64)),
    "SGI": ("an SGI picture", encode(Image.fromarray(RGB), "SGI")),
    "PCX": ("a PCX picture", encode(Image.fromarray(RGB), "PCX")),
    "DjVu": ("a DjVu document", b"AT&TFORM" + bytes(64)),
    "MP3": ("a sound file", b"\xff\xfb\x90\x64" + bytes(64)),
    "M4A": ("a sound file", b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom"),
    "sound": ("a sound file", b"RIFF\x24\0\0\0WAVEfmt " + bytes(64)),
    "random": ("", random.Random(10).randbytes(4096)),
    "one byte": ("", b"\x89"),
    "zeros": ("", bytes(4096)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_answers_415_that_names_it_and_says_what_to_do(name: str) -> None:
    kind, body = FOREIGN[name]
    with pytest.raises(UnsupportedMediaError) as raised:
        decode(body, LIMITS)
    accepted = "not a PNG, JPEG, TIFF, BMP or WebP picture"
    if kind:
        assert re.fullmatch(rf"The body is {re.escape(kind)}, {accepted}; [\w (),/:-]+\.", raised.value.message)
    else:
        assert raised.value.message == f"The body is {accepted}."


@pytest.mark.parametrize("start", [b"<!---->", b"<", b" ", b"{", b"[ ", b"\0\0\0\x18ftyp", b"%PDF", b"<svg"])
def test_naming_a_foreign_file_takes_no_time(start: bytes) -> None:
    started = time.process_time()
    with pytest.raises(UnsupportedMediaError):
        decode(start * 500_000, LIMITS)
    assert time.process_time() - started < 0.2


def test_limits_count_pixels_and_sides() -> None:
    limits = ImageLimits(max_pixels=100, max_side_px=20)
    for size in ((10, 10), (20, 5), (5, 20)):
        limits.check(*size)
    for size in ((101, 1), (21, 1), (1, 21), (11, 10)):
        with pytest.raises(UnsupportedImageError):
            limits.check(*size)


SEVERAL = {
    "APNG": encode(Image.fromarray(RGB), "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())]),
    "TIFF": encode(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
    "WebP": encode(Image.fromarray(RGB), "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())]),
    "extended WebP": crafted.extended_webp(9, 9, flags=0x02),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_frames_answer_422(name: str) -> None:
    with pytest.raises(UnsupportedImageError, match=r"^The file holds several frames or pages; send one picture\.$"):
        decode(SEVERAL[name], LIMITS)


def undefined(bits: int, sample_format: int) -> bytes:
    strip = bytes(WIDTH * HEIGHT * bits // 8)
    return tiff(SIZE, [bits], crafted.BLACK_IS_ZERO, [strip], {crafted.SAMPLE_FORMAT: (crafted.SHORT, [sample_format])})


@pytest.mark.parametrize(
    "body",
    [undefined(32, 3), undefined(32, 2), undefined(32, 1), undefined(16, 2), undefined(8, 2)],
    ids=["float32", "int32", "uint32", "int16", "int8"],
)
def test_samples_without_a_defined_range_answer_422(body: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="their range is not defined"):
        decode(body, LIMITS)


def test_16_bit_png_with_a_transparent_colour_answers_422() -> None:
    rows = rows_of(DEEP_GREY.astype(">u2"))
    with pytest.raises(UnsupportedImageError, match="send an alpha channel"):
        decode(png(SIZE, 16, crafted.GREY, rows, extra=[(b"tRNS", b"\1\2")]), LIMITS)


def test_palette_png_without_palette_answers_422() -> None:
    with pytest.raises(DamagedImageError, match="no palette"):
        decode(png(SIZE, 8, crafted.PALETTE, rows_of(INDEX)), LIMITS)


def test_run_length_encoded_bmp_answers_422() -> None:
    body = crafted.bmp((4, 1), 8, b"\4\1\0\1", palette=bytes(1024), packing=1)
    with pytest.raises(UnsupportedImageError, match="Run-length"):
        decode(body, LIMITS)


BROKEN_EXIF = {
    "no header": b"Exif\0\0",
    "foreign header": b"Exif\0\0not a TIFF header",
    "directory past the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "cut in the directory": b"Exif\0\0" + exif(6).tobytes()[6:20],
    "values past the end": b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHLL", 274, 3, 9999, 9999) + bytes(4),
    "orientation of 9": exif(9).tobytes(),
    "orientation of 0": exif(0).tobytes(),
    "orientation as text": b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHL4s", 274, 2, 4, b"six\0") + bytes(4),
}


@pytest.mark.parametrize("name", BROKEN_EXIF)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_block_does_not_spoil_a_sound_picture(format: str, name: str) -> None:
    body = encode(Image.fromarray(SMOOTH), format, exif=BROKEN_EXIF[name])
    picture = decode(body, LIMITS)
    assert picture.pixels.size == (SMOOTH.shape[1], SMOOTH.shape[0])
    assert picture.conversions == ()


@pytest.mark.parametrize("text", ["no lines", "\n\n\nno hexadecimals", "\n\n\n4578696600004949"])
def test_broken_text_exif_of_a_png_does_not_spoil_it(text: str) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Raw profile type exif", text)
    assert decode(encode(Image.fromarray(RGB), "PNG", pnginfo=notes), LIMITS).conversions == ()


def test_orientation_in_xmp_is_applied_where_exif_has_none() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    picture = decode(encode(Image.fromarray(RGB), "PNG", pnginfo=notes), LIMITS)
    assert picture.conversions == ("turned upright by EXIF orientation 6",)
    assert (np.asarray(picture.pixels) == turn(RGB, 6)).all()


def test_bytes_after_the_end_are_ignored() -> None:
    for case in SOUND:
        if case.name in ("PNG RGB", "JPEG", "BMP 24-bit"):
            trailed = decode(case.body + random.Random(11).randbytes(500), LIMITS)
            assert trailed.pixels.tobytes() == decode(case.body, LIMITS).pixels.tobytes()


def test_metadata_that_pillow_warns_of_is_taken_in_silence(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """The suite turns warnings into errors; this test reads the log too."""
    strange_tags = {282: (crafted.SHORT, [72, 72]), 305: (crafted.LONG, [1, 2, 3])}
    phone = encode(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH)])
    for body in (
        tiff(SIZE, [8, 8, 8], crafted.RGB, [RGB.tobytes()], strange_tags),
        phone.replace(b"MPF\0", b"MPF\0broken", 1),
        png(SIZE, 8, crafted.COLOUR, rows_of(RGB), extra=[(b"acTL", bytes(8))]),
    ):
        decode(body, LIMITS)
    with pytest.raises(DamagedImageError):
        decode(tiff(SIZE, [8] * 3, crafted.RGB, [b""], {crafted.SAMPLES: (crafted.SHORT, [200])}), LIMITS)
    assert caplog.records == []
    assert recwarn.list == []


def test_warnings_as_errors_and_other_filters_do_not_reach_a_decode() -> None:
    code = """
import sys, warnings
sys.path[:0] = [sys.argv[1]]
from crafted import RGB, SHORT, encode, tiff
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits
body = tiff((2, 2), [8, 8, 8], RGB, [bytes(12)], {282: (SHORT, [72, 72])})
print(decode(body, ImageLimits(100, 100)).mode)
warnings.resetwarnings()
print(decode(body, ImageLimits(100, 100)).mode)
for action in ("error", "always"):
    warnings.simplefilter(action)
    print(decode(body, ImageLimits(100, 100)).mode)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(PROJECT_ROOT / "tests" / "pipeline")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["RGB"] * 4, "")


DOCUMENT = (PROJECT_ROOT / "get_started" / "images.md").read_text(encoding="utf-8")


def test_every_conversion_stands_in_the_document_for_callers() -> None:
    texts = {re.sub(r"orientation \d", "orientation 6", text) for case in SOUND for text in case.conversions}
    modes = {case.mode for case in SOUND}
    assert len(texts) > 15
    assert {text for text in texts if f"`{text}`" not in DOCUMENT} == set()
    assert {mode for mode in modes if f"`{mode}`" not in DOCUMENT} == set()


def test_every_message_stands_in_the_document_for_callers() -> None:
    bodies = [
        b"",
        bytes(100),
        FOREIGN["HEIC"][1],
        SOUND[0].body[:-20],
        png(SIZE, 8, crafted.PALETTE, rows_of(INDEX)),
        png(SIZE, 8, crafted.GREY, rows_of(GREY)[:-1]),
        png(SIZE, 8, crafted.GREY, rows_of(GREY)).replace(b"IEND", b"IENd"),
        b"\xff\xd8\xff\xd9",
        undefined(32, 3),
        SEVERAL["APNG"],
        png((13_000, 13_000), 8, crafted.GREY, []),
        png(SIZE, 16, crafted.GREY, rows_of(DEEP_GREY.astype(">u2")), extra=[(b"tRNS", b"\1\2")]),
        crafted.bmp((4, 1), 8, b"\4\1\0\1", palette=bytes(1024), packing=1),
    ]
    for body in bodies:
        with pytest.raises(AnsweredError) as raised:
            decode(body, LIMITS)
        error = raised.value
        assert f"`{error.message}`" in DOCUMENT
        assert f"| {int(error.status)} | `{error.type}` |" in DOCUMENT
