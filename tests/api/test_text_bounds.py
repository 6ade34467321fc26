"""What the texts of a form or of base64 cost while they are read: no more than a few times their bytes."""

import base64
import os
import time
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest

from app.api.predict.classifier_predictions import read_picture
from app.api.predict.handler_predictions import Part
from app.api.request.bodies import is_json, refuse_remains
from app.api.request.forms import (
    PIECE_BYTES,
    find_pictures,
    find_urlencoded_pictures,
    is_text,
    read_form,
    read_pairs,
    unquote,
)
from app.base64_fields import decode_base64_bytes, unwrap_picture
from app.errors import AnsweredError, BadRequestError

pytestmark = pytest.mark.slow

BODY_BYTES = 8 * 1024 * 1024
MAX_PEAK_BYTES, MAX_CPU_S = 4 * BODY_BYTES, 8.0


def fill(unit: bytes, start: bytes = b"", end: bytes = b"") -> bytes:
    return start + unit * ((BODY_BYTES - len(start) - len(end)) // len(unit)) + end


def make_form(head: bytes, count: int = 1, value: bytes = b"") -> bytes:
    start = b'--x\r\nContent-Disposition: form-data; name="a"\r\n'
    return (start + head + b"\r\n\r\n" + value + b"\r\n") * count + b"--x--\r\n"


def is_prefix_read(body: bytes) -> None:
    """Read how a body begins, as is done with each."""
    is_json("", body)
    refuse_remains(body)
    unwrap_picture(body, "x")


COSTLY: dict[str, tuple[Callable[[bytes], object], Callable[[], bytes]]] = {
    "escapes in a form": (read_pairs, lambda: fill(b"%41", b"a=")),
    "plus signs in a form": (find_urlencoded_pictures, lambda: fill(b"+", b"a=")),
    "fields": (read_pairs, lambda: fill(b"a=&")),
    "fields without a value": (read_pairs, lambda: fill(b"&")),
    "fields of pictures": (find_urlencoded_pictures, lambda: fill(b"a=&")),
    "escapes in a data URL": (lambda body: decode_base64_bytes(body, "x"), lambda: fill(b"%41", b"data:;base64,")),
    "spaces in base64": (lambda body: decode_base64_bytes(body, "x"), lambda: fill(b"AA ")),
    "line ends in base64": (lambda body: decode_base64_bytes(body, "x"), lambda: fill(b"A\n")),
    "a rare character": (is_text, lambda: fill(b"a", "\N{HEADSTONE GRAVEYARD SYMBOL}".encode())),
    "rare characters": (is_text, lambda: fill("\N{HEADSTONE GRAVEYARD SYMBOL}".encode())),
    "white space": (is_prefix_read, lambda: fill(b" ")),
    "line ends": (is_prefix_read, lambda: fill(b"\r\n")),
    "JSON for an archive": (
        lambda body: read_picture([Part("body", "application/json", body)]),
        lambda: fill(b"{},", b"[", b"0]"),
    ),
    "white space for an archive": (
        lambda body: read_picture([Part("body", "application/json", body)]),
        lambda: fill(b" "),
    ),
    "text for an archive": (lambda body: read_picture([Part("body", "text/plain", body)]), lambda: fill(b"A ")),
    "header lines of a part": (lambda body: read_form(body, "x", 64), lambda: make_form(fill(b"a: b\r\n"))),
    "header lines of many parts": (
        lambda body: read_form(body, "x", 64),
        lambda: make_form(b"a: b\r\n" * 1300, count=BODY_BYTES // 8000),
    ),
    "a header without an end": (lambda body: read_form(body, "x", 64), lambda: make_form(fill(b"a"))),
    "what stands before a form": (lambda body: read_form(body, "x", 64), lambda: fill(b"\r\n", end=make_form(b""))),
    "parts": (lambda body: read_form(body, "x", 64), lambda: make_form(b"", count=BODY_BYTES // 60)),
    "line ends in a part": (
        lambda body: find_pictures(read_form(body, "x", 64)),
        lambda: make_form(b"", value=fill(b"\r\n")),
    ),
    "half boundaries in a part": (
        lambda body: find_pictures(read_form(body, "x", 64)),
        lambda: make_form(b"", value=fill(b"\r\n--x-")),
    ),
}


@pytest.mark.parametrize("name", COSTLY)
def test_no_text_costs_more_than_its_bounds(name: str) -> None:
    read, make = COSTLY[name]
    body = make()
    tracemalloc.start()
    started = time.thread_time()
    try:
        read(body)
    except AnsweredError:
        pass  # most are refused, but what counts is at what cost
    finally:
        spent_s, peak = time.thread_time() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES
    assert spent_s < MAX_CPU_S


def test_part_with_megabytes_of_header_lines_is_refused_with_the_limit() -> None:
    with pytest.raises(BadRequestError, match="head of a part of the form is longer than 8192 bytes"):
        read_form(make_form(fill(b"a: b\r\n")), "x", 64)


@pytest.mark.parametrize("shift", range(4))
def test_escapes_are_undone_wherever_the_pieces_are_cut(shift: int) -> None:
    data = b"a" * shift + os.urandom(PIECE_BYTES) + b"%" * 7 + b"%4" * 5
    for text in (quote_from_bytes(data).encode(), data, b"%" * PIECE_BYTES * 2, b"a" * (PIECE_BYTES - shift) + b"%41%"):
        assert unquote(text) == unquote_to_bytes(text)
    text = quote_from_bytes(base64.b64encode(data)).encode()
    assert decode_base64_bytes(b"data:image/png;base64," + text, "x") == data
