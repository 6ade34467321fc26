"""WebP. Pillow allocates the whole canvas when it opens a file, so size and frames are read here first."""

import re
import struct

from PIL import Image, ImageFile, WebPImagePlugin

from app.errors import UnsupportedImageError
from app.pipeline.decoding.image_format import SEVERAL_FRAMES, ImageFormat, turn_upright
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
        limits.check(*self.read_size(body))
        if body[12:16] == b"VP8X" and int.from_bytes(body[20:21]) & ANIMATION_FLAG:
            raise UnsupportedImageError(SEVERAL_FRAMES)
        return body

    def read_size(self, body: bytes) -> tuple[int, int]:
        """Return width and height in pixels as the header says; zeros if it says nothing."""
        header = body[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
        kind = header[12:16]
        if kind == b"VP8X":
            return 1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little")
        if kind == b"VP8L":
            bits = int.from_bytes(header[21:25], "little")
            return 1 + (bits & SIDE_MASK), 1 + (bits >> 14 & SIDE_MASK)
        width_px, height_px = struct.unpack_from("<HH", header, 26) if kind == b"VP8 " else (0, 0)
        return width_px & SIDE_MASK, height_px & SIDE_MASK

    def load(self, image: ImageFile.ImageFile, body: bytes, follows_metadata: bool) -> tuple[Image.Image, int]:
        """Decode the pixels as Pillow does, but let the decoder go before they are copied: it has the canvas twice."""
        assert isinstance(image, WebPImagePlugin.WebPImageFile)
        frame = image._decoder.get_next()
        if frame is None:
            raise EOFError("the WebP has no picture")
        image._decoder = None
        loaded = Image.frombytes(image.mode, image.size, frame[0], "raw", image.rawmode)
        loaded.info = image.info
        return turn_upright(loaded, follows_metadata)
