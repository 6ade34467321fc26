"""PNG. Pillow verifies no checksum of pixel data, and leaves missing rows black; both are checked here."""

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import takewhile
from typing import NoReturn

from PIL import Image, ImageFile, PngImagePlugin

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.colour_profiles import MAX_PROFILE_BYTES
from app.pipeline.decoding.image_format import LONG, ImageFormat, check_palette, count_rest, turn_upright
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import SampleKind

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZE_OFFSET = 16  # PNG, IHDR: signature 8, length 4, type 4; then width 4, height 4
BIT_DEPTH_OFFSET, COLOUR_TYPE_OFFSET = 24, 25
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG, IHDR: channels by colour type
# PNG, Adam7: first column and row, and the steps between columns and rows, of each pass.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
ONE_PASS = ((0, 0, 1, 1),)
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # PNG, table of colour types
GREY, COLOUR, PALETTE, GREYS = 0, 2, 3, (0, 4)
HEADER_BYTES, LOWER_CASE = 13, 0x20
# PNG, 5.6: chunks that decide the pixels and that may stand once, each with those that it must stand before.
ORDER: dict[bytes, tuple[bytes, ...]] = {b"PLTE": (b"IDAT",), b"tRNS": (b"IDAT",)}
ORDER |= dict.fromkeys((b"cHRM", b"cICP", b"gAMA", b"iCCP", b"sBIT", b"sRGB"), (b"PLTE", b"IDAT"))
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# IEC 61966-2-1, as PNG's gAMA, cHRM (white, red, green, blue) and cICP say it.
SRGB_GAMMA, SRGB_CODE_POINTS = 0.45455, b"\x01\x0d\x00\x01"
SRGB_PLACES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
NEAR = 0.02
OTHER_COLOURS = (
    "The PNG says that its gamma or colours are not sRGB's. That was ignored; its colours may be shown wrongly to the "
    "model."
)
COMPRESSED = {b"iCCP", b"iTXt", b"zTXt"}
CHUNK_BYTES = 12  # PNG, 5.3: length, type and checksum
EMPTY_PROFILE = bytes.fromhex("0000000b69434350780000789c03000000000100d443cb")
MAX_INFLATED = 4 * MAX_PROFILE_BYTES
# Pillow's own bound of 1 MiB is less than a profile may have, which goes by the same.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES
MAX_CHUNKS = 20_000
"""A small file of millions of chunks takes minutes to read. Encoders write 8 KiB or more a chunk: at most 4,096 chunks
in a body of 32 MiB, the largest by default."""
PIECE_BYTES, MAX_INFLATED_BYTES = 64 * 1024, 1024 * 1024


class Png(ImageFormat):
    """Portable Network Graphics, third edition."""

    name = "PNG"
    signature = re.compile(re.escape(SIGNATURE))

    def check_file(self, body: bytes, limits: ImageLimits) -> bytes:
        """Check every checksum, the number, order and length of the chunks, and the size."""
        kinds, self._pixel_bytes = check_chunks(body)
        limits.check(*struct.unpack_from(">II", body, SIZE_OFFSET))
        return body if kinds.isdisjoint(COMPRESSED) else leave_out_bombs(body)

    def load(self, image: ImageFile.ImageFile, body: bytes, follows_metadata: bool) -> tuple[Image.Image, int]:
        """Decode the pixels; check the rows and the colours of a palette, and scale the transparent colour."""
        colours = len(image.palette.palette) // 3 if image.palette is not None else 0
        load_pixels(image, self._pixel_bytes)
        check_rows(image, body)
        check_palette(image, colours)
        scale_colour_key(image, body[BIT_DEPTH_OFFSET])
        return turn_upright(image, follows_metadata)

    def read_warnings(self, image: ImageFile.ImageFile, body: bytes) -> tuple[str, ...]:
        """Return a warning if the chunks for colours name others than those of sRGB."""
        return (OTHER_COLOURS,) if has_other_colours(image, body) else ()

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


def check_chunks(body: bytes) -> tuple[set[bytes], int]:
    """Return the kinds of chunks, and the length of the pixel data. Raises `DamagedImageError` unless those that decide
    the pixels stand as often, as long and in the order that the standard says: readers differ in what they make of
    others. Raises `UnsupportedImageError` for an unknown chunk that says it is needed.
    """
    seen: set[bytes] = set()
    last, entries, length = b"", 0, 0
    for kind, data in read_chunks(body):
        if kind == b"IDAT":
            length += len(data)
            if kind == last:
                continue
        check_place(kind, seen)
        if kind == b"IHDR" and not is_header_valid(data):
            raise_fault("its header is broken")
        if kind == b"PLTE":
            entries = count_colours(len(data), body[BIT_DEPTH_OFFSET], body[COLOUR_TYPE_OFFSET])
        if kind == b"tRNS":
            check_transparency(len(data), body[COLOUR_TYPE_OFFSET], entries)
        seen.add(kind)
        last = kind
    if b"IDAT" not in seen:
        raise_fault("it has no pixels")
    if body[COLOUR_TYPE_OFFSET] == PALETTE and not entries:
        raise_fault("it has no palette")
    return seen, length


def check_place(kind: bytes, seen: set[bytes]) -> None:
    """Raise as `check_chunks` does for a chunk that is not known, or that may not stand behind those before it."""
    if not kind[0] & LOWER_CASE and kind not in CRITICAL:
        name = kind.decode("ascii", "backslashreplace")
        raise UnsupportedImageError(f"The PNG needs a reader that knows its chunk {name}; save it as a plain PNG.")
    if not seen and kind != b"IHDR":
        raise_fault("it does not begin with its header")
    if kind in seen and (kind in ORDER or kind in CRITICAL):
        raise_fault(f"it has more than one {kind.decode()} chunk, or not all of them in a row")
    if kind in ORDER and not seen.isdisjoint(ORDER[kind]):
        raise_fault(f"its {kind.decode()} chunk stands behind those that it must stand before")


