"""Several pictures of one request: what they may cost together, and that nobody is computed for who waits no longer."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import crafted
import numpy as np
import pytest
from crafted import encode, lossless_webp
from PIL import Image
from small_engines import PATIENCE_S, MeanEngine, make_manifest

from app.arrays import InputBatch, Scores
from app.errors import AnsweredError, DeadlineError, ServiceUnavailableError, UnsupportedImageError
from app.pipeline.decoding.limits import REQUEST_SHARE, ImageLimits, PixelSum
from app.pipeline.patience import LARGE_WAITING, Patience, Turn
from app.pipeline.served_model import Prediction, ServedModel

MAX_PIXELS, SIDE_PX = 4_000_000, 2000
HUGE = lossless_webp(SIDE_PX, SIDE_PX)
SMALL = encode(Image.fromarray(crafted.samples(1, 300, 300, 3)), "PNG")
RAW = crafted.samples(2, 999, 1000, 3)


def make_model(engine: MeanEngine | None = None) -> ServedModel:
    return ServedModel(make_manifest(), engine or MeanEngine(), ImageLimits(MAX_PIXELS), 16)


def test_pictures_of_a_request_have_a_bound_together_and_each_beyond_it_has_its_own_error() -> None:
    model = make_model()
    uploads = [HUGE, SMALL, HUGE, HUGE, RAW, SMALL]
    answers, _ = model.predict_many(uploads, pixel_sum=PixelSum(MAX_PIXELS // 2 + 50_000))
    assert [isinstance(answer, Prediction) for answer in answers] == [True, True, True, False, False, True]
    assert isinstance(answers[3], UnsupportedImageError)
    assert answers[3].message.startswith("The pictures of the request have more than 8200000 pixels together; ")
    assert all(isinstance(answer, Prediction) for answer in model.predict_many(uploads)[0])


def test_four_of_the_largest_pictures_are_taken() -> None:
    pixel_sum = PixelSum(MAX_PIXELS)
    for _ in range(REQUEST_SHARE):
        pixel_sum.add(SIDE_PX, SIDE_PX)
    with pytest.raises(UnsupportedImageError):
        pixel_sum.add(1, 1)
    assert REQUEST_SHARE == 4


@pytest.mark.parametrize("upload", [HUGE, SMALL, RAW], ids=["huge", "small", "raw"])
def test_deadline_is_looked_at_before_each_picture(upload: bytes) -> None:
    engine = MeanEngine()
    model = make_model(engine)
    started = time.thread_time()
    model.understand(upload)
    one_s = time.thread_time() - started
    started = time.thread_time()
    with pytest.raises(DeadlineError, match="deadline"):
        model.predict_many([upload] * 64, Patience(time.perf_counter() + 2 * one_s))
    assert time.thread_time() - started < 20 * one_s
    assert engine.batch_sizes == []


@pytest.mark.parametrize("upload", [HUGE, SMALL], ids=["huge", "small"])
def test_caller_who_left_while_pictures_are_decoded_is_not_computed_for(upload: bytes) -> None:
    engine, asked = MeanEngine(), []

    def is_gone() -> bool:
        asked.append(time.perf_counter())
        return len(asked) > 2

    with pytest.raises(DeadlineError, match="gone"):
        make_model(engine).predict_many([upload] * 200, Patience(is_gone=is_gone))
    assert engine.batch_sizes == []
    assert len(asked) == 3


class LeavingEngine(MeanEngine):
    """Infers, and has the caller leave meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.left = threading.Event()

    def infer(self, batch: InputBatch) -> Scores:
        self.left.set()
        return super().infer(batch)


def test_caller_who_left_during_the_first_batch_is_not_computed_for_in_the_next() -> None:
    engine = LeavingEngine()
    pixels = list(crafted.samples(3, 64, 4, 6, 3))
    with pytest.raises(DeadlineError, match="gone"):
        make_model(engine).predict_many(pixels, Patience(is_gone=engine.left.is_set))
    assert engine.batch_sizes == [make_manifest().batch.max_size]
    answers, _ = make_model().predict_many(pixels)
    assert all(isinstance(answer, Prediction) for answer in answers)


def test_line_of_large_pictures_is_bounded_and_small_ones_pass_it() -> None:
    model = make_model()
    large = encode(Image.fromarray(np.zeros((1000, 1000, 3), dtype=np.uint8)), "PNG")
    with ThreadPoolExecutor(LARGE_WAITING) as pool:
        with Turn() as first:
            first.take(1000, 1000)
            waiting = [pool.submit(model.understand, large) for _ in range(LARGE_WAITING)]
            deadline = time.monotonic() + PATIENCE_S
            while Turn._line._value:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            for upload in (large, np.zeros((1000, 1000, 3), dtype=np.uint8)):
                with pytest.raises(ServiceUnavailableError, match="Too many large pictures"):
                    model.understand(upload)
            assert model.understand(SMALL).width_px == 300
        assert [each.result(PATIENCE_S).width_px for each in waiting] == [1000] * LARGE_WAITING
    assert Turn._line._value == LARGE_WAITING + 1


def test_errors_of_pictures_keep_no_pixels() -> None:
    damaged = encode(Image.fromarray(crafted.samples(3, 1200, 1200, 3)), "PNG")[:-2000]
    answers, _ = make_model().predict_many([damaged, b"no picture", SMALL])
    for error in answers[:2]:
        assert isinstance(error, AnsweredError)
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
