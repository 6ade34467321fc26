"""`ServedModel`: every picture gets its own answer, in its own place."""

from concurrent.futures import ThreadPoolExecutor

import crafted
import numpy as np
import pytest
from crafted import Pixels, encode
from PIL import Image
from small_engines import FailingEngine, MeanEngine, make_manifest

from app.errors import (
    AnsweredError,
    BadRequestError,
    DamagedImageError,
    InferenceError,
    UnsupportedImageError,
    UnsupportedMediaError,
)
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.served_model import Prediction, ServedModel

LIMITS = ImageLimits(max_pixels=10_000, max_side_px=200)
SINGLE_COLOUR = "The picture shows a single colour; the answer means nothing."


def make_model(engine: MeanEngine | None = None) -> ServedModel:
    return ServedModel(make_manifest(), engine or MeanEngine(), LIMITS, 16)


def noise(seed: int, width: int = 6, height: int = 4) -> Pixels:
    """Random pixels of a random brightness: every picture has a score of its own."""
    centre = int(np.random.default_rng(seed).integers(20, 236))
    pixels: Pixels = (crafted.samples(seed, height, width, 3) % 40 + centre - 20).astype(np.uint8)
    return pixels


def png_of(pixels: Pixels) -> bytes:
    return encode(Image.fromarray(pixels), "PNG")


def bright(pixels: Pixels) -> float:
    """The probability that `MeanEngine` and softmax give the class bright, worked out apart."""
    return float(1 / (1 + np.exp(2 - pixels.mean() / 64)))


def probability(answer: Prediction | AnsweredError) -> float:
    assert isinstance(answer, Prediction)
    return answer.decision.probabilities["bright"]


def test_bare_pixels_are_answered_as_the_file_that_holds_them() -> None:
    for width, height in ((6, 4), (23, 17)):
        pixels = noise(1, width, height)
        alone, as_file = (make_model().predict(upload)[0] for upload in (pixels, png_of(pixels)))
        assert alone.decision == as_file.decision
        assert (alone.picture.width_px, alone.picture.height_px) == (width, height)
        answers, _ = make_model().predict_many([png_of(pixels), pixels])
        assert probability(answers[0]) == probability(answers[1]) == probability(alone)


def test_bare_pixels_over_the_limits_are_refused_alone() -> None:
    answers, _ = make_model().predict_many([noise(1, 201, 2), noise(2)])
    assert isinstance(answers[0], UnsupportedImageError)
    assert probability(answers[1]) == pytest.approx(bright(noise(2)), abs=1e-6)


def test_prediction_is_the_engines_for_these_pixels() -> None:
    for seed in range(20):
        pixels = noise(seed)
        prediction, timing = make_model().predict(png_of(pixels))
        assert probability(prediction) == pytest.approx(bright(pixels), abs=1e-6)
        assert prediction.decision.class_name == ("bright" if bright(pixels) >= 0.5 else "dark")
        assert min(timing.decode_s, timing.queue_s, timing.inference_s) >= 0


def test_picture_is_described_as_it_was_sent() -> None:
    body = encode(Image.fromarray(noise(1, 40, 30)[..., 0]), "TIFF")
    picture = make_model().predict(body)[0].picture
    assert (picture.width_px, picture.height_px, picture.format, picture.mode) == (40, 30, "TIFF", "L")
    assert picture.conversions == ("L converted to RGB", "resized from 40x30 to 6x4")
    assert picture.pixels.shape == (4, 6, 3)
    assert picture.warnings == ()


def test_turned_picture_is_described_upright() -> None:
    block = Image.Exif()
    block[crafted.ORIENTATION] = 6
    body = encode(Image.fromarray(noise(2, 4, 6)), "PNG", exif=block)
    picture = make_model().predict(body)[0].picture
    assert (picture.width_px, picture.height_px) == (6, 4)
    assert picture.conversions == ("turned upright by EXIF orientation 6",)


def test_picture_of_the_models_size_has_no_conversions() -> None:
    assert make_model().predict(png_of(noise(3)))[0].picture.conversions == ()


