"""The largest picture takes no more than three times the memory of its pixels, whatever its kind."""

import resource
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import crafted
import numpy as np
import pytest
from crafted import encode, lossless_webp, png
from PIL import Image

from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how large a process is"),
]
SIDE_PX = 5000
MAX_BYTES = 3 * 4 * SIDE_PX**2 + 20 * 1024 * 1024
"""Pillow takes four bytes for a pixel of RGB. Kinds that are converted as a whole take up to six times that."""


def black_png(depth: int, colour_type: int, samples: int, *extra: tuple[bytes, bytes]) -> bytes:
    deflated = zlib.compress(bytes(SIDE_PX * (1 + SIDE_PX * depth * samples // 8)), 1)
    return png((SIDE_PX, SIDE_PX), depth, colour_type, [], extra=extra, deflated=deflated)


def turned_png() -> bytes:
    block = Image.Exif()
    block[crafted.ORIENTATION] = 6
    return encode(Image.new("RGBA", (SIDE_PX, SIDE_PX)), "PNG", exif=block)


PALETTE = [(b"PLTE", bytes(768)), (b"tRNS", bytes(256))]
KINDS: dict[str, Callable[[], bytes]] = {
    "PNG, 16-bit RGBA": lambda: black_png(16, crafted.COLOUR_ALPHA, 4),
    "PNG, palette with alpha": lambda: black_png(8, crafted.PALETTE, 1, *PALETTE),
    "PNG, 16-bit grey": lambda: black_png(16, crafted.GREY, 1),
    "PNG, RGBA, turned": turned_png,
    "TIFF, RGBA": lambda: encode(Image.new("RGBA", (SIDE_PX, SIDE_PX)), "TIFF", compression="tiff_lzw"),
    "TIFF, 16-bit grey": lambda: encode(
        Image.fromarray(np.zeros((SIDE_PX, SIDE_PX), np.uint16)), "TIFF", compression="tiff_adobe_deflate"
    ),
    "JPEG, CMYK": lambda: encode(Image.new("CMYK", (SIDE_PX, SIDE_PX)), "JPEG"),
    "WebP": lambda: lossless_webp(SIDE_PX, SIDE_PX),
}


@pytest.mark.parametrize("kind", KINDS)
def test_largest_picture_is_decoded_in_three_times_its_pixels_memory(kind: str) -> None:
    body, limits = KINDS[kind](), resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, limits[1]))
    try:
        assert decode(body, ImageLimits(SIDE_PX**2)).size == (SIDE_PX, SIDE_PX)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
