"""`SharedTable`: what one process keeps, the others find, also when one of them is killed."""

import multiprocessing
import os
import signal
import time

import pytest

from app.processes.shared_table import SLOTS_A_BUCKET, SharedTable


def test_what_was_put_is_found_until_its_time_is_over_and_after() -> None:
    table = SharedTable(4)
    key = table.hash("ada", "secret")
    assert (table.get(key), table.has(key)) == (None, False)
    table.put(key, 60.0, 7)
    kept = table.get(key)
    assert kept is not None
    assert (kept.number, kept.is_current) == (7, True)
    table.put(key, 0.0)
    assert not table.has(key)
    assert table.get(key) is not None


def test_texts_are_not_to_be_found_in_the_memory_and_no_two_tables_have_one_key() -> None:
    table = SharedTable(4)
    assert table.hash("a", "b") != table.hash("ab") != SharedTable(4).hash("ab")
    table.put(table.hash("secret"), 60.0)
    assert b"secret" not in bytes(table._memory)


def test_counts_begin_anew_after_their_time() -> None:
    table = SharedTable(4)
    key = table.hash("x")
    assert [table.add(key, 1, 60.0) for _ in range(3)] == [1, 2, 3]
    table.put(key, -1.0, 3)
    assert table.add(key, 1, 60.0) == 1


def test_where_there_is_no_room_what_ends_first_goes() -> None:
    table = SharedTable(1)
    keys = [table.hash(str(number)) for number in range(SLOTS_A_BUCKET + 1)]
    for number, key in enumerate(keys):
        table.put(key, 100.0 - number if number < SLOTS_A_BUCKET else 200.0)
    assert [key in [each for each in keys if table.has(each)] for key in keys] == [True] * 7 + [False, True]


def count(table: SharedTable, key: bytes, times: int) -> None:
    for _ in range(times):
        table.add(key, 1, 60.0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12, where there are threads
def test_processes_count_together_even_if_one_is_killed_in_the_middle() -> None:
    table, fork = SharedTable(4), multiprocessing.get_context("fork")
    key = table.hash("x")
    doomed = fork.Process(target=count, args=(table, table.hash("other"), 10**9))
    doomed.start()
    while not table.has(table.hash("other")):
        time.sleep(0.001)
    others = [fork.Process(target=count, args=(table, key, 2000)) for _ in range(2)]
    for each in others:
        each.start()
    os.kill(doomed.pid or 0, signal.SIGKILL)
    for each in (*others, doomed):
        each.join(30)
    kept = table.get(key)
    assert kept is not None
    assert kept.number == 4000
