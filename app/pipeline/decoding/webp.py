"""WebP. Pillow allocates the whole canvas when it opens a file, so size and frames are read here first."""

import re
import struct

from PIL import WebPImagePlugin  # noqa: F401  # else Pillow imports all of its 40 formats to find this one

from app.errors import UnsupportedImageError
from app.pipeline.decoding.image_format import SEVERAL_FRAMES, ImageFormat
from app.pipeline.decoding.limits import ImageLimits

HEADER_BYTES = 30
ANIMATION_FLAG = 0x02  # RFC 9649, section 2.7, like the offsets below
SIDE_MASK = 0x3FFF


class Webp(ImageFormat):
    """WebP, RFC 9649: lossy, lossless or extended."""

    name = "WebP"
    signature = re.compile(rb"RIFF.{4}WEBP", re.DOTALL)

    def check_file(self, body: bytes, limits: ImageLimits) -> bytes:
        """Refuse an oversized or animated file."""
        header = body[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
        kind = header[12:16]
        if kind == b"VP8X":
            limits.check(1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little"))
            if header[20] & ANIMATION_FLAG:
                raise UnsupportedImageError(SEVERAL_FRAMES)
        elif kind == b"VP8L":
            bits = int.from_bytes(header[21:25], "little")
            limits.check(1 + (bits & SIDE_MASK), 1 + (bits >> 14 & SIDE_MASK))
        elif kind == b"VP8 ":
            width_px, height_px = struct.unpack_from("<HH", header, 26)
            limits.check(width_px & SIDE_MASK, height_px & SIDE_MASK)
        return body
