"""TIFF. Its tiles may be larger than its picture, its samples of any kind, and 0 may mean white."""

import re

from PIL import Image, ImageFile, TiffImagePlugin

from app.errors import UnsupportedImageError
from app.pipeline.decoding.image_format import ImageFormat, read_orientation
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import SampleKind

BITS_PER_SAMPLE_TAG, PHOTOMETRIC_TAG = 258, 262  # TIFF 6.0, section 8
TILE_WIDTH_TAG, TILE_LENGTH_TAG, SAMPLE_FORMAT_TAG = 322, 323, 339  # TIFF 6.0, sections 15 and 19
WHITE_IS_ZERO, UNSIGNED = 0, 1
# Pillow's own reader of uncompressed TIFFs leaves missing strips black, and takes 300 MB for a 1 MB table of strips.
TiffImagePlugin.READ_LIBTIFF = True


class Tiff(ImageFormat):
    """TIFF 6.0 and BigTIFF, in either byte order."""

    name = "TIFF"
    signature = re.compile(rb"II[*+]\0|MM\0[*+]")

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Refuse several pages, oversized tiles, and samples whose range is not defined."""
        super().check_header(image, limits)
        tags = read_tags(image)
        limits.check(int(tags.get(TILE_WIDTH_TAG, 1)), int(tags.get(TILE_LENGTH_TAG, 1)))
        is_signed = max(tags.get(SAMPLE_FORMAT_TAG, (UNSIGNED,))) != UNSIGNED
        if is_signed or image.mode in ("I", "F"):
            raise UnsupportedImageError(
                "Signed, 32-bit and floating-point samples are not taken: their range is not defined."
            )

    def load(self, image: ImageFile.ImageFile, body: bytes, is_turned: bool) -> tuple[Image.Image, int]:
        """Decode the pixels. Pillow turns every TIFF upright, and keeps no orientation to read afterwards."""
        orientation = read_orientation(image)
        image.load()
        return image, orientation

    def read_sample_kind(self, image: ImageFile.ImageFile, body: bytes) -> SampleKind:
        """Return the largest number of bits of the samples, and what 0 means."""
        tags = read_tags(image)
        return SampleKind(
            bits=int(max(tags.get(BITS_PER_SAMPLE_TAG, (8,)))),
            is_white_zero=bool(tags.get(PHOTOMETRIC_TAG, WHITE_IS_ZERO) == WHITE_IS_ZERO),
        )


def read_tags(image: ImageFile.ImageFile) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of an opened TIFF."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image.tag_v2
