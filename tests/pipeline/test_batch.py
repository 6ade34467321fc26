"""`BatchRunner`: one inference at a time, a bounded queue, and no place lost to an error."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import islice

import crafted
import numpy as np
import pytest
from small_engines import PATIENCE_S, FailingEngine, HeldEngine, MeanEngine

from app.arrays import InputBatch, Scores
from app.errors import DeadlineError, InferenceError, ServiceUnavailableError
from app.manifest.model_specs import BatchSpec
from app.pipeline import batch as batching
from app.pipeline.batch import PRESENCE_S, RECENT_S, BatchRunner
from app.pipeline.patience import Patience

Answer = tuple[Scores, float, float]
SPEC = BatchSpec()


def make_batch(seed: int, count: int = 1) -> InputBatch:
    # Of a seed's own brightness, so that no two answers are alike.
    batch: InputBatch = (crafted.samples(seed, count, 4, 6, 3) // 8 + seed).astype(np.uint8)
    return batch


@contextmanager
def held(runner: BatchRunner, engine: HeldEngine) -> Iterator[Future[Answer]]:
    """Hold one inference inside the engine while the body runs, then let everything go."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runner.infer, make_batch(1))
        assert engine.entered.acquire(timeout=PATIENCE_S)
        try:
            yield running
        finally:
            engine.may_go.release(100)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a state of another thread that has no event."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_scores_are_the_engines_and_times_are_not_negative() -> None:
    engine = MeanEngine()
    batch = make_batch(2, 5)
    scores, run = BatchRunner(engine, 1, SPEC).infer(batch)
    np.testing.assert_array_equal(scores, MeanEngine().infer(batch))
    assert engine.batch_sizes == [5]
    assert run.queue_s >= 0
    assert run.inference_s >= 0
    assert run.batch_size == 5


def test_one_inference_runs_at_a_time() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 7, SPEC)
    engine.may_go.release(100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(runner.infer, [make_batch(seed) for seed in range(40)]))
    assert sum(engine.batch_sizes) == 40
    assert engine.most_at_once == 1


def test_every_caller_gets_the_scores_of_its_own_batch() -> None:
    runner = BatchRunner(MeanEngine(), 100, SPEC)
    batches = [make_batch(seed, 1 + seed % 4) for seed in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(runner.infer, batches))
    for batch, (scores, _) in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(scores, MeanEngine().infer(batch))


@pytest.mark.parametrize("queue_size", [1, 3])
def test_full_queue_answers_503_at_once_and_the_queued_are_served(queue_size: int) -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, queue_size, SPEC)
    too_many = 3
    with ThreadPoolExecutor(queue_size + too_many) as pool:
        with held(runner, engine) as running:
            callers = {
                pool.submit(runner.infer, make_batch(seed)): seed for seed in range(10, 10 + queue_size + too_many)
            }
            # While the engine is held, only callers that find the queue full can be done.
            refused = list(islice(as_completed(callers, PATIENCE_S), too_many))
            for future in refused:
                with pytest.raises(ServiceUnavailableError, match=r"^Too many requests wait for this model"):
                    future.result()
            assert sum(future.done() for future in callers) == too_many
        for future in set(callers) - set(refused):
            scores, run = future.result(PATIENCE_S)
            np.testing.assert_array_equal(scores, MeanEngine().infer(make_batch(callers[future])))
            assert run.queue_s > 0
            assert run.batch_size == queue_size
        running.result(PATIENCE_S)
    assert engine.batch_sizes == [1, queue_size]  # who waited was inferred together
    runner.infer(make_batch(4))  # the places are free again


def test_engine_error_reaches_its_caller_and_frees_its_place() -> None:
    runner = BatchRunner(FailingEngine(failures=10), 1, SPEC)
    for _ in range(10):  # more than there are places
        with pytest.raises(InferenceError):
            runner.infer(make_batch(5))
    runner.infer(make_batch(5))


def test_unforeseen_error_frees_its_place_too() -> None:
    runner = BatchRunner(MeanEngine(), 1, SPEC)
    for _ in range(10):
        with pytest.raises(TypeError):
            runner.infer(None)  # type: ignore[arg-type]
    runner.infer(make_batch(5))


def test_close_waits_for_the_running_batch() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 1, SPEC)
    closing = threading.Thread(target=runner.close)
    with held(runner, engine) as running:
        closing.start()
        assert not engine.closed
    running.result(PATIENCE_S)
    closing.join(PATIENCE_S)
    assert engine.closed


class MiscountingEngine(MeanEngine):
    """Returns one row too few."""

    def infer(self, batch: InputBatch) -> Scores:
        return super().infer(batch)[:-1]


def test_scores_of_another_number_of_pictures_are_refused() -> None:
    with pytest.raises(InferenceError, match="another number of pictures"):
        BatchRunner(MiscountingEngine(), 1, SPEC).infer(np.zeros((2, 4, 4, 3), dtype=np.uint8))


