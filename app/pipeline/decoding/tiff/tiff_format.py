"""TIFF. Its tiles may be larger than its picture, its samples of any kind, and 0 may mean white."""

import re

from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

from app.errors import DamagedImageError, UnsupportedImageError
from app.pipeline.decoding.image_format import NOT_TAKEN, ORIENTATION_TAG, UPRIGHT, ImageFormat, read_orientation, turn
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.decoding.samples import SampleKind
from app.pipeline.decoding.tiff import tiff_kinds as tag
from app.pipeline.decoding.tiff.tiff_directory import Directory, read_directory
from app.pipeline.decoding.tiff.tiff_jpeg import check_jpegs
from app.pipeline.decoding.tiff.tiff_strips import check_strips

WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6
UNSPECIFIED, SEPARATE = 0, 2
PLAIN_MODES = {"1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"}
"""Modes that Pillow reads rightly where each sample has a plane of its own."""
NO_RANGE = "Signed, 32-bit and floating-point samples are not taken: their range is not defined. The file is a {}."
MIN_WIDE_BITS, MAX_BITS = 32, 64
# Pillow's own reader of uncompressed TIFFs leaves missing strips black, and takes 300 MB for a 1 MB table of strips.
TiffImagePlugin.READ_LIBTIFF = True


class Tiff(ImageFormat):
    """TIFF 6.0 and BigTIFF, in either byte order."""

    name = "TIFF"
    signature = re.compile(rb"II[*+]\0|MM\0[*+]")

    def check_file(self, body: bytes, limits: ImageLimits) -> bytes:
        """Refuse what is not the whole picture, and samples that nobody can read."""
        directory = read_directory(body)
        tag.check_is_whole(body, directory)
        check_samples(body, directory)
        check_strips(directory)
        return body

    def refuse_rare_kind(self, body: bytes) -> None:
        """Refuse by its kind what is complete, and has a size and bits that a TIFF may have."""
        directory = read_directory(body)
        bits = directory.numbers(tag.BITS_PER_SAMPLE, (1,))
        samples = directory.number(tag.SAMPLES, len(bits))
        has_size = directory.number(tag.WIDTH) > 0 and directory.number(tag.LENGTH) > 0
        has_bits = min(bits) > 0 and max(bits) <= MAX_BITS and samples > 0 and len(bits) in (1, samples)
        if directory.is_complete and has_size and has_bits:
            raise UnsupportedImageError(NOT_TAKEN.format(tag.describe_kind(body, directory)))

    def check_header(self, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
        """Refuse several pages and oversized tiles."""
        super().check_header(image, limits)
        self._limits = limits
        tags = read_tags(image)
        limits.check(int(tags.get(tag.TILE_WIDTH, 1)), int(tags.get(tag.TILE_LENGTH, 1)), "A tile of the picture")

    def load(self, image: ImageFile.ImageFile, body: bytes, follows_metadata: bool) -> tuple[Image.Image, int]:
        """Decode the pixels. Pillow turns every TIFF upright whose orientation is a number, and keeps none to read
        afterwards.
        """
        check_planes(image, body)
        correct_palette(image)
        orientation, stored = read_orientation(image), read_tags(image).get(ORIENTATION_TAG)
        image.load()
        check_jpegs(read_directory(body), self._limits)
        if not isinstance(stored, (bytes, tuple)):
            return image, orientation
        return (turn(image, orientation), orientation) if follows_metadata else (image, UPRIGHT)

    def read_sample_kind(self, image: ImageFile.ImageFile, body: bytes) -> SampleKind:
        """Return the largest number of bits of the samples, what 0 means, and what reading has changed already."""
        tags = read_tags(image)
        steps = ["YCbCr converted to RGB"] if tags.get(tag.PHOTOMETRIC) == YCBCR else []
        if UNSPECIFIED in tags.get(tag.EXTRA_SAMPLES, ()):
            steps.append("extra samples ignored")
        return SampleKind(
            bits=int(max(tags.get(tag.BITS_PER_SAMPLE, (8,)))),
            is_white_zero=bool(tags.get(tag.PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO),
            steps=tuple(steps),
        )


def check_planes(image: ImageFile.ImageFile, body: bytes) -> None:
    """Raise `UnsupportedImageError` for separate planes that Pillow mixes up."""
    tags = read_tags(image)
    if tags.get(tag.PLANAR) != SEPARATE or tags.get(tag.SAMPLES, 1) == 1:
        return
    extra, has_alpha = len(tags.get(tag.EXTRA_SAMPLES, ())), image.mode == "RGBA"
    if image.mode not in PLAIN_MODES or (extra > has_alpha and (has_alpha or tags.get(tag.PHOTOMETRIC) == YCBCR)):
        raise UnsupportedImageError(NOT_TAKEN.format(tag.describe_kind(body, read_directory(body))))


def check_samples(body: bytes, directory: Directory) -> None:
    """Raise `UnsupportedImageError` for samples whose range is not defined, or of an unknown compression, and
    `DamagedImageError` if it is open which colours they are.
    """
    bits = directory.numbers(tag.BITS_PER_SAMPLE, (1,))
    if set(directory.numbers(tag.SAMPLE_FORMAT)) & set(tag.FORMATS) or max(bits) >= MIN_WIDE_BITS:
        raise UnsupportedImageError(NO_RANGE.format(tag.describe_kind(body, directory)))
    if directory.number(tag.COMPRESSION, 1) not in tag.COMPRESSIONS:
        raise UnsupportedImageError(NOT_TAKEN.format(tag.describe_kind(body, directory)))
    if tag.PHOTOMETRIC not in directory.fields:
        raise DamagedImageError("The picture is damaged: it does not say which colours its samples are.")
    colours = len(directory.numbers(tag.COLOUR_MAP))
    if directory.number(tag.PHOTOMETRIC) == PALETTE and bits[0] <= 8 and colours != 3 * 2 ** bits[0]:
        raise DamagedImageError("The picture is damaged: its palette has not one colour for each value.")


def correct_palette(image: ImageFile.ImageFile) -> None:
    """Read a palette of 8-bit values as one, which Pillow turns black."""
    if image.mode in ("P", "PA"):
        colours = read_tags(image)[tag.COLOUR_MAP]
        if max(colours) < 256:  # TIFF 6.0 wants 16 bits; libtiff reads these as 8
            image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def read_tags(image: ImageFile.ImageFile) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of an opened TIFF."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image.tag_v2
