"""JPEG. Many segments or scans make a small file take minutes to read; both are counted here before Pillow reads it."""

import re
import struct

from PIL import ImageFile

from app.errors import UnsupportedImageError
from app.pipeline.decoding.image_format import (
    DAMAGE,
    NOT_TAKEN,
    SIDEWAYS,
    ImageFormat,
    describe_samples,
    read_orientation,
)
from app.pipeline.decoding.limits import ImageLimits

# JPEG, B.1.1.2: a marker that starts a segment, or ends the picture; not a stuffed byte, a restart or a fill byte.
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
END, SCAN = b"\xd9", b"\xda"
# JPEG, B.1.1.3: a frame's processes; JPEG-LS (T.87) has one of its own.
FRAMES = {
    b"\xc0": "baseline",
    b"\xc1": "extended",
    b"\xc2": "progressive",
    b"\xc3": "lossless",
    b"\xf7": "JPEG-LS",
    b"\xc9": "arithmetic-coded",
    b"\xca": "arithmetic-coded progressive",
    b"\xcb": "arithmetic-coded lossless",
    **dict.fromkeys((b"\xc5", b"\xc6", b"\xc7", b"\xcd", b"\xce", b"\xcf", b"\xde"), "hierarchical"),
}
TAKEN_FRAMES = (b"\xc0", b"\xc1", b"\xc2", b"\xc9", b"\xca")
COLOURS = {1: "grey", 3: "colour", 4: "CMYK"}
MAX_SEGMENTS = 1_000  # a colour profile of 32 MiB takes 512 segments
MAX_SCANS = 100  # a progressive file has about 10; each costs a pass over the whole picture
SCALES = (8, 4, 2)
# Exif 2.32, 4.6.8, and DCF 2.0: cameras that save in Adobe RGB say so by this index, and add no profile.
INTEROPERABILITY_TAG, INDEX_TAG, ADOBE_RGB = 0xA005, 1, "R03"
ADOBE_COLOURS = (
    "The JPEG says that its colours are those of Adobe RGB, and has no profile. That was ignored; its colours may be "
    "shown wrongly to the model."
)


class Jpeg(ImageFormat):
    """JPEG, ITU-T T.81. Pillow opens phones' multi-picture files (MPO) as JPEG too."""

    name = "JPEG"
    signature = re.compile(rb"\xff\xd8\xff")

    def check_file(self, body: bytes, limits: ImageLimits) -> bytes:
        """Bound the segments and the scans, and refuse kinds that are rare."""
        position = scans = 0
        for _ in range(MAX_SEGMENTS):
            marker = MARKER.search(body, position)
            if marker is None or (marker[1] == END and scans):
                return body
            scans += marker[1] == SCAN
            if scans > MAX_SCANS:
                break
            position = marker.end()
            if not scans and marker[1] in FRAMES:
                check_frame(body, position, marker[1])
            if marker[1] != END:
                position += struct.unpack_from(">H", body, position)[0]
        raise UnsupportedImageError(f"The JPEG has more than {MAX_SCANS} scans or {MAX_SEGMENTS} segments.")

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Take any header: the first picture of a multi-picture file is its main picture, and the one decoded."""

    def read_warnings(self, image: ImageFile.ImageFile, body: bytes) -> tuple[str, ...]:
        """Return a warning if the EXIF block names Adobe RGB."""
        if ADOBE_RGB.encode() not in image.info.get("exif", b""):
            return ()
        try:
            index = image.getexif().get_ifd(INTEROPERABILITY_TAG).get(INDEX_TAG)
        except DAMAGE:
            return ()
        return (ADOBE_COLOURS,) if index == ADOBE_RGB else ()

    def reduce_scale(self, image: ImageFile.ImageFile, min_size: tuple[int, int]) -> int:
        """Prepare decoding at 1/8, 1/4 or 1/2, where it divides evenly and stays large enough. That takes a fraction of
        the time; each pixel is the mean of those it stands for, but for rounding.
        """
        if read_orientation(image) in SIDEWAYS:
            min_size = min_size[::-1]
        sides = list(zip(image.size, min_size, strict=True))
        for scale in SCALES:
            if all(side % scale == 0 and side // scale >= least for side, least in sides):
                image.draft(None, (image.width // scale, image.height // scale))
                return scale
        return 1


def check_frame(body: bytes, position: int, kind: bytes) -> None:
    """Raise `UnsupportedImageError` for a frame that is not taken, whose header begins at `position`."""
    _, bits, height_px, _, components = struct.unpack_from(">HBHHB", body, position)
    if kind in TAKEN_FRAMES and bits == 8 and height_px and components in COLOURS:
        return
    name = FRAMES[kind] if FRAMES[kind].startswith("JPEG") else f"JPEG, {FRAMES[kind]}"
    text = describe_samples(name, COLOURS.get(components, "other colours"), components, [bits])
    raise UnsupportedImageError(NOT_TAKEN.format(text if height_px else f"{text}, its height after the pixels"))
