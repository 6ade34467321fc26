"""Decoding agrees with libvips, which shares no code with Pillow above the codecs, over 2,000 generated layouts."""

import ctypes.util
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import profiles
import pytest
from crafted import Pixels, encode, gradient
from PIL import Image

from app.errors import AnsweredError, UnsupportedImageError
from app.pipeline.decoding.decode import DecodedImage, decode
from app.pipeline.decoding.limits import ImageLimits

pytestmark = pytest.mark.slow

LIMITS = ImageLimits(max_pixels=25_000_000)
READER = Path(__file__).with_name("libvips.py")
MAX_MEAN_DIFFERENCE = 2.0
"""Of 255. libvips keeps the high byte of 16 bits, and its JPEG decoder is of another version."""
TELLING = ("YCbCr converted to RGB", "LAB converted to RGB", "extra samples ignored")
"""Conversions that libvips does otherwise: YCbCr that no JPEG codec stored stays as it is, L*a*b* counts under D65, and
samples without a meaning count as alpha."""


def read_with_libvips(folder: Path, bodies: dict[str, bytes]) -> dict[str, "Pixels | str"]:
    """What libvips makes of files, by their names: pixels as ours, or why it refuses them."""
    if not sys.platform.startswith("linux") or ctypes.util.find_library("vips") is None:
        pytest.skip("libvips is not here, which Debian's package libvips-tools brings")
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    subprocess.run([sys.executable, str(READER), str(folder)], check=True, capture_output=True, timeout=120)
    errors = {path.stem: path.read_text("utf-8") for path in folder.glob("*.error")}
    return {
        name: errors[name] if name in errors else to_rgb(np.load(folder / f"{name}.npy").astype(float))
        for name in bodies
    }


def to_rgb(pixels: Pixels) -> Pixels:
    """Grey and CMYK by the written rule; libvips would use a printer's profile of its own for CMYK."""
    if pixels.shape[2] == 1:
        return pixels.repeat(3, axis=2)
    if pixels.shape[2] == 4:
        return (255.0 - pixels[..., :3]) * (255.0 - pixels[..., 3:]) / 255
    return pixels


def outcome(body: bytes) -> DecodedImage | AnsweredError:
    try:
        return decode(body, LIMITS)
    except AnsweredError as error:
        return error


@pytest.mark.slow
def test_generated_layouts_are_answered_as_libvips_reads_them_or_refused_by_their_kind(tmp_path: Path) -> None:
    bodies = dict(layouts.make_layouts())
    assert len(bodies) == 2000
    ours = {name: outcome(body) for name, body in bodies.items()}
    asked = {name: body for name, body in bodies.items() if not isinstance(ours[name], UnsupportedImageError)}
    assert len(asked) > 1600
    refused_by_libvips, astray = 0, {}
    for name, theirs in read_with_libvips(tmp_path, asked).items():
        picture = ours[name]
        if isinstance(picture, AnsweredError):
            astray[name] = picture.message  # sound, and called damaged
        elif isinstance(theirs, str):
            refused_by_libvips += 1
        elif not set(picture.conversions) & set(TELLING):
            pixels = np.asarray(picture.pixels)
            difference = np.abs(pixels - theirs).mean() if pixels.shape == theirs.shape else 255
            if difference > MAX_MEAN_DIFFERENCE:
                astray[name] = f"{difference:.1f} apart, {picture.conversions}"
    assert astray == {}
    assert refused_by_libvips < 30  # 12-bit grey, and planes in tiles


def test_colour_profile_is_converted_as_libvips_converts_it(tmp_path: Path) -> None:
    slope = gradient(24, 32)
    picture = Image.fromarray(np.dstack([slope[..., 0], slope[::-1, :, 1], slope[:, ::-1, 2]]))
    formats = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "TIFF": {}, "WEBP": {"lossless": True}}
    spaces = {
        "sRGB": profiles.rgb_profile(profiles.SRGB, profiles.srgb_curve()),
        "Adobe RGB": profiles.rgb_profile(profiles.ADOBE_RGB, profiles.gamma_curve(profiles.ADOBE_GAMMA)),
        "Display P3": profiles.rgb_profile(profiles.DISPLAY_P3, profiles.srgb_curve()),
    }
    bodies = {
        f"{name} {kind}": encode(picture, kind, icc_profile=profile, **options)
        for kind, options in formats.items()
        for name, profile in spaces.items()
    }
    for name, theirs in read_with_libvips(tmp_path, bodies).items():
        ours = decode(bodies[name], LIMITS)
        assert not isinstance(theirs, str)
        assert np.abs(np.asarray(ours.pixels) - theirs).max() <= 2, name
        is_moved = np.abs(np.asarray(ours.pixels) - np.asarray(picture, dtype=float)).max() > 5
        assert bool(ours.conversions) == is_moved == (not name.startswith("sRGB")), name