def raise_fault(fault: str) -> NoReturn:
    """Raise `DamagedImageError` for what a file has or lacks."""
    raise DamagedImageError(f"The picture is damaged: {fault}.")


def is_header_valid(data: memoryview) -> bool:
    """Return whether the header chunk has its length, and values that the standard defines."""
    if len(data) != HEADER_BYTES:
        return False
    width, height, depth, colour_type, *methods, interlace = struct.unpack(">IIBBBBB", data)
    is_kind = depth in DEPTHS.get(colour_type, ()) and not any(methods) and interlace <= 1
    return bool(width and height and is_kind)


def count_colours(length: int, depth: int, colour_type: int) -> int:
    """Return how many colours a palette of so many bytes has; raises `DamagedImageError` if it may not."""
    colours, rest = divmod(length, 3)
    most = 2**depth if colour_type == PALETTE else 256
    if rest or not 0 < colours <= most or colour_type in GREYS:
        raise_fault("its palette is empty, too long, or has no place in it")
    return colours


def check_transparency(length: int, colour_type: int, entries: int) -> None:
    """Raise `DamagedImageError` unless transparency has the length for the colour type and the palette before it."""
    is_right = {GREY: length == 2, COLOUR: length == 6, PALETTE: 0 < length <= entries}
    if not is_right.get(colour_type, False):
        raise_fault("its transparency does not fit its colours")


def has_other_colours(image: ImageFile.ImageFile, body: bytes) -> bool:
    """Return whether a PNG without a profile says, by numbers, that its colours are not sRGB's."""
    before_pixels = takewhile(lambda chunk: chunk[0] != b"IDAT", read_chunks(body))
    points = next((bytes(data) for kind, data in before_pixels if kind == b"cICP"), None)
    if points is not None:
        return points != SRGB_CODE_POINTS
    info = image.info
    if "icc_profile" in info or isinstance(info.get("srgb"), int):
        return False
    gamma, places = info.get("gamma"), info.get("chromaticity")  # texts may have these names, too
    is_other_gamma = isinstance(gamma, float) and abs(gamma - SRGB_GAMMA) > NEAR
    return is_other_gamma or (
        isinstance(places, tuple) and max(abs(a - b) for a, b in zip(places, SRGB_PLACES, strict=True)) > NEAR
    )


def leave_out_bombs(body: bytes) -> bytes:
    """Return a PNG without texts and profiles that are long once inflated. Pillow refuses the whole file for one; an
    empty profile takes the place of one that is left out, so that the answer says so.
    """
    kept, position, left = [body[: len(SIGNATURE)]], len(SIGNATURE), MAX_INFLATED
    for kind, data in read_chunks(body):
        end = position + CHUNK_BYTES + len(data)
        most = min(left, MAX_PROFILE_BYTES)
        length = count_inflated(kind, bytes(data), most) if kind in COMPRESSED else 0
        if length < most or kind not in COMPRESSED:
            kept.append(body[position:end])
            left -= length
        elif kind == b"iCCP":
            kept.append(EMPTY_PROFILE)
        position = end
    return b"".join(kept)


def count_inflated(kind: bytes, data: bytes, most: int) -> int:
    """Return how many bytes a compressed chunk has once inflated; a longer one counts `most`."""
    _, _, rest = data.partition(b"\0")
    stream = rest[1:]
    if kind == b"iTXt":
        stream = rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""
    try:
        return len(zlib.decompressobj().decompress(stream, most)) if most else 0
    except zlib.error:
        return 0


def load_pixels(image: ImageFile.ImageFile, length: int) -> None:
    """Load a PNG whose pixel data have a length; raises `DamagedImageError` if its decoder needs less of them."""
    read, left, rest = image.load_read, length, count_rest(length)  # type: ignore[attr-defined]  # a PNG's has it

    def read_on(size: int) -> bytes:
        """Read as Pillow does, but stop before the rest."""
        nonlocal left
        data: bytes = read(min(size, left - rest) if left > rest else size)
        left -= len(data)
        return data

    image.load_read = read_on  # type: ignore[attr-defined]  # Pillow asks the object, then the class
    try:
        image.load()
    finally:
        del image.load_read  # type: ignore[attr-defined]  # it has the picture, which would keep itself alive
    if left >= rest:
        raise DamagedImageError(LONG.format("PNG"))


def check_rows(image: Image.Image, body: bytes) -> None:
    """Raise `DamagedImageError` if a loaded PNG lacks rows, which Pillow leaves black. The pixel data is inflated a
    second time only if the last row is black, or the rows are interlaced.
    """
    is_interlaced = bool(image.info.get("interlace"))
    if not is_interlaced and is_last_row_lit(image):
        return
    left = count_inflated_bytes(image.size, body, ADAM7 if is_interlaced else ONE_PASS)
    for piece in inflate_rows(body):
        left -= len(piece)
        if left <= 0:
            return
    raise DamagedImageError("The picture is truncated: rows are missing.")


def inflate_rows(body: bytes) -> Iterator[bytes]:
    """Yield the pixel data in pieces: as a whole, that of 25 million pixels may have 200 MB."""
    inflater = zlib.decompressobj()
    for kind, data in read_chunks(body):
        for start in range(0, len(data) if kind == b"IDAT" else 0, PIECE_BYTES):
            piece = inflater.decompress(data[start : start + PIECE_BYTES], MAX_INFLATED_BYTES)
            while piece:
                yield piece
                piece = inflater.decompress(inflater.unconsumed_tail, MAX_INFLATED_BYTES)


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
