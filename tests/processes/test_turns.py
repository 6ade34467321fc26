"""Turns at the processor: a few at a time, the others are called when they may try again, and no thread waits."""

import threading
from collections.abc import Callable

from app.processes.turns import Turns, give_way


def make(at_once: int, comes: Callable[[str], bool] = lambda _: True) -> tuple[Turns[str], list[str]]:
    called: list[str] = []

    def resume(who: str) -> bool:
        called.append(who)
        return comes(who)

    return Turns(at_once, resume), called


def in_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_so_many_have_a_turn_and_the_others_are_called_in_their_order() -> None:
    line, called = make(1)
    assert line.take("one")
    assert not line.take("two")
    assert not line.take("three")
    give_way()
    assert called == ["two"]
    assert line.take("two")
    give_way()
    assert called == ["two", "three"]


def test_newcomers_are_called_in_alternation_with_the_others() -> None:
    line, called = make(1)
    assert line.take("one")
    for who in ("again 1", "again 2", "again 3"):
        assert not line.take(who)
    for who in ("new 1", "new 2"):
        assert not line.take(who, is_new=True)
    for _ in range(5):
        give_way()
        assert line.take("somebody")
    assert called == ["new 1", "again 1", "new 2", "again 2", "again 3"]
    give_way()


def test_who_gives_way_twice_gives_back_one_turn() -> None:
    line, _ = make(1)
    assert line.take("one")
    give_way()
    give_way()
    assert line.take("two")
    assert not line.take("three")


def test_who_went_meanwhile_is_passed_over() -> None:
    line, called = make(1, lambda who: who != "gone")
    assert line.take("one")
    for who in ("gone", "gone", "two"):
        assert not line.take(who)
    give_way()
    assert called == ["gone", "gone", "two"]


def test_those_in_line_go_on_one_after_the_other_while_a_turn_is_stuck() -> None:
    line, called = make(1)
    in_thread(lambda: line.take("stuck"))
    for number in range(5):
        assert not line.take(str(number))
    line.watch()
    assert called == []  # it may have been taken just now
    line.watch()
    assert called == ["0"]
    for number in range(5):
        assert line.take(str(number))
        give_way()
    assert called == ["0", "1", "2", "3", "4"]


def test_turn_that_was_stuck_is_one_too_many_once_it_is_given_back() -> None:
    line, _ = make(1)
    stuck, ended = threading.Event(), threading.Event()

    def hold() -> None:
        line.take("stuck")
        stuck.set()
        ended.wait(5)
        give_way()

    thread = threading.Thread(target=hold)
    thread.start()
    stuck.wait(5)
    assert not line.take("next")
    line.watch()
    line.watch()
    ended.set()
    thread.join()
    assert line.take("next")
    assert not line.take("another")
    give_way()


def test_somebody_who_was_called_and_never_came_holds_nobody_up() -> None:
    line, called = make(1)
    assert line.take("one")
    for who in ("lost", "two"):
        assert not line.take(who)
    give_way()
    assert called == ["lost"]
    line.watch()
    line.watch()
    assert called == ["lost", "two"]


def test_to_give_way_without_a_turn_is_nothing() -> None:
    give_way()