def test_closed_model_answers_503() -> None:
    runner = BatchRunner(MeanEngine(), 1, SPEC)
    runner.close()
    with pytest.raises(ServiceUnavailableError, match="unloaded"):
        runner.infer(np.zeros((1, 4, 4, 3), dtype=np.uint8))


def test_waiting_callers_are_inferred_together_up_to_eight_pictures() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(12) as pool:
        with held(runner, engine) as running:
            callers = {pool.submit(runner.infer, make_batch(seed)): seed for seed in range(12)}
            wait_until(lambda: runner.waiting == 12)
        running.result(PATIENCE_S)
        for future, seed in callers.items():
            np.testing.assert_array_equal(future.result(PATIENCE_S)[0], MeanEngine().infer(make_batch(seed)))
    assert engine.batch_sizes == [1, 8, 4]


@pytest.mark.parametrize(
    ("max_size", "sizes"),
    [(1, [1]), (3, [3, 2, 1]), (8, [8, 7, 6, 5, 4, 3, 2, 1]), (20, [20, 16, 8, 7, 6, 5, 4, 3, 2, 1])],
)
def test_engine_sees_few_sizes_of_batch(max_size: int, sizes: list[int]) -> None:
    assert list(BatchSpec(max_size=max_size).sizes) == sizes
    engine = MeanEngine()
    runner = BatchRunner(engine, 100, BatchSpec(max_size=max_size))
    for count in range(1, 65):
        batch = make_batch(count, count)
        np.testing.assert_array_equal(runner.infer(batch)[0], MeanEngine().infer(batch))
    assert set(engine.batch_sizes) == set(sizes)


def test_batches_are_no_larger_than_the_manifest_says() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, BatchSpec(max_size=3))
    with ThreadPoolExecutor(7) as pool:
        with held(runner, engine) as running:
            callers = [pool.submit(runner.infer, make_batch(seed)) for seed in range(7)]
            wait_until(lambda: runner.waiting == 7)
        running.result(PATIENCE_S)
        for future in callers:
            future.result(PATIENCE_S)
    assert engine.batch_sizes == [1, 3, 3, 1]


def test_batch_waits_for_company_as_long_as_the_manifest_says() -> None:
    waits_s = []
    for delay_ms in (0.0, 200.0):
        runner = BatchRunner(MeanEngine(), 20, BatchSpec(max_delay_ms=delay_ms))
        with runner.arrival():  # one who is announced, and does not come
            started = time.perf_counter()
            runner.infer(make_batch(1))
            waits_s.append(time.perf_counter() - started)
    assert waits_s[0] < 0.2 <= waits_s[1]


class CrashingEngine(HeldEngine):
    """Works once, then raises what no engine should."""

    def infer(self, batch: InputBatch) -> Scores:
        scores = super().infer(batch)
        if len(self.batch_sizes) > 1:
            raise ZeroDivisionError
        return scores


def test_unforeseen_error_of_a_batch_leaves_nobody_waiting() -> None:
    engine = CrashingEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(3) as pool:
        with held(runner, engine) as running:
            callers = [pool.submit(runner.infer, make_batch(seed)) for seed in range(3)]
            wait_until(lambda: runner.waiting == 3)
        running.result(PATIENCE_S)
        errors = {type(future.exception(PATIENCE_S)) for future in callers}
    assert errors == {ZeroDivisionError, InferenceError}


@pytest.mark.alone
def test_late_caller_is_told_in_time_and_its_pictures_are_not_inferred() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(3) as pool:
        with held(runner, engine) as running:
            started = time.perf_counter()
            late = [pool.submit(runner.infer, make_batch(2), Patience(started + 0.05)) for _ in range(2)]
            patient = pool.submit(runner.infer, make_batch(3))
            for future in late:
                with pytest.raises(DeadlineError, match="deadline"):
                    future.result(PATIENCE_S)
            assert 0.05 <= time.perf_counter() - started < 1
            wait_until(lambda: runner.waiting == 1)
        running.result(PATIENCE_S)
        np.testing.assert_array_equal(patient.result(PATIENCE_S)[0], MeanEngine().infer(make_batch(3)))
    assert engine.batch_sizes == [1, 1]


def test_caller_who_has_gone_is_not_inferred_for() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(2) as pool:
        with held(runner, engine) as running:
            gone = pool.submit(runner.infer, make_batch(2), Patience(is_gone=lambda: True))
            wait_until(lambda: runner.waiting == 1)
            time.sleep(PRESENCE_S)  # from then on it is asked
        running.result(PATIENCE_S)
        with pytest.raises(DeadlineError, match="gone"):
            gone.result(PATIENCE_S)
    assert engine.batch_sizes == [1]
    runner.infer(make_batch(4))


def test_deadline_that_the_engine_cannot_meet_is_refused_at_once() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with held(runner, engine) as running:
        time.sleep(0.5)
    running.result(PATIENCE_S)  # a batch takes half a second, as far as is known
    with pytest.raises(DeadlineError):
        runner.infer(make_batch(2), Patience(time.perf_counter() + 0.05))
    assert engine.batch_sizes == [1]


