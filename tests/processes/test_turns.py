"""Turns at the processor: a few threads at a time, and whoever waits gives way."""

import threading
import time

from app.processes.turns import Turns, give_way
from tests.conftest import within


def start(call: object) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_few_compute_at_a_time_and_all_get_their_turn() -> None:
    line, lock, busy, most, done = Turns(2), threading.Lock(), 0, 0, 0

    def compute() -> None:
        nonlocal busy, most, done
        with line.take():
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.002)
            with lock:
                busy -= 1
                done += 1

    for thread in [start(compute) for _ in range(20)]:
        thread.join(5)
    assert (most, done) == (2, 20)


def test_who_gives_way_lets_the_next_one_compute_and_gives_nothing_back_twice() -> None:
    line, waits = Turns(1), threading.Event()

    def wait() -> None:
        with line.take():
            give_way()
            give_way()
            waits.wait(5)

    waiting = start(wait)
    assert within(5, lambda: line._free.qsize() == 1)
    with line.take():
        assert line._free.qsize() == 0
    waits.set()
    waiting.join(5)
    assert line._free.qsize() == 1


def test_one_that_waits_unforeseen_holds_nobody_up_for_long() -> None:
    line, ended = Turns(1), threading.Event()

    def go_on() -> None:
        with line.take():
            ended.set()

    with line.take():
        waiting = start(go_on)
        line.watch()
        assert not ended.wait(0.05)  # it has only just begun
        line.watch()
        assert ended.wait(5)
        waiting.join(5)
    line.watch()
    assert line._free.qsize() == 1  # and no more than before


def test_to_give_way_without_a_turn_is_nothing() -> None:
    give_way()
