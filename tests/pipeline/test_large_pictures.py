"""JPEGs are decoded at a reduced scale if the manifest allows it. Large pictures take turns, and can be stopped."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import crafted
import numpy as np
import pytest
from crafted import Pixels, encode
from PIL import Image
from small_engines import PATIENCE_S, MeanEngine, make_manifest

from app.errors import DamagedImageError, DeadlineError
from app.pipeline.decoding.decode import LONG_BYTES, decode
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.patience import LARGE_PIXELS, Patience, Turn
from app.pipeline.served_model import ServedModel

LIMITS = ImageLimits(max_pixels=25_000_000)


def scene(width: int, height: int, seed: int = 0) -> Pixels:
    """Draw coarse and fine structures, smoothly joined, with about the detail of a photo."""
    coarse = Image.fromarray(crafted.samples(seed, height // 40, width // 40, 3).astype(np.uint8))
    fine = crafted.samples(seed + 1, height, width, 3) % 24
    return (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) // 2 + fine).astype(np.uint8)


def jpeg(width: int, height: int, **options: object) -> bytes:
    return encode(Image.fromarray(scene(width, height)), "JPEG", quality=90, **options)


def make_model(scale: float | None) -> ServedModel:
    manifest = make_manifest()
    spec = replace(manifest.input, width_px=48, height_px=40, jpeg_min_scale=scale)
    return ServedModel(replace(manifest, input=spec), MeanEngine(), LIMITS, 16)


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((1200, 1000), 8),  # 150 x 125, where 144 x 120 is asked for
        ((1152, 960), 8),  # exactly 144 x 120
        ((1144, 960), 4),
        ((600, 600), 4),
        ((300, 300), 2),
        ((280, 240), 1),
        ((1201, 1000), 1),  # divides by nothing
        ((1202, 1000), 2),
    ],
)
def test_jpeg_is_decoded_at_the_smallest_scale_that_keeps_the_asked_size(size: tuple[int, int], scale: int) -> None:
    image = decode(jpeg(*size), LIMITS, (144, 120))
    assert image.size == size
    assert image.pixels.size == (size[0] // scale, size[1] // scale)
    assert image.conversions == ((f"decoded at 1/{scale} of its size",) if scale > 1 else ())


def test_turned_jpeg_keeps_the_asked_size_as_it_is_seen() -> None:
    block = Image.Exif()
    block[crafted.ORIENTATION] = 6
    body = jpeg(800, 1600, exif=block)  # seen as 1600 x 800
    assert decode(body, LIMITS, (800, 100)).pixels.size == (800, 400)
    assert decode(body, LIMITS, (800, 100)).size == (1600, 800)
    assert decode(body, LIMITS, (100, 800)).pixels.size == (1600, 800)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_other_formats_are_decoded_at_their_full_size(format: str) -> None:
    body = encode(Image.fromarray(scene(400, 400)), format)
    assert decode(body, LIMITS, (40, 40)).pixels.size == (400, 400)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_reduced_scale_moves_no_pixel_of_the_models_input_by_more_than_two(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(scene(2400, 2000)).convert(mode).save(file, "JPEG", quality=90)
    full, reduced = (make_model(scale).understand(file.getvalue()) for scale in (None, 3.0))
    assert "decoded at 1/8 of its size" in reduced.conversions
    assert (reduced.width_px, reduced.height_px) == (full.width_px, full.height_px) == (2400, 2000)
    difference = np.abs(full.pixels.astype(int) - reduced.pixels)
    assert difference.max() <= 2
    assert difference.mean() < 0.25


@pytest.mark.alone
def test_reduced_scale_takes_a_fraction_of_the_time() -> None:
    body = encode(Image.fromarray(scene(2400, 2000)).resize((4800, 4000)), "JPEG", quality=90)
    times_s = []
    for scale in (None, 3.0):
        model, best = make_model(scale), 10.0
        for _ in range(3):
            started = time.thread_time()
            model.understand(body)
            best = min(best, time.thread_time() - started)
        times_s.append(best)
    assert times_s[1] < times_s[0] / 2


def test_cut_jpeg_is_refused_at_a_reduced_scale_too() -> None:
    with pytest.raises(DamagedImageError):
        decode(jpeg(1200, 1000)[:-2000], LIMITS, (144, 120))


def test_large_pictures_take_turns_and_small_ones_pass_them() -> None:
    assert LARGE_PIXELS == 1000 * 1000
    model = make_model(None)
    with ThreadPoolExecutor(2) as pool:
        with Turn() as first:
            first.take(1000, 1000)
            waiting = pool.submit(model.understand, jpeg(1000, 1000))
            pool.submit(model.understand, jpeg(400, 400)).result(PATIENCE_S)
            assert not waiting.done()
        assert waiting.result(PATIENCE_S).width_px == 1000


def test_turn_is_given_back_whatever_happens() -> None:
    model = make_model(None)
    for _ in range(3):
        with pytest.raises(DamagedImageError):
            model.understand(jpeg(2000, 2000)[:-2000])
        model.understand(jpeg(2000, 2000))
    assert not Turn._large.locked()


@pytest.mark.alone
def test_turn_that_comes_too_late_is_not_waited_for() -> None:
    with Turn() as first:
        first.take(5000, 5000)
        started = time.perf_counter()
        with pytest.raises(DeadlineError):
            make_model(None).understand(jpeg(2000, 2000), Patience(started + 0.2))
        assert 0.2 <= time.perf_counter() - started < 1.0
    assert not Turn._large.locked()


@pytest.mark.alone
def test_running_decode_stops_at_the_deadline_and_when_the_caller_goes() -> None:
    body = encode(Image.fromarray(crafted.samples(3, 3000, 3000, 3).astype(np.uint8)), "PNG")
    assert len(body) > LONG_BYTES
    model = make_model(None)
    started = time.perf_counter()
    model.understand(body)
    whole_s = time.perf_counter() - started
    started = time.perf_counter()
    with pytest.raises(DeadlineError, match="deadline"):
        model.understand(body, Patience(started + whole_s / 4))
    assert time.perf_counter() - started < whole_s * 0.75
    gone = threading.Event()
    threading.Timer(whole_s / 4, gone.set).start()
    with pytest.raises(DeadlineError, match="gone"):
        model.understand(body, Patience(is_gone=gone.is_set))


def test_deadline_ends_a_request_of_several_pictures() -> None:
    bodies = [encode(Image.fromarray(crafted.samples(3, 2000, 2000, 3).astype(np.uint8)), "PNG")] * 3
    with pytest.raises(DeadlineError):
        make_model(None).predict_many(bodies, Patience(time.perf_counter() + 0.01))
