"""Colours of another profile become those of sRGB. Broken, foreign and costly profiles are ignored with a warning."""

import random
import struct
import time
import zlib

import crafted
import numpy as np
import profiles
import pytest
from crafted import Pixels, encode, gradient, png, png_chunk
from PIL import Image
from sound_files import exif

from app.config.setting_types import PROJECT_ROOT
from app.pipeline.decoding.colour_profiles import MAX_PROFILE_BYTES
from app.pipeline.decoding.decode import DecodedImage, decode
from app.pipeline.decoding.jpeg.jpeg_format import ADOBE_COLOURS
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.png import OTHER_COLOURS

LIMITS = ImageLimits(max_pixels=25_000_000)
ADOBE = profiles.rgb_profile(profiles.ADOBE_RGB, profiles.gamma_curve(profiles.ADOBE_GAMMA))
SRGB = profiles.rgb_profile(profiles.SRGB, profiles.srgb_curve())
GREY = profiles.grey_profile(1.8)
INK = profiles.lut_profile(b"CMYK", 4, 5)
SLOPE = gradient(24, 32)
PICTURE = np.dstack([SLOPE[..., 0], SLOPE[::-1, :, 1], SLOPE[:, ::-1, 2]])


def adobe_to_srgb(pixels: Pixels) -> Pixels:
    """By the two standards, over CIE XYZ."""
    linear = (pixels / 255.0) ** profiles.ADOBE_GAMMA @ profiles.ADOBE_RGB @ np.linalg.inv(profiles.SRGB)
    linear = linear.clip(0, 1)
    encoded: Pixels = 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return encoded


def read(image: Image.Image, profile: bytes, kind: str = "PNG", **options: object) -> DecodedImage:
    return decode(encode(image, kind, icc_profile=profile, **options), LIMITS)


def distance(picture: DecodedImage, expected: Pixels) -> float:
    return float(np.abs(np.asarray(picture.pixels) - expected.astype(float)).max())


