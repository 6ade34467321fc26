"""Decodes a JPEG so that missing data show. libjpeg fills a gap with grey, or leaves details out, and says so in a
warning that Pillow drops.
"""

import re

from PIL import Image, ImageFile

from app.errors import DamagedImageError
from app.pipeline.decoding.image_format import LONG, count_rest
from app.pipeline.decoding.jpeg.jpeg_segments import Frame, Scan, Structure

FOREIGN = re.compile(rb"\xff[\x01\xd8]")
"""Markers without a segment that have no place in a scan's data."""
RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]
COEFFICIENTS, BLOCK_PX, UNSENT = 64, 8, 16
LOOKAHEAD = b"\xff\0" * 8
"""libjpeg reads up to 64 bits ahead. These are ones, which are no code: taken for data, they last for four codes, and a
block needs two or more.
"""
END_MARKER = b"\xff\xd9"
BLOCK_BYTES = 64 * 1024  # as Pillow reads; a `PatientFile` asks as often whether the caller waits
CUT = "The JPEG is truncated: its pixel data end early; send the whole file."
FEW_PASSES = "The JPEG is truncated: passes that bring its details are missing; send the whole file."
WRONG_RESTARTS = (
    "The JPEG is damaged: restart markers are missing in its pixel data, or out of turn; send the whole file."
)


class ScanDecoder:
    """Pillow's decoder of a JPEG, fed piece by piece. It takes a byte when its turn comes, and what it leaves tells
    where it is.
    """

    def __init__(self, image: ImageFile.ImageFile) -> None:
        image.load_prepare()
        tile = image.tile[0]
        self._decoder = Image._getdecoder(image.mode, tile.codec_name, tile.args, image.decoderconfig)
        self._decoder.setimage(image.im, tile.extents)
        assert image.fp is not None
        self._file, self._left = image.fp, b""
        self._file.seek(0)
        self.is_done = False

    def feed(self, data: bytes) -> None:
        """Decode on; raises `OSError` for what libjpeg refuses."""
        self._left += data
        taken, fault = self._decoder.decode(self._left)
        if fault < 0:
            raise OSError(f"libjpeg's decoder: {fault}")
        self.is_done = taken < 0
        self._left = self._left[taken:]

    def feed_file(self, end: int, behind: bytes = b"") -> None:
        """Decode the file on up to an offset, then what stands `behind`; raises as `feed`, and as the file's `read`."""
        size = end - self._file.tell()
        while size > BLOCK_BYTES and not self.is_done:
            self.feed(self._file.read(BLOCK_BYTES))
            size -= BLOCK_BYTES
        if not self.is_done:
            self.feed(self._file.read(size) + behind)

    def is_behind(self, probe_bytes: int = 0) -> bool:
        """Return whether all pixels of a scan have their data. Then libjpeg looks for the next marker, and passes over
        a probe, of the file or of zero; before, it takes none that cannot fill up its 64 bits.
        """
        if self.is_done or self._left:
            return self.is_done
        self.feed(self._file.read(probe_bytes) or b"\0")
        return self.is_done or not self._left

    def close(self) -> None:
        """Free what libjpeg holds."""
        self._decoder.cleanup()


def check_scans(body: bytes, structure: Structure) -> None:
    """Raise `DamagedImageError` if scans are missing, or parts of one that can be counted."""
    frame, scans = structure
    for scan in scans:
        if scan.has_markers or scan.interval:
            check_restarts(body, frame, scan)
    if len(scans) > 1 or len(scans[0].names) < len(frame.planes) or frame.is_progressive:
        check_passes(frame, scans)


def check_passes(frame: Frame, scans: list[Scan]) -> None:
    """Raise `DamagedImageError` unless the scans bring each coefficient of each plane to its last bit."""
    missing = {name: bytearray([UNSENT] * COEFFICIENTS) for name, _, _ in frame.planes}
    for scan in scans:
        band, after = (scan.band, scan.after) if frame.is_progressive else (slice(COEFFICIENTS), 0)
        for name in scan.names:
            bits = missing[name][band]
            if scan.before and frame.is_progressive and bits.count(scan.before) < len(bits):
                raise DamagedImageError(FEW_PASSES)
            missing[name][band] = bytes((after,)) * len(bits)
    if any(bits.count(0) < COEFFICIENTS for bits in missing.values()):
        raise DamagedImageError(FEW_PASSES)


def check_restarts(body: bytes, frame: Frame, scan: Scan) -> None:
    """Raise `DamagedImageError` unless restart markers alone stand in a scan's data, and as many as needed; one more
    may stand behind the last unit.
    """
    counts = [body.count(marker, scan.start, scan.end) for marker in RESTARTS]
    needed = -(-count_units(frame, scan) // scan.interval) - 1 if scan.interval else 0
    has_all = counts in ([(count + 7 - turn) // 8 for turn in range(8)] for count in (needed, needed + 1))
    if sum(counts) > needed + 1 and scan.interval:
        raise DamagedImageError(LONG.format("JPEG"))
    if not has_all or (scan.has_markers and not scan.interval) or FOREIGN.search(body, scan.start, scan.end):
        raise DamagedImageError(WRONG_RESTARTS)


def count_units(frame: Frame, scan: Scan) -> int:
    """Return how many units (MCU, T.81, A.2) a scan has: those of a lone plane are its blocks."""
    most_across, most_down = max(plane[1] for plane in frame.planes), max(plane[2] for plane in frame.planes)
    if len(scan.names) > 1:
        return -(-frame.width // (BLOCK_PX * most_across)) * -(-frame.height // (BLOCK_PX * most_down))
    across, down = next((across, down) for name, across, down in frame.planes if name == scan.names[0])
    width, height = -(-frame.width * across // most_across), -(-frame.height * down // most_down)
    return -(-width // BLOCK_PX) * -(-height // BLOCK_PX)


def load_scans(image: ImageFile.ImageFile, body: bytes, structure: Structure) -> None:
    """Decode an opened JPEG as `image.load` does. Raises `DamagedImageError` if a scan ends before its pixels, or long
    behind them, and as `ScanDecoder.feed`.
    """
    decoder, longest = ScanDecoder(image), max(structure.scans, key=lambda scan: scan.end - scan.start)
    try:
        for scan in structure.scans:
            if scan is longest:
                check_rest(decoder, body, scan)
            decoder.feed_file(scan.end, LOOKAHEAD)
            if not decoder.is_behind():
                raise DamagedImageError(CUT)
        if not decoder.is_done:
            decoder.feed(END_MARKER)
    finally:
        decoder.close()
    if not decoder.is_done:
        raise DamagedImageError(CUT)
    image.tile = []


def check_rest(decoder: ScanDecoder, body: bytes, scan: Scan) -> None:
    """Decode most of a scan; raises `DamagedImageError` if its pixels need no more. Where restarts are counted, libjpeg
    may look for one, which looks like the end.
    """
    end = scan.start + len(body[scan.start : scan.end].rstrip(b"\0\xff"))
    place = end - count_rest(end - scan.start)
    if place <= scan.start or scan.has_markers:
        return
    decoder.feed_file(place)
    if decoder.is_behind(probe_bytes=2 if body[place] == 0xFF else 1):
        raise DamagedImageError(LONG.format("JPEG"))
