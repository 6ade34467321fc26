"""`preprocess` squeezes the whole picture to the model's size with Pillow's filter, and leaves the right size alone."""

from dataclasses import replace
from pathlib import Path

import crafted
import numpy as np
import profiles
import pytest
from PIL import Image
from small_engines import MeanEngine, make_manifest
from sound_files import exif

from app.compiling import compilation
from app.engines.pytorch.torch_architectures import import_torchvision
from app.evaluation import labelled_folder
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.preprocess import FILTERS, preprocess
from app.pipeline.served_model import ServedModel

SPEC = InputSpec(width_px=12, height_px=8, resize="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), um_per_px=None)
# The names a manifest may give, and what Pillow means by each.
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def test_filter_table_is_pillows() -> None:
    assert FILTERS == PILLOW


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("size", [(40, 30), (5, 4), (12, 30), (1, 1), (300, 2)], ids=str)
def test_any_size_is_squeezed_with_the_manifests_filter(name: str, size: tuple[int, int]) -> None:
    picture = Image.fromarray(crafted.samples(30, size[1], size[0], 3))
    found = preprocess(picture, replace(SPEC, resize=name))
    assert found.dtype == np.uint8
    assert found.shape == (8, 12, 3)
    assert found.flags.c_contiguous
    assert (found == np.asarray(picture.resize((12, 8), PILLOW[name]))).all()


@pytest.mark.parametrize("name", PILLOW)
def test_picture_of_the_exact_size_is_not_resampled(name: str) -> None:
    pixels = crafted.samples(31, 8, 12, 3)
    assert (preprocess(Image.fromarray(pixels), replace(SPEC, resize=name)) == pixels).all()


def test_picture_turned_by_90_degrees_is_not_of_the_exact_size() -> None:
    pixels = crafted.samples(31, 12, 8, 3)
    assert preprocess(Image.fromarray(pixels), SPEC).shape == (8, 12, 3)


def test_nothing_is_cut_off() -> None:
    """A picture of four quarters keeps all four, whatever its shape."""
    quarters = np.zeros((100, 400, 3), np.uint8)
    quarters[:50, 200:] = (255, 0, 0)
    quarters[50:, :200] = (0, 255, 0)
    quarters[50:, 200:] = (0, 0, 255)
    found = preprocess(Image.fromarray(quarters), SPEC)
    corners = [tuple(int(value) for value in found[y, x]) for y in (0, -1) for x in (0, -1)]
    assert corners == [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_shrinking_antialiases() -> None:
    """Stripes one pixel wide become even grey; a filter without antialiasing would return stripes."""
    stripes = np.zeros((80, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    found = preprocess(Image.fromarray(stripes), SPEC)
    assert np.abs(found[:, 1:-1].astype(int) - 128).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [(300, 260), (260, 301), (224, 224), (256, 256), (257, 999), (1000, 333), (7, 5), (1, 1), (90, 1390)],
    ids=str,
)
def test_middle_is_cut_out_as_torchvisions_transforms_do(size: tuple[int, int]) -> None:
    transforms = import_torchvision().transforms
    picture = Image.fromarray(crafted.samples(32, size[1], size[0], 3))
    spec = replace(SPEC, width_px=224, height_px=224, short_side_px=256)
    expected = transforms.CenterCrop(224)(transforms.Resize(256)(picture))
    assert (preprocess(picture, spec) == np.asarray(expected)).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 320), (600, 20), (1, 5000), (16384, 1)], ids=str)
def test_middle_of_a_line_is_cut_out_without_resizing_all_of_it(size: tuple[int, int]) -> None:
    """Of the first two the whole is small enough to compare with; that of the last would have a billion pixels."""
    picture = Image.fromarray(crafted.samples(33, size[1], size[0], 3))
    found = preprocess(picture, replace(SPEC, width_px=224, height_px=224, short_side_px=256))
    assert found.shape == (224, 224, 3)
    if min(size) > 1:
        transforms = import_torchvision().transforms
        expected = np.asarray(transforms.CenterCrop(224)(transforms.Resize(256)(picture)))
        assert np.abs(found.astype(int) - expected).max() <= 1


LIMITS = ImageLimits(max_pixels=25_000_000)
ADOBE = profiles.rgb_profile(profiles.ADOBE_RGB, profiles.gamma_curve(profiles.ADOBE_GAMMA))


@pytest.mark.parametrize("follows_metadata", [False, True])
@pytest.mark.parametrize("jpeg_min_scale", [None, 2.0])
def test_what_is_compiled_and_evaluated_with_is_read_as_the_service_reads_it(
    tmp_path: Path, jpeg_min_scale: float | None, follows_metadata: bool
) -> None:
    """The JPEG is large enough for a reduced scale, lies on its side, and is in colours of its own."""
    picture = Image.fromarray(crafted.gradient(320, 480))
    body = crafted.encode(picture, "JPEG", quality=90, exif=exif(6).tobytes(), icc_profile=ADOBE)
    spec = replace(SPEC, jpeg_min_scale=jpeg_min_scale, is_turned=follows_metadata)
    served = ServedModel(replace(make_manifest(), input=spec), MeanEngine(), LIMITS, 16)
    file = tmp_path / "picture.jpg"
    file.write_bytes(body)
    try:
        pixels = served.understand(body).pixels
    finally:
        served.close()
    assert (labelled_folder.read_picture(file, spec, LIMITS)[0] == pixels).all()
    assert (compilation.read_picture(body, spec) == pixels).all()
    plain = served_pixels_of_plain_decoding(picture)
    assert (np.abs(pixels - plain).max() > 5) == follows_metadata


def served_pixels_of_plain_decoding(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SPEC.width_px, SPEC.height_px), PILLOW[SPEC.resize])).astype(float)