def test_many_pictures_of_mixed_sizes_keep_their_order() -> None:
    chance = np.random.default_rng(50)
    engine = MeanEngine()
    model = make_model(engine)
    bodies = [
        png_of(noise(seed, *(int(side) for side in chance.integers(4, 40, 2)))) if seed % 3 else png_of(noise(seed))
        for seed in range(60)
    ]
    answers, timing = model.predict_many(bodies)
    assert engine.batch_sizes == [8] * 7 + [4]
    alone = [probability(make_model().predict(body)[0]) for body in bodies]
    assert [probability(answer) for answer in answers] == pytest.approx(alone, abs=1e-9)
    assert len(set(alone)) > 50
    assert min(timing.decode_s, timing.queue_s, timing.inference_s) >= 0


def test_bad_pictures_answer_their_own_errors_in_their_places() -> None:
    unread = BadRequestError("An instance's data is not base64.")
    good = [png_of(noise(seed)) for seed in range(4)]
    bodies: list[bytes | AnsweredError] = [
        b"no picture",
        good[0],
        good[1][: len(good[1]) // 2],
        good[1],
        unread,
        png_of(noise(9, 201, 2)),
        good[2],
        b"",
        good[3],
    ]
    engine = MeanEngine()
    answers, _ = make_model(engine).predict_many(bodies)
    assert engine.batch_sizes == [4]
    assert [type(answer) for answer in answers] == [
        UnsupportedMediaError,
        Prediction,
        DamagedImageError,
        Prediction,
        BadRequestError,
        UnsupportedImageError,
        Prediction,
        BadRequestError,
        Prediction,
    ]
    assert answers[4] is unread
    found = [probability(answers[place]) for place in (1, 3, 6, 8)]
    assert found == pytest.approx([bright(noise(seed)) for seed in range(4)], abs=1e-6)


def test_one_bad_picture_at_any_place_does_not_move_the_others() -> None:
    bodies = [png_of(noise(seed)) for seed in range(5)]
    expected = [bright(noise(seed)) for seed in range(5)]
    for place in range(6):
        answers, _ = make_model().predict_many([*bodies[:place], b"broken", *bodies[place:]])
        assert isinstance(answers.pop(place), UnsupportedMediaError)
        assert [probability(answer) for answer in answers] == pytest.approx(expected, abs=1e-6)


def test_only_bad_pictures_never_reach_the_engine() -> None:
    engine = MeanEngine()
    answers, timing = make_model(engine).predict_many([b"", b"no picture"])
    assert [type(answer) for answer in answers] == [BadRequestError, UnsupportedMediaError]
    assert engine.batch_sizes == []
    assert timing.decode_s >= 0
    assert (timing.queue_s, timing.inference_s) == (0, 0)


def test_bad_picture_alone_raises_its_error_and_never_reaches_the_engine() -> None:
    engine = MeanEngine()
    with pytest.raises(UnsupportedMediaError):
        make_model(engine).predict(b"no picture")
    assert engine.batch_sizes == []


def test_engine_error_is_raised_for_one_and_for_many() -> None:
    model = make_model(FailingEngine(failures=2))
    with pytest.raises(InferenceError):
        model.predict(png_of(noise(1)))
    with pytest.raises(InferenceError):
        model.predict_many([png_of(noise(1)), png_of(noise(2))])
    model.predict(png_of(noise(1)))


def test_threads_do_not_mix_their_answers_up() -> None:
    model = make_model()
    bodies = [[png_of(noise(10 * caller + number)) for number in range(1 + caller % 3)] for caller in range(12)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(model.predict_many, bodies))
    for caller, (found, _) in enumerate(answers):
        expected = [bright(noise(10 * caller + number)) for number in range(1 + caller % 3)]
        assert [probability(answer) for answer in found] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 200, 7)], ids=str)
def test_single_colour_is_answered_with_a_warning(colour: tuple[int, int, int]) -> None:
    for size in ((6, 4), (1, 1), (50, 20)):
        picture = make_model().predict(encode(Image.new("RGB", size, colour), "PNG"))[0].picture
        assert picture.warnings == (SINGLE_COLOUR,)


def test_wholly_transparent_picture_is_of_a_single_colour() -> None:
    pixels = np.dstack([noise(4), np.zeros((4, 6), np.uint8)])
    assert make_model().predict(png_of(pixels))[0].picture.warnings == (SINGLE_COLOUR,)


def test_one_other_pixel_is_no_single_colour() -> None:
    pixels = np.full((4, 6, 3), 77, np.uint8)
    pixels[3, 5, 2] = 78
    assert make_model().predict(png_of(pixels))[0].picture.warnings == ()


def test_close_closes_the_engine() -> None:
    engine = MeanEngine()
    make_model(engine).close()
    assert engine.closed