@pytest.mark.parametrize("patience_s", [0.0, 0.0005, 0.001, 0.002, 0.005])
def test_deadlines_that_come_at_any_moment_leave_nobody_waiting(patience_s: float) -> None:
    runner = BatchRunner(MeanEngine(), 100, SPEC)

    def call(seed: int) -> bool:
        try:
            runner.infer(make_batch(seed % 50), Patience(time.perf_counter() + patience_s * (seed % 3)))
        except DeadlineError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(call, range(600), timeout=PATIENCE_S))
    assert len(outcomes) == 600
    runner.infer(make_batch(1))
    assert runner.waiting == 0


def test_lone_caller_does_not_wait_for_company_that_left() -> None:
    runner, waits_s = BatchRunner(MeanEngine(), 100, SPEC), []
    for _ in range(5):  # the first caller after a crowd counts; on a busy machine not every time
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(runner.infer, [make_batch(seed) for seed in range(40)]))
        time.sleep(RECENT_S)
        waits_s.append(runner.infer(make_batch(1))[1].queue_s)
    assert min(waits_s) < SPEC.max_delay_ms / 1000 / 2


def test_lone_caller_right_after_a_burst_waits_no_longer_than_the_burst_is_recent() -> None:
    runner = BatchRunner(MeanEngine(), 100, BatchSpec(max_delay_ms=5000.0))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(runner.infer, [make_batch(seed) for seed in range(6)]))
    runner._last_load, runner._last_ended = 6, time.perf_counter()  # as a burst leaves it
    assert RECENT_S * 0.9 < runner.infer(make_batch(1))[1].queue_s < 1


def test_error_of_a_batch_is_another_object_for_each_caller() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(3) as pool:
        with held(runner, engine) as running:
            callers = [pool.submit(runner.infer, make_batch(seed)) for seed in range(3)]
            wait_until(lambda: runner.waiting == 3)
            runner._is_closed = True  # what the next batch of three finds
        running.result(PATIENCE_S)
        errors = [future.exception(PATIENCE_S) for future in callers]
    assert {type(error) for error in errors} == {ServiceUnavailableError}
    assert {str(error) for error in errors} == {"The model was unloaded; try again shortly."}
    assert len({id(error) for error in errors}) == 3


def test_batch_larger_than_twenty_four_is_reached() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 80, BatchSpec(max_size=64))
    with ThreadPoolExecutor(64) as pool:
        with held(runner, engine) as running:
            callers = [pool.submit(runner.infer, make_batch(seed % 20)) for seed in range(64)]
            wait_until(lambda: runner.waiting == 64)
        running.result(PATIENCE_S)
        for future in callers:
            future.result(PATIENCE_S)
    assert engine.batch_sizes == [1, 64]


def test_pictures_that_give_way_wait_for_those_that_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LULL_S", PATIENCE_S)
    engine = MeanEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(1) as pool, runner.arrival() as announcement:
        waiting = pool.submit(runner.infer_between, make_batch(1, 2))
        runner.infer(make_batch(2), announcement=announcement)
        waiting.result(PATIENCE_S)
    assert engine.batch_sizes == [1, 2]


def test_pictures_that_give_way_do_not_wait_for_ever() -> None:
    runner = BatchRunner(MeanEngine(), 20, SPEC)
    with runner.arrival():  # one who is announced, and does not come
        started = time.perf_counter()
        runner.infer_between(make_batch(1, 2))
    assert batching.LULL_S <= time.perf_counter() - started < batching.LULL_S + 1


def test_pictures_that_give_way_are_inferred_alone() -> None:
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(7) as pool:
        with held(runner, engine):
            before = [pool.submit(runner.infer, make_batch(seed)) for seed in range(3)]
            wait_until(lambda: runner.waiting == 3)
            between = pool.submit(runner.infer_between, make_batch(3, 2))
            wait_until(lambda: runner.waiting == 4)
            after = [pool.submit(runner.infer, make_batch(seed)) for seed in range(3)]
            wait_until(lambda: runner.waiting == 7)
        for future in (*before, between, *after):
            future.result(PATIENCE_S)
    assert engine.batch_sizes == [1, 3, 2, 3]


def test_one_callers_pictures_that_give_way_stand_in_front_of_others_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "LULL_S", 0)
    engine = HeldEngine()
    runner = BatchRunner(engine, 20, SPEC)
    with ThreadPoolExecutor(7) as pool:
        with held(runner, engine):
            between = [pool.submit(runner.infer_between, make_batch(seed, 2)) for seed in range(4)]
            wait_until(lambda: runner.waiting == 1)
            late = pool.submit(runner.infer_between, make_batch(4, 2), Patience(time.perf_counter() + 0.05))
            with pytest.raises(DeadlineError):
                late.result(PATIENCE_S)
            hurried = pool.submit(runner.infer, make_batch(5))
            wait_until(lambda: runner.waiting == 2)
        for future in (*between, hurried):
            future.result(PATIENCE_S)
    assert engine.batch_sizes == [1, 2, 1, 2, 2, 2]
