"""Takes out of a picture's file what is neither its pixels nor their colours, since it may name a patient."""

import io
import struct
import zlib

from PIL import Image

from app.pipeline.decoding.image_format import ORIENTATION_TAG, UPRIGHT, read_orientation
from app.pipeline.decoding.jpeg.jpeg_segments import END, FRAMES, SCAN, SEGMENT
from app.pipeline.decoding.png import CRITICAL, ORDER, SIGNATURE, read_chunks

START = b"\xff\xd8"
# JPEG, table B.1: what a decoder needs beside frames and scans: tables, the restart interval, and the number of lines.
NEEDED = {*FRAMES, SCAN, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD}
JFIF, PROFILE, ADOBE = (0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe")
JFIF_BYTES, ADOBE_BYTES = 12, 12  # T.871, 10.1, up to the size of the thumbnail; T.872, 6.5.3
NO_THUMBNAIL = b"\0\0"
KEPT_CHUNKS = {*CRITICAL, *ORDER, b"bKGD", b"pHYs"}
PROFILE_NAME = b"ICC profile"
# Exif 2.32, 4.5: a block of one entry, the orientation, of type SHORT.
EXIF = struct.Struct("<2sHIHHHIII")
EXIF_MARK, SHORT = b"Exif\0\0", 3


def strip_metadata(content: bytes) -> bytes:
    """Return a JPEG or PNG without comments, EXIF, thumbnails and whatever follows it; its pixels stay as compressed.

    Orientation and colour profile stay, with what else changes pixels or colours. The file was decoded before.
    """
    with Image.open(io.BytesIO(content)) as image:
        orientation = read_orientation(image)
    exif = b"" if orientation == UPRIGHT else EXIF.pack(b"II", 42, 8, 1, ORIENTATION_TAG, SHORT, 1, orientation, 0)
    return strip_png(content, exif) if content.startswith(SIGNATURE) else strip_jpeg(content, exif)


def strip_jpeg(body: bytes, exif: bytes) -> bytes:
    """Strip a JPEG, and put an EXIF block into it unless that is empty."""
    kept, position, is_in_scan = [START], len(START), False
    if exif:
        kept.append(make_segment(0xE1, EXIF_MARK + exif))
    while (marker := SEGMENT.search(body, position)) is not None:
        if is_in_scan:
            kept.append(body[position : marker.start()])
        kind = marker[0][1]
        if kind == END:
            break
        position = marker.end() + struct.unpack_from(">H", body, marker.end())[0]
        kept.append(keep_segment(kind, body[marker.end() + 2 : position]))
        is_in_scan = kind == SCAN
    return b"".join([*kept, bytes((0xFF, END))])


def keep_segment(kind: int, data: bytes) -> bytes:
    """Return a segment as it is to be kept; nothing of one that no decoder needs."""
    if (kind, data[:5]) == JFIF:
        data = data[:JFIF_BYTES] + NO_THUMBNAIL
    elif (kind, data[:5]) == ADOBE:
        data = data[:ADOBE_BYTES]
    elif kind not in NEEDED and (kind, data[: len(PROFILE[1])]) != PROFILE:
        return b""
    return make_segment(kind, data)


def make_segment(kind: int, data: bytes) -> bytes:
    """Make a segment of a JPEG."""
    return bytes((0xFF, kind)) + struct.pack(">H", len(data) + 2) + data


def strip_png(body: bytes, exif: bytes) -> bytes:
    """Strip a PNG, and put an EXIF block into it unless that is empty."""
    kept = [SIGNATURE]
    for kind, data in read_chunks(body):
        if kind == b"IDAT" and exif:
            kept.append(make_chunk(b"eXIf", exif))
            exif = b""
        if kind == b"iCCP":  # its name is any text
            kept.append(make_chunk(kind, PROFILE_NAME + b"\0" + bytes(data).partition(b"\0")[2]))
        elif kind in KEPT_CHUNKS:
            kept.append(make_chunk(kind, bytes(data)))
    return b"".join(kept)


def make_chunk(kind: bytes, data: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
