"""The supervised pool: handlers answer, fail, die, hang and come back, and cost nobody else anything."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import DeadlineError, ModelProcessError
from app.handlers.client.pool_client import PoolClient
from app.handlers.handler_archive import HandlerArchive, read_archive
from app.handlers.manager.pool_manager import Manager
from app.handlers.manager_folder import has_manager, sweep, take_lock
from app.pipeline.patience import ENDLESS
from app.processes.frames import encode, read_message
from tests.conftest import within
from tests.handlers.archives import make_archive
from tests.handlers.fixtures import Ask, has_ended

Start = Callable[..., HandlerArchive]

ECHO = """
import os

def handle(data, context):
    if data is None:
        return None
    return [{"text": row["body"], "batch": len(data), "pid": os.getpid()} for row in data]
"""
NAUGHTY = """
import ctypes, os, time

def handle(data, context):
    if data is None:
        return None
    order = data[0]["body"]
    if order == "crash":
        ctypes.string_at(0)
    if order == "endless":
        while True:
            pass
    if order == "hog":
        bytearray(64 * 1024 * 1024 * 1024)
    if order == "exit":
        os._exit(3)
    if order == "raise":
        raise ValueError("secret of a patient")
    if order == "cuda":
        raise RuntimeError("CUDA error: out of memory")
    return {
        "short": [], "dict": {"a": 1}, "object": [object()], "text": ["plain"], "bytes": [b"\\x00\\xff"],
        "number": [7], "nothing": None,
    }.get(order, [os.getpid()])
"""
SLOW = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep(0.3)
    return [row["body"] for row in data]
"""
DEAD = {"status": 500, "error": "Worker died."}


def error_of(answer: object) -> dict[str, object]:
    assert isinstance(answer, tuple)
    return answer[0]


def test_module_function_is_called_once_without_data_and_then_answers(start: Start, ask: Ask) -> None:
    archive = start("calls = []\ndef handle(data, context):\n    calls.append(data)\n    return [str(calls[0])]\n")
    assert ask(archive) == ({"status": 200, "phrase": "", "headers": []}, b"None")


@pytest.mark.parametrize(
    ("order", "answer"),
    [
        ("raise", {"status": 503, "error": "Prediction failed"}),
        ("cuda", {"status": 507, "error": "Out of resources"}),
        ("hog", {"status": 507, "error": "Out of resources"}),
        ("short", {"status": 503, "error": "number of batch response mismatched"}),
        ("dict", {"status": 503, "error": "Invalid model predict output"}),
        ("nothing", {"status": 503, "error": "Invalid model predict output"}),
        ("object", {"status": 503, "error": "Unsupported model output data type."}),
        ("crash", DEAD),
        ("exit", DEAD),
        ("endless", DEAD),
    ],
)
def test_failure_is_answered_as_torchserve_does_and_the_next_request_is_served(
    start: Start, ask: Ask, order: str, answer: dict[str, object]
) -> None:
    archive = start(NAUGHTY, responseTimeout=1 if order == "endless" else 30)
    assert error_of(ask(archive, order)) == answer
    assert ask(archive, "number") == ({"status": 200, "phrase": "", "headers": []}, b"7")


@pytest.mark.parametrize(("order", "body"), [("text", b"plain"), ("bytes", b"\x00\xff"), ("number", b"7")])
def test_items_are_sent_as_they_are_or_as_json(start: Start, ask: Ask, order: str, body: bytes) -> None:
    assert ask(start(NAUGHTY), order) == ({"status": 200, "phrase": "", "headers": []}, body)


def test_answer_in_several_parts_is_sent_whole(start: Start, ask: Ask) -> None:
    code = """
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    for word in ("one ", "two "):
        send_intermediate_predict_response([word] * len(data), context.request_ids, "ok", 200, context)
    return ["three"] * len(data)
"""
    archive = start(code)
    for _ in range(2):
        assert ask(archive) == ({"status": 200, "phrase": "", "headers": []}, b"one two three")


def test_text_of_a_handlers_exception_is_in_no_log(start: Start, ask: Ask, capfd: pytest.CaptureFixture[str]) -> None:
    archive = start(NAUGHTY)
    ask(archive, "raise")
    log = capfd.readouterr().err
    assert "ValueError at" in log
    assert "handler.py:18" in log
    assert "secret" not in log


@pytest.mark.alone
def test_endless_loop_costs_another_model_nothing(start: Start, ask: Ask) -> None:
    bad, good = start(NAUGHTY, name="bad", responseTimeout=3), start(ECHO, name="good")
    with ThreadPoolExecutor() as threads:
        hanging = threads.submit(ask, bad, "endless")
        started = time.monotonic()
        for _ in range(50):
            assert error_of(ask(good, "x"))["status"] == 200
        assert time.monotonic() - started < 2
        assert not hanging.done()
        assert error_of(hanging.result(10)) == DEAD


