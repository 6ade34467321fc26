"""Large JSON: what its reader gives for sound documents, and that no document costs it more than its bounds."""

import base64
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest

from app.api.request.bodies import read_instances
from app.api.request.json_documents import (
    LONG_BYTES,
    MAX_REST_BYTES,
    SLICE_BYTES,
    LongNumbers,
    LongText,
    cut_out,
    decode_text,
    read_in_turn,
    read_json,
    reading,
    write_json,
)
from app.errors import AnsweredError, BadRequestError, DeadlineError
from app.pipeline.patience import Patience, Turn

FILE = bytes(range(256)) * 4096
TEXT = base64.b64encode(FILE).decode()
ENCODED = (
    TEXT,
    TEXT.replace("/", "\\/"),
    TEXT.replace("+", "\\u002b"),
    "\\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76)),
)
BODY_BYTES = 8 * 1024 * 1024
MAX_PEAK_BYTES = 20 * 1024 * 1024
"""Beside the document; what Python makes of most of these is 60 MB to 1 GB."""
MAX_CPU_S = 8.0
"""Of a machine that traces allocations; without that it is under 0.2 s."""


def fill(unit: bytes, start: bytes = b'{"instances":[', end: bytes = b"0]}", size: int = BODY_BYTES) -> bytes:
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def restore(value: Any) -> Any:
    """Read all that the reader has left as it stands."""
    if isinstance(value, (LongText, LongNumbers)):
        return json.loads(value.to_json())
    if isinstance(value, dict):
        return {name: restore(each) for name, each in value.items()}
    return [restore(each) for each in value] if isinstance(value, list) else value


NUMBERS = [[number / 8, -number, [1e-3 * number]] for number in range(20_000)]
SOUND = {
    "texts": {"instances": [{"data": TEXT}, {"b64": "AAAA"}, {"data": TEXT}], "more": {"a": [1, "b", None, True]}},
    "escapes": {"a": TEXT.replace("/", "\\/"), "b": '"\\' * 3000, "c": "ä€😀" * 3000, "d": "\n\t\x7f" * 3000},
    "numbers": {"inputs": [{"data": NUMBERS, "shape": [1, 2, 3], "name": "x"}], "outputs": [{"name": "label"}]},
    "numbers last": {"shape": [1], "inputs": [{"name": "x" * 5000, "data": [NUMBERS, NUMBERS]}]},
    "list of lists": [NUMBERS, NUMBERS],
    "list of texts": [TEXT, TEXT],
    "empty things": {"a": [[], {}, "", [{}]], "": {"": ""}, "b": TEXT},
    "brackets in texts": {"a[": "]}" * 3000, "b": '[1,2,"' * 3000, "c": [1] * 400_000, "d": "}"},
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("indent", [None, 3])
def test_large_document_says_what_python_reads_in_it(name: str, indent: int | None) -> None:
    document = json.dumps(SOUND[name], indent=indent)
    document += " " * (MAX_REST_BYTES + 1 - len(document))
    assert restore(read_json(document.encode())) == SOUND[name]


def test_small_document_is_read_as_it_is() -> None:
    document = {"instances": [{"data": "A" * 2 * LONG_BYTES}], "numbers": list(range(LONG_BYTES))}
    assert read_json(json.dumps(document).encode()) == document


def test_long_base64_is_decoded_with_its_escapes() -> None:
    for text in ENCODED:
        [image] = read_instances(b'{"instances": [{"data": "%b"}]}' % text.encode(), 1)
        assert image == FILE
    [error] = read_instances(b'{"instances": [{"data": "%b%%"}]}' % TEXT.encode(), 1)
    assert isinstance(error, BadRequestError)
    assert error.message.startswith("instances[0].data is not base64")


def test_long_numbers_come_in_slices_of_their_own_nesting() -> None:
    [numbers] = cut_out(json.dumps({"data": NUMBERS}).encode())[1]
    assert isinstance(numbers, LongNumbers)
    slices = list(numbers.read())
    assert len(slices) > 3
    assert all(len(json.dumps(each)) < 2 * SLICE_BYTES for each in slices)

    def flat(value: Any) -> Iterator[Any]:
        return chain.from_iterable(map(flat, value)) if isinstance(value, list) else iter([value])

    assert list(flat(slices)) == list(flat(NUMBERS))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("0.5,", "0.5,,", 1),
        lambda text: text.replace("[[", "[,[", 1),
        lambda text: text.replace("]]]", "],]]", 1),
        lambda text: text.replace("],", "]],", 1),
        lambda text: text.replace("],", "],]", 1),
        lambda text: text.replace("[", "[[", 1),
        lambda text: text.replace("19999,", "19999-,", 1),
        lambda text: text.replace("19999,", "0019999,", 1),
        lambda text: text.replace("19999,", "x,", 1),
        lambda text: text.replace("19999,", "1" * 3 * SLICE_BYTES + ",", 1),
    ],
)
def test_long_numbers_that_are_none_are_refused(damage: Callable[[str], str]) -> None:
    text = damage(json.dumps(NUMBERS, separators=(",", ":")))
    with pytest.raises(BadRequestError):
        for _ in LongNumbers(text.encode(), 0, len(text)).read():
            pass


