"""What Pillow does not check: a PNG's checksums and rows, and how many parts a file is made of.

A file of millions of tiny parts is small, and costs minutes or gigabytes to read. The limits below are far above what
any camera or program writes.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from app.errors import DamagedImageError, UnsupportedImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_SIZE_OFFSET = 16  # PNG, IHDR: signature 8, length 4, type 4; then width 4, height 4
PNG_BIT_DEPTH_OFFSET = 24
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG, IHDR: channels by colour type
# PNG, Adam7: first column and row, and the steps between columns and rows, of each pass.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
MAX_PNG_CHUNKS = 20_000  # an encoder writes 8 KiB or more a chunk: at most 4,096 in a body of 32 MiB
JPEG_SIGNATURE = b"\xff\xd8\xff"
# JPEG, B.1.1.2: a marker that starts a segment, or ends the picture; not a stuffed byte, a restart or a fill byte.
JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
JPEG_END, JPEG_SCAN = b"\xd9", b"\xda"
MAX_JPEG_SEGMENTS = 1_000  # a 32 MiB profile takes 512 segments
MAX_JPEG_SCANS = 100  # a progressive file has about 10; each costs a pass over the whole picture


def read_png_chunks(body: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's type and data, its checksum verified.

    Raises:
        DamagedImageError: a checksum does not fit.
        UnsupportedImageError: too many chunks.
        struct.error: the file ends before its end chunk.
    """
    view = memoryview(body)
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PNG_CHUNKS):
        length, kind = struct.unpack_from(">I4s", body, position)
        start, end = position + 8, position + 8 + length
        (checksum,) = struct.unpack_from(">I", body, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise DamagedImageError("The picture is damaged: a PNG checksum does not fit.")
        yield kind, view[start:end]
        if kind == b"IEND":
            return
        position = end + 4
    raise UnsupportedImageError(f"The PNG has more than {MAX_PNG_CHUNKS} chunks.")


def check_png(body: bytes) -> None:
    """Check a PNG's checksums: Pillow skips those of the pixel data, and would return other pixels.

    Raises:
        DamagedImageError, UnsupportedImageError, struct.error: as `read_png_chunks`.
    """
    for _ in read_png_chunks(body):
        pass


def is_lit(pixel: float | tuple[int, ...] | None) -> bool:
    """Whether a pixel is not black; most pictures' first one tells already."""
    return any(pixel) if isinstance(pixel, tuple) else bool(pixel)


def check_png_rows(image: Image.Image, body: bytes) -> None:
    """Check that a loaded PNG has all its rows: Pillow leaves those that the file lacks black.

    The pixel data is inflated a second time only where the last row is black, or the rows are interlaced.

    Raises:
        DamagedImageError: rows are missing.
    """
    width, height = image.size
    interlaced = bool(image.info.get("interlace"))
    if not interlaced and (
        is_lit(image.getpixel((0, height - 1))) or image.crop((0, height - 1, width, height)).getbbox(alpha_only=False)
    ):
        return
    depth, colour_type = body[PNG_BIT_DEPTH_OFFSET], body[PNG_BIT_DEPTH_OFFSET + 1]
    expected = 0
    for left, top, column_step, row_step in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = len(range(left, width, column_step)), len(range(top, height, row_step))
        row_bytes = (columns * depth * PNG_CHANNELS[colour_type] + 7) // 8
        expected += rows * (1 + row_bytes) if columns else 0
    data = b"".join(data for kind, data in read_png_chunks(body) if kind == b"IDAT")
    if len(zlib.decompressobj().decompress(data, expected)) < expected:
        raise DamagedImageError("The picture is truncated: rows are missing.")


def check_jpeg(body: bytes) -> None:
    """Bound the segments and scans of a JPEG.

    Raises:
        UnsupportedImageError: too many.
        struct.error: the file ends inside a segment's header.
    """
    position = scans = 0
    for _ in range(MAX_JPEG_SEGMENTS):
        marker = JPEG_MARKER.search(body, position)
        if marker is None or (marker[1] == JPEG_END and scans):
            return
        scans += marker[1] == JPEG_SCAN
        if scans > MAX_JPEG_SCANS:
            break
        position = marker.end()
        if marker[1] != JPEG_END:
            position += struct.unpack_from(">H", body, position)[0]
    raise UnsupportedImageError(f"The JPEG has more than {MAX_JPEG_SCANS} scans or {MAX_JPEG_SEGMENTS} segments.")