@pytest.mark.alone
def test_four_workers_serve_four_at_a_time(start: Start, ask: Ask) -> None:
    archive = start(SLOW, minWorkers=4, maxWorkers=4)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda index: ask(archive, str(index)), range(8)))
    took_s = time.monotonic() - started
    assert [answer[1] for answer in answers if answer] == [str(index).encode() for index in range(8)]
    assert 0.6 <= took_s < 1.8  # two rounds of 300 ms; one worker would take 2.4 s


@pytest.mark.alone
def test_answer_tells_how_long_it_waited_and_was_worked_on(pools: PoolClient, start: Start) -> None:
    archive = start(SLOW)
    request = {"id": "id-1", "headers": {}, "parts": [{"name": "body", "type": "text/plain"}]}
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(pools.predict, archive, request, [b"x"], ENDLESS) for _ in range(2)]
        told = [error_of(each.result(10)) for each in asked]
    waits = sorted(float(str(header["queue_s"])) for header in told)
    assert waits[0] < 0.2 < waits[1]
    assert all(0.3 <= float(str(header["handler_s"])) < 3 for header in told)


def test_killed_worker_is_back_within_five_seconds(pools: PoolClient, start: Start, ask: Ask) -> None:
    archive = start(ECHO)
    for size in (1, 1_000_000):
        [worker] = pools.describe(archive)["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        started = time.monotonic()
        answer = ask(archive, "x" * size)
        assert time.monotonic() - started < 5
        assert answer is not None
        assert json.loads(answer[1])["pid"] != worker["pid"]


def test_requests_that_come_together_are_one_batch(start: Start, ask: Ask) -> None:
    archive = start(ECHO, batchSize=4, maxBatchDelay=5000)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda index: ask(archive, str(index)), range(4)))
    documents = [json.loads(answer[1]) for answer in answers if answer]
    assert [document["text"] for document in documents] == list("0123")
    assert max(document["batch"] for document in documents) > 1
    assert time.monotonic() - started < 4


@pytest.mark.alone
def test_lone_request_does_not_wait_for_a_full_batch(start: Start, ask: Ask) -> None:
    archive = start(ECHO, batchSize=8, maxBatchDelay=20000)
    started = time.monotonic()
    assert error_of(ask(archive))["status"] == 200
    assert time.monotonic() - started < 2


def test_scaling_adds_and_ends_workers_while_requests_are_answered(pools: PoolClient, start: Start, ask: Ask) -> None:
    archive = start(ECHO)
    stop, failed = threading.Event(), []

    def keep_asking() -> None:
        while not stop.is_set():
            answer = ask(archive, "x")
            if answer is None or answer[0]["status"] != 200:
                failed.append(answer)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    for least, most in ((3, 3), (1, 1), (2, 4), (1, 1)):
        pools.scale(archive, min_workers=least, max_workers=most)
        assert len(pools.describe(archive)["workers"]) == least
    stop.set()
    asking.join()
    assert failed == []


def test_model_without_workers_is_told_apart(pools: PoolClient, start: Start, ask: Ask) -> None:
    archive = start(ECHO)
    pools.scale(archive, min_workers=0, max_workers=0)
    assert ask(archive) is None
    pools.scale(archive, min_workers=1, max_workers=1)
    assert error_of(ask(archive))["status"] == 200


@pytest.mark.parametrize("name", ["min_workers", "max_workers", "batch_size"])
def test_manager_refuses_a_limit_out_of_bounds_and_goes_on(
    pools: PoolClient, start: Start, ask: Ask, name: str
) -> None:
    archive = start(ECHO)
    with pytest.raises(ModelProcessError, match=rf"^{name}=2000000000 is not allowed: it must be a whole number from "):
        pools.scale(archive, **{name: 2_000_000_000})
    assert error_of(ask(archive))["status"] == 200
    assert len(pools.describe(archive)["workers"]) == 1
    limits: dict[str, int] = {name: 2_000_000_000}
    greedy = replace(archive, identity="another", limits=replace(archive.limits, **limits))  # type: ignore[arg-type]
    with pytest.raises(ModelProcessError, match=rf"^{name}=2000000000 is not allowed: "):
        pools.register(greedy)
    assert pools.describe(greedy) == {}


def test_line_is_bounded(start: Start, ask: Ask) -> None:
    archive = start(SLOW, jobQueueSize=2)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(archive), range(8)))
    assert 2 <= sum(answer is not None for answer in answers) <= 4
    assert None in answers


def test_caller_who_gives_up_leaves_the_line(pools: PoolClient, start: Start, ask: Ask) -> None:
    archive = start(SLOW)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(ask, archive, "first")
        time.sleep(0.1)
        with pytest.raises(DeadlineError):
            ask(archive, "second", timeout_s=0.05)
        time.sleep(0.05)
        assert pools.describe(archive)["waiting"] == 0
        assert first.result() is not None


def test_handler_that_cannot_be_loaded_gives_its_reason(start: Start) -> None:
    with pytest.raises(ModelProcessError, match="ModuleNotFoundError: No module named 'no_such_package'"):
        start("import no_such_package\n")