@pytest.mark.parametrize("place", range(0, SLICE_BYTES * 3, 9973))
def test_comma_without_a_value_is_found_wherever_the_numbers_are_cut(place: int) -> None:
    text = b"[" + b"1," * (SLICE_BYTES * 2) + b"1]"
    place = place // 2 * 2 + 1
    for broken in (text[:place] + b"," + text[place:], text[:-2] + b"]", b"[," + text[1:]):
        with pytest.raises(BadRequestError):
            list(LongNumbers(broken, 0, len(broken)).read())


@pytest.mark.parametrize(
    "rest",
    [b'{"a": NaN, "b": "%b"}', b'{"a": "%b", "b": NaN}', b'{"a": Infinity, "b": "%b"}', b'{"a": "%b", "b": -Infinity}'],
)
def test_what_python_takes_for_a_number_is_not_mistaken_for_what_was_cut_out(rest: bytes) -> None:
    with pytest.raises(BadRequestError, match="not JSON"):
        read_json(rest % TEXT.encode())


@pytest.mark.parametrize("end", [b"", b'"', b'"}', b'"]}x', b'\\"]}'])
def test_large_document_that_is_cut_off_is_refused(end: bytes) -> None:
    with pytest.raises(BadRequestError, match=r"^The body is not JSON; send it whole\.$"):
        read_json(b'{"instances": ["' + TEXT.encode() + end, "send it whole")


COSTLY: dict[str, Callable[[], bytes]] = {
    "objects": lambda: fill(b"{},"),
    "lists": lambda: fill(b"[],"),
    "lists of one": lambda: fill(b"[1],"),
    "objects of one": lambda: fill(b'{"a":1},'),
    "texts": lambda: fill(b'"ab",'),
    "empty texts": lambda: fill(b'"",'),
    "numbers": lambda: fill(b"1e1,"),
    "numbers of many digits": lambda: fill(b"9" * 4000 + b","),
    "one number": lambda: fill(b"9", b"[0.", b"]"),
    "keys": lambda: b"{" + b",".join(b'"%x":1' % number for number in range(BODY_BYTES // 11)) + b"}",
    "deep lists": lambda: fill(b"[", b"", b""),
    "deep lists that end": lambda: b"[" * (BODY_BYTES // 2) + b"]" * (BODY_BYTES // 2),
    "deep objects": lambda: fill(b'{"a":', b"", b""),
    "white space": lambda: fill(b" "),
    "white space in numbers": lambda: fill(b" " * 50 + b"1,"),
    "escaped marks": lambda: fill(b'\\"', b'{"instances":["', b'"]}'),
    "backslashes": lambda: fill(b"\\\\", b'{"instances":["', b'"]}'),
    "texts of 5 kB": lambda: fill(b'"' + b"A" * 5000 + b'",'),
    "data of one": lambda: fill(b'{"data":""},'),
    "no JSON": lambda: fill(b"\x89PNG", b"", b""),
    "quotation marks": lambda: fill(b'"', b"", b""),
    "commas": lambda: fill(b",", b"[", b"]"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_no_document_costs_more_than_its_bounds(name: str) -> None:
    body = COSTLY[name]()
    tracemalloc.start()
    started = time.thread_time()
    try:
        with pytest.raises(AnsweredError):
            read_instances(body, 64)
        spent_s, peak = time.thread_time() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES
    assert spent_s < MAX_CPU_S


@pytest.mark.parametrize("unit", [b"{},", b"[1],", b'{"":1},', b'"ab",', b"1e1,"])
def test_largest_document_that_python_reads_has_its_bounds_too(unit: bytes) -> None:
    body = fill(unit, size=MAX_REST_BYTES)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError, match="at most 64 are taken"):
            read_instances(body, 64)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_PEAK_BYTES
    finally:
        tracemalloc.stop()


def test_value_is_written_as_it_was_read() -> None:
    document = {"long": TEXT, "inner": {"b64": TEXT, "n": [1, 2]}, "numbers": NUMBERS, "short": "ä"}
    read = read_json(json.dumps(document).encode())
    for name, value in read.items():
        assert json.loads(write_json(value, name)) == document[name]
    with pytest.raises(BadRequestError, match=r"^instances\[0\]\.a holds a long list of numbers inside"):
        write_json({"data": read["numbers"]}, "instances[0].a")


def test_long_text_and_a_short_one_are_decoded_alike() -> None:
    read = read_json(json.dumps({"long": TEXT}).encode())
    assert decode_text(read["long"], "x") == decode_text(TEXT, "x") == FILE
    for value in (read, None, 5):
        with pytest.raises(BadRequestError, match=r"^x must be a text"):
            decode_text(value, "x")


def test_large_documents_take_turns_and_the_largest_wait_for_pictures_too() -> None:
    soon = time.perf_counter() + 0.05
    with reading:
        with read_in_turn(1000, Patience(soon)), read_in_turn(BODY_BYTES, Patience(soon)):
            pass
        with pytest.raises(DeadlineError), read_in_turn(MAX_REST_BYTES, Patience(soon)):
            pass
    with Turn() as turn:
        turn.wait()
        with read_in_turn(MAX_REST_BYTES, Patience(soon)):
            assert reading.locked()
        with pytest.raises(DeadlineError), read_in_turn(BODY_BYTES, Patience(soon)):
            pass
    assert not reading.locked()
    assert not Turn._large.locked()
