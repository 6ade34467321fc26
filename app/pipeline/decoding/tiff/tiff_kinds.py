"""Tells from a TIFF's first directory whether that page is the whole picture, and names kinds that are not taken."""

import json
import math
import re

from app.errors import UnsupportedImageError, UnsupportedMediaError
from app.pipeline.decoding.image_format import SEVERAL_FRAMES, describe_samples
from app.pipeline.decoding.tiff.tiff_directory import Directory, read_directory

# TIFF 6.0 and its supplements.
NEW_SUBFILE_TYPE, SUBFILE_TYPE, WIDTH, LENGTH, BITS_PER_SAMPLE, COMPRESSION = 254, 255, 256, 257, 258, 259
PHOTOMETRIC, DESCRIPTION, SAMPLES, PLANAR, COLOUR_MAP, SUB_PAGES = 262, 270, 277, 284, 320, 330
TILE_WIDTH, TILE_LENGTH, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 338, 339
IMAGE_DEPTH = 32997  # SGI: planes of a volume
STACK_PLANES = 33629  # MetaMorph STK, UIC2: one value a plane
ZEISS_LSM, DNG_VERSION, HAMAMATSU_NDPI = 34412, 50706, 65420
REDUCED, MASK, OLD_REDUCED = 0x1, 0x4, 2  # bits of NewSubfileType; value of SubfileType
CFA, LINEAR_RAW = 32803, 34892  # PhotometricInterpretation of sensor data, DNG 1.7
CANON_CR2 = b"II*\0\x10\0\0\0CR\2\0"
"""Begins a CR2; its directory begins at 16, so that no pixels can stand where it has its mark."""
COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "a palette", 4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "CIE L*a*b*"}
COLOURS |= {
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32844: "LogL",
    32845: "LogLuv",
    CFA: "sensor data",
    LINEAR_RAW: "sensor data",
}
COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34676, 34677, 34925, 50000)
"""Those that Pillow's wheels read; they have no WebP, LERC, JBIG or JPEG 2000 in TIFF."""
FORMATS = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
SLIDES = {b"Aperio": "Aperio SVS", b"<scn": "Leica SCN", b"DPUfsImport": "Philips", b"<iScan": "Ventana BIF"}
MAX_SUB_PAGES = 64
MAX_SHAPE_BYTES = 4096  # tifffile's description has about 30 bytes

PREVIEW = (
    "The page that can be read is a preview, not the picture itself; export the picture as an 8-bit RGB PNG or TIFF."
)
RAW = "The file is a camera's raw file, and what can be read of it is a preview; export the picture as JPEG or PNG."
MASK_PAGE = "The page is a transparency mask, not a picture; export the picture as PNG."
SEVERAL_PLANES = "The file's description says that it holds several planes or pictures; send one picture."
SLIDE = "The file is a whole slide ({}), not a picture of one size; export the part in question as PNG."


def check_is_whole(body: bytes, directory: Directory) -> None:
    """Raise `UnsupportedImageError` if the first page is less than the whole picture, and `UnsupportedMediaError` for
    a whole slide.
    """
    is_raw = DNG_VERSION in directory.fields or body.startswith(CANON_CR2)
    if is_raw or directory.number(PHOTOMETRIC) in (CFA, LINEAR_RAW):
        raise UnsupportedImageError(RAW)
    kind = directory.number(NEW_SUBFILE_TYPE)
    if kind & REDUCED or directory.number(SUBFILE_TYPE) == OLD_REDUCED or is_smaller_than_sub_pages(body, directory):
        raise UnsupportedImageError(PREVIEW)
    if kind & MASK:
        raise UnsupportedImageError(MASK_PAGE)
    description = directory.text(DESCRIPTION)
    if directory.next:
        check_is_no_slide(directory, description)
        raise UnsupportedImageError(SEVERAL_FRAMES)
    planes = max(directory.number(IMAGE_DEPTH, 1), directory.count(STACK_PLANES), count_planes(description, directory))
    if planes > 1 or ZEISS_LSM in directory.fields:
        raise UnsupportedImageError(SEVERAL_PLANES)


