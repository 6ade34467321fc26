"""BMP. Two letters begin it, which text may do too, so the length of its second header is part of its signature."""

import re
import struct
from dataclasses import dataclass

from PIL import Image, ImageFile

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.image_format import (
    LONG,
    NOT_TAKEN,
    ImageFormat,
    check_palette,
    count_rest,
    describe_samples,
)
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import SampleKind

# Windows GDI: BITMAPINFOHEADER and its successors; BITMAPCOREHEADER is OS/2's. Offsets count from the file's start.
CORE_BYTES, INFO_BYTES, OS2_BYTES, V3_BYTES, V5_BYTES = 12, 40, 64, 56, 124
FILE_BYTES, FILE_BYTES_OFFSET, PIXELS_OFFSET, INFO_OFFSET, CORE_OFFSET, MASKS_OFFSET = 14, 2, 10, 18, 18, 54
COLOUR_SPACE_OFFSET, PROFILE_OFFSET, EMBEDDED = 70, 126, b"DEBM"
PLAIN, RLE_8, RLE_4, BIT_FIELDS = 0, 1, 2, 3
BITS = (1, 4, 8, 16, 24, 32)
# The masks that Pillow reads: red, green, blue, alpha.
MASKS = {
    16: ((0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)),
    24: ((0xFF0000, 0xFF00, 0xFF, 0),),
    32: (
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF000000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
        (0, 0, 0, 0),
    ),
}


@dataclass(frozen=True)
class Header:
    """What a BMP says of its pixels. `colours` are the entries of its palette, of `entry_bytes` each; `pixel_bytes` is
    their length, 0 if it does not say.
    """

    length: int
    bits: int
    compression: int
    colours: int
    entry_bytes: int
    masks: tuple[int, ...]
    pixel_bytes: int = 0


class Bmp(ImageFormat):
    """Windows and OS/2 bitmaps."""

    name = "BMP"
    signature = re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)

    def check_file(self, body: bytes, limits: ImageLimits) -> bytes:
        """Refuse kinds that Pillow does not read, and run-length encoding: Pillow takes 0.25 s a megabyte for it."""
        header = read_header(body)
        if header.compression in (RLE_8, RLE_4):
            raise UnsupportedImageError("Run-length encoded BMP files are not taken.")
        # Readers disagree whether a colour of this header's palette has 3 or 4 bytes.
        is_clear = header.length != OS2_BYTES or header.bits > 8
        is_plain = header.compression == PLAIN and header.bits in BITS and is_clear
        if not is_plain and (header.compression != BIT_FIELDS or header.masks not in MASKS.get(header.bits, ())):
            raise UnsupportedImageError(NOT_TAKEN.format(describe(header)))
        return body

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Take any header: `check_file` has read it."""

    def load(self, image: ImageFile.ImageFile, body: bytes, follows_metadata: bool) -> tuple[Image.Image, int]:
        """Decode the pixels, those that Pillow takes for another kind by their palette, too."""
        header = read_header(body)
        check_length(image.size, body, header)
        if header.length >= V5_BYTES and body[COLOUR_SPACE_OFFSET : COLOUR_SPACE_OFFSET + 4] == EMBEDDED:
            start, length = struct.unpack_from("<II", body, PROFILE_OFFSET)
            image.info["icc_profile"] = body[FILE_BYTES + start : FILE_BYTES + start + length]
        if (header.bits, image.mode) in ((4, "1"), (4, "L"), (8, "1")):
            picture = read_indices(image.size, body, header)
        else:
            image.load()
            picture = image
        check_palette(picture, header.colours)
        return picture, 1

    def read_sample_kind(self, image: ImageFile.ImageFile, body: bytes) -> SampleKind:
        """Return whether a fourth byte of each pixel was left out, since the header gives it no meaning."""
        is_cut = image.mode == "RGB" and read_header(body).bits == 32
        return SampleKind(steps=("extra samples ignored",) if is_cut else ())


def read_header(body: bytes) -> Header:
    """Read the second header; raises `struct.error` if the file ends before."""
    (length,) = struct.unpack_from("<I", body, FILE_BYTES)
    if length == CORE_BYTES:
        _, _, _, bits = struct.unpack_from("<4H", body, CORE_OFFSET)
        return Header(length, bits, PLAIN, 2 ** min(bits, 8), 3, ())
    _, _, _, bits, compression, pixel_bytes, _, _, colours = struct.unpack_from("<iiHHIIiiI", body, INFO_OFFSET)
    count = 0 if compression != BIT_FIELDS or length == OS2_BYTES else 4 if length >= V3_BYTES else 3
    masks = struct.unpack_from(f"<{count}I", body, MASKS_OFFSET)
    masks = (*masks, 0) if count == 3 else masks
    return Header(length, bits, compression, colours or 2 ** min(bits, 8), 4, masks, pixel_bytes)


def describe(header: Header) -> str:
    """Name a kind by its bits, masks and compression."""
    if header.masks:
        sizes = [mask.bit_count() for mask in header.masks if mask]
        return describe_samples("BMP", "RGB" if len(sizes) < 4 else "RGBA", len(sizes), sizes or [0], "with masks")
    kind = "BMP of OS/2 2.x" if header.length == OS2_BYTES else "BMP"
    colours = "a palette" if header.bits <= 8 else "RGB"
    return f"{describe_samples(kind, colours, 1, [header.bits])}, compression {header.compression}"


def check_length(size: tuple[int, int], body: bytes, header: Header) -> None:
    """Raise `DamagedImageError` if a file says that its pixels are longer than those of its size, and has them."""
    file_bytes, _, start = struct.unpack_from("<3I", body, FILE_BYTES_OFFSET)
    length = header.pixel_bytes or (0 if header.length >= V5_BYTES else file_bytes - start)
    needed = count_row_bytes(size[0], header.bits) * size[1]
    if length - needed >= count_rest(needed) and start + length <= len(body):
        raise DamagedImageError(LONG.format("BMP"))


def count_row_bytes(width: int, bits: int) -> int:
    """Return the length of a row, padded to 4 bytes."""
    return (width * bits + 31) // 32 * 4


def read_indices(size: tuple[int, int], body: bytes, header: Header) -> Image.Image:
    """Read pixels of 4 or 8 bits whose palette is grey. Pillow takes them for pixels of 1 or 8 bits without one."""
    (start,) = struct.unpack_from("<I", body, PIXELS_OFFSET)
    is_top_down = header.length != CORE_BYTES and struct.unpack_from("<i", body, INFO_OFFSET + 4)[0] < 0
    row_bytes = count_row_bytes(size[0], header.bits)
    data, raw_mode = body[start : start + row_bytes * size[1]], "P;4" if header.bits == 4 else "P"
    image = Image.frombytes("P", size, data, "raw", raw_mode, row_bytes, 1 if is_top_down else -1)
    palette_at = FILE_BYTES + header.length
    palette = body[palette_at : palette_at + header.colours * header.entry_bytes]
    image.putpalette(palette, "BGRX" if header.entry_bytes == 4 else "BGR")
    return image