@pytest.mark.parametrize(
    "fault, reason",
    [
        (
            "os.kill(os.getpid(), 9)",
            r"killed \(SIGKILL\): most likely out of memory \(limit \d+ bytes: SCANCER_MODEL_",
        ),
        (
            "os.kill(os.getpid(), 11)",
            r"crashed \(SIGSEGV\): perhaps a library got no more memory \(limit \d+ bytes: ",
        ),
        ("os._exit(3)", "ended with code 3 and told no reason"),
    ],
)
def test_handler_that_ends_by_itself_says_how(start: Start, fault: str, reason: str) -> None:
    with pytest.raises(ModelProcessError, match=reason):
        start(f"import os\n{fault}\n")


def test_killed_manager_is_started_anew_with_its_models_as_they_were_scaled(
    pools: PoolClient, start: Start, ask: Ask
) -> None:
    archive = start(ECHO)
    pools.scale(archive, min_workers=2, max_workers=3)
    before = json.loads(ask(archive, "x")[1])["pid"]  # type: ignore[index]
    manager = pools.link.manager
    assert manager is not None
    manager.kill()
    manager.wait()
    answer = ask(archive, "x")
    assert answer is not None
    assert json.loads(answer[1])["pid"] != before
    assert has_ended(before)
    pool = pools.describe(archive)
    assert (pool["min_workers"], pool["max_workers"], len(pool["workers"])) == (2, 3, 2)


def test_killed_manager_is_replaced_also_if_nobody_asks(pools: PoolClient, start: Start) -> None:
    archive = start(ECHO)
    manager = pools.link.manager
    assert manager is not None
    manager.kill()
    assert within(5, lambda: pools.link.manager is not manager and has_manager(pools.link.folder))
    assert within(5, lambda: any(each["state"] == "READY" for each in pools.describe(archive)["workers"]))


def test_manager_ends_when_its_last_client_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def live() -> float:
        serving = asyncio.create_task(Manager(linger_s=0.3).serve(path))
        while not path.exists():
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(encode({"operation": "attach", "client": "c"}))
        await read_message(reader)
        await asyncio.sleep(0.6)
        assert not serving.done()
        writer.close()
        started = time.monotonic()
        await serving
        return time.monotonic() - started

    took_s = asyncio.run(live())
    assert 0.2 < took_s < 2


def test_several_clients_share_one_pool_and_the_last_one_ends_it(pools: PoolClient, start: Start, ask: Ask) -> None:
    archive = start(ECHO)
    other = PoolClient(pools._settings)
    other.register(archive)
    [worker] = other.describe(archive)["workers"]
    assert pools.describe(archive)["workers"] == [worker]
    other.unregister(archive)
    assert error_of(ask(archive))["status"] == 200
    assert pools.describe(archive)["workers"] == [worker]
    pools.unregister(archive)
    assert has_ended(worker["pid"])
    assert ask(archive) is None
    other.close()


def test_pool_that_ends_answers_whom_it_works_for(pools: PoolClient, start: Start, ask: Ask) -> None:
    archive = start(SLOW)
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(ask, archive)
        assert within(5, lambda: pools.describe(archive)["working"] == 1)
        pools.unregister(archive)
        assert error_of(asking.result(5)) == DEAD


def test_request_in_work_is_answered_when_all_processes_are_told_to_end(
    pools: PoolClient, start: Start, ask: Ask
) -> None:
    archive = start(SLOW)
    manager = pools.link.manager
    assert manager is not None
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(ask, archive, "x")
        assert within(5, lambda: pools.describe(archive)["working"] == 1)
        for process in (manager.pid, pools.describe(archive)["workers"][0]["pid"]):
            os.kill(process, signal.SIGTERM)
        assert asking.result(5) is not None
        assert error_of(asking.result())["status"] == 200
    pools.close()
    assert manager.wait(5) == 0


def test_start_that_nobody_waits_for_any_more_is_given_up(pools: PoolClient, start: Start) -> None:
    archive = start(ECHO)
    slow = make_archive(archive.path.parents[2], "slow", "h.py", {"h.py": "import time\ntime.sleep(60)\n"})
    starting = read_archive(slow, "slow", "1.0")
    with ThreadPoolExecutor() as threads:
        done = threads.submit(pools.register, starting)
        assert within(5, lambda: any(each["pid"] for each in pools.describe(starting).get("workers", ())))
        pools.abort(starting)
        with pytest.raises(ModelProcessError, match="told to end"):
            done.result(5)
    assert pools.describe(starting) == {}


def test_what_killed_managers_left_is_removed_and_what_is_in_use_is_not(pools: PoolClient, start: Start) -> None:
    start(ECHO)
    instance = pools._settings.instance
    (instance / "handlers-1").mkdir()
    (instance / "handlers-2").mkdir()
    (instance / "handlers-2/lock").touch()
    sweep(pools._settings)
    assert [path.name for path in instance.glob("handlers-*")] == [pools.link.folder.name]
    assert has_manager(pools.link.folder)


def test_lock_of_a_folder_that_was_removed_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    first = take_lock(folder)
    assert first is not None
    assert take_lock(folder) is None
    shutil.rmtree(folder)
    second = take_lock(folder)
    assert second is not None
    assert has_manager(folder)
    os.close(first)
    assert has_manager(folder)
    os.close(second)
    assert not has_manager(folder)