def is_smaller_than_sub_pages(body: bytes, directory: Directory) -> bool:
    """Return whether a page below the first one (SubIFDs) is larger."""
    area = directory.number(WIDTH) * directory.number(LENGTH)
    below = [read_directory(body, offset) for offset in directory.numbers(SUB_PAGES)[:MAX_SUB_PAGES]]
    return any(page.number(WIDTH) * page.number(LENGTH) > area for page in below)


def check_is_no_slide(directory: Directory, description: bytes) -> None:
    """Raise `UnsupportedMediaError` if a file of several pages is a whole slide of a known scanner."""
    vendor = next((name for mark, name in SLIDES.items() if mark in description), None)
    if HAMAMATSU_NDPI in directory.fields:
        vendor = "Hamamatsu NDPI"
    if vendor is not None:
        raise UnsupportedMediaError(SLIDE.format(vendor))


def count_planes(description: bytes, directory: Directory) -> int:
    """Return how many planes the description says that the file holds: that of OME, ImageJ or tifffile; 1 without."""
    if b"<OME" in description or b":OME" in description:
        return count_ome_planes(description, max(1, directory.number(SAMPLES, 1)))
    if description.startswith(b"ImageJ="):
        numbers = {name: int(value) for name, value in re.findall(rb"^(\w+)=(\d{1,9})\s*$", description, re.MULTILINE)}
        each = math.prod(numbers.get(name, 1) for name in (b"channels", b"slices", b"frames"))
        return max(each, numbers.get(b"images", 1))
    if description.startswith(b'{"shape": ['):
        page = directory.number(WIDTH) * directory.number(LENGTH) * directory.number(SAMPLES, 1)
        return math.prod(read_shape(description[:MAX_SHAPE_BYTES])) // max(1, page)
    return 1


def count_ome_planes(description: bytes, samples: int) -> int:
    """Return the planes of the pictures that an OME-XML text lists, up to the first that makes them more than one. A
    plane of RGB counts three of its channels.
    """
    if b"BinaryOnly" in description:  # the text stands in another file, as it does where there are several
        return 2
    planes = 0
    for pixels in re.finditer(rb"<(?:\w+:)?Pixels\s[^<>]*>", description):
        found = re.findall(rb"\bSize([CTZ])\s*=\s*[\"'](\d{1,9})[\"']", pixels[0])
        sizes = {axis: int(value) for axis, value in found}
        planes += sizes.get(b"Z", 1) * sizes.get(b"T", 1) * -(-sizes.get(b"C", 1) // samples)
        if planes > 1:
            break
    return planes


def read_shape(description: bytes) -> list[int]:
    """Return the shape in a description of tifffile; it is empty if the text is broken."""
    try:
        shape = json.loads(description.rstrip(b"\0"))["shape"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return []
    return [side for side in shape if isinstance(side, int)] if isinstance(shape, list) else []


def describe_kind(body: bytes, directory: Directory) -> str:
    """Name a kind of TIFF by its colours, samples, bits, format and compression."""
    bits = directory.numbers(BITS_PER_SAMPLE, (1,))
    samples = directory.number(SAMPLES, len(bits))
    photometric = directory.number(PHOTOMETRIC)
    text = describe_samples(
        "big-endian BigTIFF" if body[:4] == b"MM\0+" else "TIFF",
        COLOURS.get(photometric, f"photometric interpretation {photometric}"),
        samples,
        bits,
        FORMATS.get(directory.number(SAMPLE_FORMAT, 1), "unsigned"),
    )
    extra = directory.numbers(EXTRA_SAMPLES)
    text += f", {len(extra)} of them extra" if extra else ""
    text += ", in separate planes" if directory.number(PLANAR) == 2 else ""
    compression = directory.number(COMPRESSION, 1)
    return text if compression in COMPRESSIONS else f"{text}, compression {compression}"
