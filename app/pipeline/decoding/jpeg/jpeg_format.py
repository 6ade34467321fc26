"""JPEG. libjpeg reads one that was cut as if it were whole, so its scans are followed here."""

import re

from PIL import Image, ImageFile

from app.pipeline.decoding.image_format import DAMAGE, SIDEWAYS, ImageFormat, read_orientation, turn_upright
from app.pipeline.decoding.jpeg.jpeg_scans import check_scans, load_scans
from app.pipeline.decoding.jpeg.jpeg_segments import read_structure
from app.pipeline.decoding.limits import ImageLimits

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
        """Bound the segments and the scans, refuse kinds that are rare, and hold that no scan is missing."""
        self._structure = read_structure(body)
        check_scans(body, self._structure)
        return body

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Take any header: the first picture of a multi-picture file is its main picture, and the one decoded."""

    def load(self, image: ImageFile.ImageFile, body: bytes, follows_metadata: bool) -> tuple[Image.Image, int]:
        """Decode the pixels; raises `DamagedImageError` if data are missing."""
        load_scans(image, body, self._structure)
        return turn_upright(image, follows_metadata)

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
