"""PNG. Pillow verifies no checksum of pixel data, and leaves missing rows black; both are checked here."""

import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image, ImageFile

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.image_format import ImageFormat, turn_upright
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import SampleKind

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZE_OFFSET = 16  # PNG, IHDR: signature 8, length 4, type 4; then width 4, height 4
BIT_DEPTH_OFFSET, COLOUR_TYPE_OFFSET = 24, 25
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG, IHDR: channels by colour type
# PNG, Adam7: first column and row, and the steps between columns and rows, of each pass.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
ONE_PASS = ((0, 0, 1, 1),)
MAX_CHUNKS = 20_000
"""A small file of millions of chunks takes minutes to read. Encoders write 8 KiB or more a chunk: at most 4,096 chunks
in a body of 32 MiB, the largest by default."""


class Png(ImageFormat):
    """Portable Network Graphics, third edition."""

    name = "PNG"
    signature = re.compile(re.escape(SIGNATURE))

    def check_file(self, body: bytes, limits: ImageLimits) -> None:
        """Check the size, the number of chunks and every checksum."""
        limits.check(*struct.unpack_from(">II", body, SIZE_OFFSET))
        for _ in read_chunks(body):
            pass

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Refuse several frames, and a palette picture without a palette."""
        super().check_header(image, limits)
        if image.mode == "P" and image.palette is None:
            raise DamagedImageError("The picture is damaged: it has no palette.")

    def load(self, image: ImageFile.ImageFile, body: bytes, is_turned: bool) -> tuple[Image.Image, int]:
        """Decode the pixels; check the rows, and scale the transparent colour."""
        image.load()
        check_rows(image, body)
        scale_colour_key(image, body[BIT_DEPTH_OFFSET])
        return turn_upright(image, is_turned)

    def read_sample_kind(self, image: ImageFile.ImageFile, body: bytes) -> SampleKind:
        """Return the bit depth of the header."""
        return SampleKind(bits=body[BIT_DEPTH_OFFSET])


def read_chunks(body: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and data of each chunk, its checksum verified. Raises `DamagedImageError` for a wrong one,
    `UnsupportedImageError` for too many chunks, and `struct.error` if the file ends before its end chunk.
    """
    view = memoryview(body)
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", body, position)
        start, end = position + 8, position + 8 + length
        (checksum,) = struct.unpack_from(">I", body, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise DamagedImageError("The picture is damaged: a PNG checksum does not fit.")
        yield kind, view[start:end]
        if kind == b"IEND":
            return
        position = end + 4
    raise UnsupportedImageError(f"The PNG has more than {MAX_CHUNKS} chunks.")


def check_rows(image: Image.Image, body: bytes) -> None:
    """Raise `DamagedImageError` if a loaded PNG lacks rows, which Pillow leaves black. The pixel data is inflated a
    second time only if the last row is black, or the rows are interlaced.
    """
    is_interlaced = bool(image.info.get("interlace"))
    if not is_interlaced and is_last_row_lit(image):
        return
    expected = count_inflated_bytes(image.size, body, ADAM7 if is_interlaced else ONE_PASS)
    data = b"".join(data for kind, data in read_chunks(body) if kind == b"IDAT")
    if len(zlib.decompressobj().decompress(data, expected)) < expected:
        raise DamagedImageError("The picture is truncated: rows are missing.")


def is_last_row_lit(image: Image.Image) -> bool:
    """Return whether a pixel of the last row is not black; its first pixel settles most pictures."""
    first = image.getpixel((0, image.height - 1))
    if any(first) if isinstance(first, tuple) else first:
        return True
    row = image.crop((0, image.height - 1, image.width, image.height))
    return row.getbbox(alpha_only=False) is not None


def count_inflated_bytes(size: tuple[int, int], body: bytes, passes: tuple[tuple[int, int, int, int], ...]) -> int:
    """Return how many bytes the rows of all passes take, each row with its filter byte."""
    width, height = size
    pixel_bits = body[BIT_DEPTH_OFFSET] * CHANNELS[body[COLOUR_TYPE_OFFSET]]
    expected = 0
    for left, top, column_step, row_step in passes:
        columns, rows = len(range(left, width, column_step)), len(range(top, height, row_step))
        expected += rows * (1 + (columns * pixel_bits + 7) // 8) if columns else 0
    return expected


def scale_colour_key(image: Image.Image, bits: int) -> None:
    """Scale the transparent grey as Pillow scales the pixels, because Pillow compares the two. Raises
    `UnsupportedImageError` for a colour of 16 bits, which the high bytes no longer tell apart.
    """
    key = image.info.get("transparency")
    if image.mode == "L" and key is not None:
        image.info["transparency"] = key * 255 // (2**bits - 1)
    elif bits == 16 and key is not None:
        raise UnsupportedImageError("16-bit samples with a transparent colour are not taken; send an alpha channel.")