def test_rgb_of_adobe_becomes_srgb_by_the_standards() -> None:
    picture = read(Image.fromarray(PICTURE), ADOBE)
    assert distance(picture, adobe_to_srgb(PICTURE)) <= 2.5
    assert picture.conversions == ("RGB converted to sRGB by its colour profile",)
    assert picture.warnings == ()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_profile_of_srgb_changes_no_pixel(kind: str) -> None:
    picture = read(Image.fromarray(PICTURE), SRGB, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert distance(picture, PICTURE) == 0
    assert (picture.conversions, picture.warnings) == ((), ())


def test_profile_of_grey_is_applied_to_grey() -> None:
    picture = read(Image.fromarray(SLOPE[..., 0]), GREY)
    linear = (SLOPE[..., 0] / 255.0) ** 1.8
    expected = 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert distance(picture, expected[..., np.newaxis]) <= 2
    assert picture.conversions == ("L converted to sRGB by its colour profile",)


def test_profile_of_grey_is_applied_to_grey_of_16_bits() -> None:
    deep, flat = SLOPE[..., 0].astype(np.uint16) * 257, SLOPE[..., 0]
    picture = read(Image.fromarray(deep), GREY)
    assert distance(picture, np.asarray(read(Image.fromarray(flat), GREY).pixels)) == 0
    assert picture.conversions == ("16-bit grey scaled to 8-bit RGB", "I;16 converted to sRGB by its colour profile")


def test_profile_of_rgb_is_applied_to_a_palette_and_to_grey() -> None:
    for image in (Image.fromarray(PICTURE).quantize(32), Image.fromarray(SLOPE[..., 0])):
        picture = read(image, ADOBE)
        assert distance(picture, adobe_to_srgb(np.asarray(image.convert("RGB")))) <= 2.5
        assert picture.conversions == (f"{image.mode} converted to sRGB by its colour profile",)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_profile_of_a_printer_replaces_the_rule_for_cmyk(kind: str) -> None:
    ink = Image.fromarray(np.dstack([PICTURE, SLOPE[..., 1]]), "CMYK")
    picture = read(ink, INK, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    light = 100 * (1 - np.asarray(ink).mean(axis=-1) / 255)  # L*, by the profile
    luminance = np.where(light > 8, ((light + 16) / 116) ** 3, light / 903.3)
    expected = 255 * np.where(luminance > 0.0031308, 1.055 * luminance ** (1 / 2.4) - 0.055, 12.92 * luminance)
    assert distance(picture, expected[..., np.newaxis]) <= 6
    assert picture.conversions == ("CMYK converted to sRGB by its colour profile",)


def test_colours_are_converted_before_they_are_laid_over_white() -> None:
    alpha = SLOPE[::-1, ::-1, 0]
    picture = read(Image.fromarray(np.dstack([PICTURE, alpha])), ADOBE)
    share = alpha[..., np.newaxis] / 255
    assert distance(picture, adobe_to_srgb(PICTURE) * share + 255 * (1 - share)) <= 3
    assert picture.conversions == ("RGBA converted to sRGB by its colour profile", "RGBA composited over white")


def test_profile_and_orientation_go_together_and_both_can_be_left() -> None:
    body = encode(Image.fromarray(PICTURE), "PNG", icc_profile=ADOBE, exif=exif(6).tobytes())
    turned = "turned upright by EXIF orientation 6"
    assert decode(body, LIMITS).conversions == (turned, "RGB converted to sRGB by its colour profile")
    plain = decode(body, LIMITS, follows_metadata=False)
    assert (plain.conversions, distance(plain, PICTURE)) == ((), 0)


def embedded_bmp(profile: bytes) -> bytes:
    """A BMP of version 5, ICC profile behind its pixels."""
    blue_first = np.dstack([PICTURE[..., 2], PICTURE[..., 1], PICTURE[..., 0], np.full(PICTURE.shape[:2], 255)])
    rows = b"".join(row.astype(np.uint8).tobytes() for row in blue_first[::-1])
    body = bytearray(crafted.bmp((32, 24), 32, rows, masks=(0xFF0000, 0xFF00, 0xFF, 0)))
    body[70:74] = b"DEBM"
    body[126:134] = struct.pack("<II", len(body) - 14, len(profile))
    return bytes(body) + profile


def test_profile_in_a_bmp_is_applied() -> None:
    picture = decode(embedded_bmp(ADOBE), LIMITS)
    assert distance(picture, adobe_to_srgb(PICTURE)) <= 2.5
    assert decode(embedded_bmp(ADOBE)[:-1], LIMITS).warnings == (DAMAGED,)


DAMAGED = "The picture's colour profile is damaged, and was ignored; its colours may be shown wrongly to the model."
OTHER = DAMAGED.replace("damaged", "of another kind than the picture")
NOT_TAKEN = DAMAGED.replace("damaged", "of a kind that is not taken")
LARGE = DAMAGED.replace("is damaged", f"has more than {MAX_PROFILE_BYTES} bytes")
IGNORED = {
    "text": (b"no profile at all", DAMAGED),
    "zeros": (bytes(5000), DAMAGED),
    "cut in the header": (ADOBE[:100], DAMAGED),
    "cut in the tags": (ADOBE[:140], DAMAGED),
    "cut in the values": (ADOBE[:-60], DAMAGED),
    "without curves": (ADOBE.replace(b"gTRC", b"none"), DAMAGED),
    "for CMYK": (INK, OTHER),
    "for grey": (GREY, OTHER),
    "of a device link": (ADOBE.replace(b"mntrRGB", b"linkRGB"), NOT_TAKEN),
    "for two inks": (ADOBE.replace(b"mntrRGB ", b"mntr2CLR"), NOT_TAKEN),
    "of unlimited steps": (ADOBE.replace(b"cprt", b"D2B1"), NOT_TAKEN),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", IGNORED)
def test_profile_that_cannot_be_used_is_ignored_with_a_warning(name: str, kind: str) -> None:
    profile, warning = IGNORED[name]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read(Image.fromarray(PICTURE), profile, kind, **options)
    assert (picture.warnings, picture.conversions) == ((warning,), ())
    assert distance(picture, PICTURE) == 0 or kind == "JPEG"


def test_profile_in_jpeg_parts_that_are_not_all_there_is_ignored_with_a_warning() -> None:
    body = encode(Image.fromarray(PICTURE), "JPEG", icc_profile=random.Random(1).randbytes(100_000))
    start = body.index(b"ICC_PROFILE\0\2") - 4
    (length,) = struct.unpack_from(">H", body, start + 2)
    assert decode(body[:start] + body[start + 2 + length :], LIMITS).warnings == (DAMAGED,)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
def test_huge_profile_costs_nothing(kind: str) -> None:
    body = encode(Image.fromarray(PICTURE), kind, icc_profile=ADOBE + bytes(MAX_PROFILE_BYTES))
    started = time.process_time()
    assert decode(body, LIMITS).warnings == (LARGE,)
    assert time.process_time() - started < 0.5


ROWS = [row.tobytes() for row in PICTURE]
BOMB = zlib.compress(bytes(64 * 2**20), 9)


@pytest.mark.parametrize(
    "kind, content, warnings",
    [
        (b"iCCP", b"x\0\0" + BOMB, (DAMAGED,)),
        (b"zTXt", b"x\0\0" + BOMB, ()),
        (b"iTXt", b"x\0\1\0\0\0" + BOMB, ()),
        (b"iCCP", b"x\0\0no deflate data", (DAMAGED,)),
    ],
    ids=["profile", "text", "international text", "broken profile"],
)
def test_png_with_a_bomb_beside_its_pixels_is_answered_without_it(
    kind: bytes, content: bytes, warnings: tuple[str, ...]
) -> None:
    body = png((32, 24), 8, crafted.COLOUR, ROWS, extra=[(kind, content)])
    started = time.process_time()
    picture = decode(body, LIMITS)
    assert time.process_time() - started < 0.5
    assert (distance(picture, PICTURE), picture.warnings) == (0, warnings)


def test_hundreds_of_texts_in_a_png_are_inflated_within_a_bound() -> None:
    text = png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(3 * 2**20), 9))
    plain = png((32, 24), 8, crafted.COLOUR, ROWS)
    body = plain[:33] + text * 500 + plain[33:]
    started = time.process_time()
    assert distance(decode(body, LIMITS), PICTURE) == 0
    assert time.process_time() - started < 3


def test_broken_profiles_answer_the_picture_whatever_they_hold() -> None:
    chance = random.Random(2)
    for _ in range(300):
        profile = bytearray(chance.choice([ADOBE, INK, GREY, SRGB]))
        for _ in range(chance.choice([1, 2, 8])):
            profile[chance.randrange(min(400, len(profile)))] = chance.choice([0, 1, 255, chance.randrange(256)])
        mode = "CMYK" if bytes(profile[16:20]) == b"CMYK" else "RGB"
        picture = read(Image.new(mode, (3, 2), "navy" if mode == "RGB" else 0), bytes(profile), "TIFF")
        assert picture.pixels.size == (3, 2)


def chunked(*chunks: tuple[bytes, bytes]) -> tuple[str, ...]:
    picture = decode(png((32, 24), 8, crafted.COLOUR, ROWS, extra=chunks), LIMITS)
    assert (distance(picture, PICTURE), picture.conversions) == (0, ())
    return picture.warnings


SRGB_PLACES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_PLACES = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


def test_png_whose_numbers_name_other_colours_is_answered_with_a_warning() -> None:
    linear, mac, srgb = (struct.pack(">I", gamma) for gamma in (100_000, 55_556, 45_455))
    for chunk in (
        (b"gAMA", linear),
        (b"gAMA", mac),
        (b"cHRM", ADOBE_PLACES),
        (b"cICP", b"\x0c\x0d\0\x01"),
        (b"cICP", b"\x09\x10\0\x01"),
    ):
        assert chunked(chunk) == (OTHER_COLOURS,)
    assert chunked((b"gAMA", srgb), (b"cHRM", SRGB_PLACES)) == ()
    assert chunked((b"gAMA", linear), (b"sRGB", b"\0")) == ()  # sRGB has precedence
    assert chunked((b"cICP", b"\x01\x0d\0\x01")) == ()
    assert chunked((b"tEXt", b"Comment\0about cICP chunks")) == ()
    assert chunked((b"tEXt", b"Comment\0" + b"x" * 3000), (b"cICP", b"\x09\x10\0\x01")) == (OTHER_COLOURS,)
    assert chunked((b"tEXt", b"gamma\x001.0"), (b"tEXt", b"chromaticity\0none"), (b"tEXt", b"srgb\0no")) == ()


def exif_with_index(index: str) -> bytes:
    block = Image.Exif()
    block[0x8769] = {0xA001: 65535, 0xA005: {1: index, 2: b"0100"}}
    return block.tobytes()


def test_camera_that_names_adobe_rgb_without_a_profile_is_answered_with_a_warning() -> None:
    def warnings(**options: object) -> tuple[str, ...]:
        return decode(encode(Image.fromarray(PICTURE), "JPEG", **options), LIMITS).warnings

    assert warnings(exif=exif_with_index("R03")) == (ADOBE_COLOURS,)
    assert warnings(exif=exif_with_index("R98")) == ()
    assert warnings(exif=exif_with_index("R03"), icc_profile=ADOBE) == ()
    assert warnings(exif=b"Exif\0\0II*\0\xff\xff\xff\x7fR03") == ()


def test_every_warning_stands_in_the_document_for_callers() -> None:
    document = (PROJECT_ROOT / "get_started" / "images.md").read_text(encoding="utf-8")
    for warning in (OTHER_COLOURS, ADOBE_COLOURS, DAMAGED):
        assert f"`{warning}`" in document
    for warning in (LARGE, NOT_TAKEN, OTHER):
        reason = warning.removeprefix("The picture's colour profile ").split(",")[0]
        assert f"`{reason}`" in document
