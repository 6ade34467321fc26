"""Reads JSON whose cost is bounded, whatever is sent: long texts and long lists of numbers stay bytes.

`json.loads` makes up to 40 bytes of each byte, and lets no other thread run meanwhile: a request for health, which lets
others go first several times, would wait as often. So it gets 256 KiB at most.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.base64_fields import decode_base64, decode_base64_bytes
from app.config.settings import KIB, MIB
from app.errors import BadRequestError
from app.pipeline.patience import Patience, Turn

MAX_REST_BYTES = 256 * KIB
"""JSON that becomes Python's objects; at worst it takes 8 MB and 12 ms."""
LONG_BYTES = 4 * KIB
"""In a larger document, texts and lists of numbers from this size on are cut out."""
MAX_TEXTS = 20_000
"""Texts in a larger document; to pass over one takes two microseconds."""
MAX_BACKSLASHES = 64
"""In a row: each pair stands for one backslash, of which base64 has none."""
SLICE_BYTES, MAX_DEPTH = 64 * KIB, 32
"""Numbers that are read at a time, and lists of them in one another."""
CUT_OUT = b"NaN"  # no JSON (RFC 8259, section 6), but Python's reader asks us for its value
TURN_BYTES, LARGE_BYTES = 32 * KIB, MIB
"""From these sizes on, documents are read one at a time in a worker, and beside no large picture. What 128 smaller ones
become is 160 MB at worst.
"""
NOT_JSON = "The body is not JSON."
TOO_MUCH = f"The JSON holds more than {MAX_REST_BYTES} bytes beside its base64 and its lists of numbers."
reading = threading.Lock()
AT_ONCE = nullcontext()


@dataclass(frozen=True, slots=True)
class LongText:
    """A text in a JSON document: what stands from `start` to `end`, between its quotation marks."""

    document: bytes
    start: int
    end: int

    def to_bytes(self) -> bytes:
        """Return the text in UTF-8; raises `BadRequestError` for an escape sequence that is none."""
        if self.document.find(b"\\", self.start, self.end) < 0:
            return self.document[self.start : self.end]
        return str(load(self.to_json())).encode(errors="surrogatepass")

    def to_json(self) -> bytes:
        """Return the text as it stands in the document, with its quotation marks."""
        return self.document[self.start - 1 : self.end + 1]


@dataclass(frozen=True, slots=True)
class LongNumbers:
    """A list of numbers in a JSON document, flat or nested, from its first bracket to its last."""

    document: bytes
    start: int
    end: int

    def read(self) -> Iterator[list[Any]]:
        """Yield the numbers in slices, each nested as it stands there. Raises `BadRequestError` for what is no list."""
        depth, place = 0, self.start
        while place < self.end:
            end = self.document.find(b",", place + SLICE_BYTES, self.end)
            end = self.end if end < 0 else end
            text = self.document[place:end].strip()
            opened = depth + text.count(b"[") - text.count(b"]")
            is_cut_off = text.startswith(b"]") or text.endswith(b"[")  # a comma stands there, and no value
            if is_cut_off or len(text) > 2 * SLICE_BYTES or not 0 <= opened <= MAX_DEPTH:
                raise BadRequestError(NOT_JSON)
            yield load(b"[" * depth + text + b"]" * opened)
            depth, place = opened, end + 1
        if depth:
            raise BadRequestError(NOT_JSON)

    def count(self) -> int:
        """Return how many numbers there are, if this is a list of numbers."""
        places = range(self.start, self.end, MIB)
        return 1 + sum(self.document.count(b",", place, min(place + MIB, self.end)) for place in places)

    def to_json(self) -> bytes:
        """Return the list as it stands in the document."""
        return self.document[self.start : self.end]


def read_in_turn(length: int, patience: Patience) -> AbstractContextManager[None]:
    """Read a document of so many bytes while no other large one is read. Entering raises `DeadlineError` if the turn
    comes late, `ServiceUnavailableError` if too many wait.
    """
    if length <= TURN_BYTES:
        return AT_ONCE
    return patience.hold(reading) if length <= LARGE_BYTES else take_large_turn(patience)


@contextmanager
def take_large_turn(patience: Patience) -> Iterator[None]:
    """Read beside no large picture, nor another large document; raises as `read_in_turn`."""
    with Turn(patience) as turn:
        turn.wait()
        yield


def read_json(document: bytes, help_text: str = "") -> Any:
    """Read a document. If it is over 256 KiB, its long texts are `LongText`, its long lists of numbers `LongNumbers`.

    Raises `BadRequestError`, whose message ends with `help_text`, for what is no JSON, and for too much.
    """
    try:
        return load(document) if len(document) <= MAX_REST_BYTES else load(*cut_out(document))
    except BadRequestError as error:
        raise BadRequestError(error.message.removesuffix(".") + (f"; {help_text}." if help_text else ".")) from None


def load(document: bytes, values: list[LongText | LongNumbers] | None = None) -> Any:
    """Have Python read a short document, in which `values` were cut out; raises `BadRequestError`."""
    rest = iter(values or ())

    def put_back(name: str) -> LongText | LongNumbers:
        value = next(rest, None)
        if value is None or name != CUT_OUT.decode():
            raise ValueError(name)
        return value

    try:
        return json.loads(document) if values is None else json.loads(document, parse_constant=put_back)
    except (ValueError, RecursionError):
        raise BadRequestError(NOT_JSON) from None


def cut_out(document: bytes) -> tuple[bytes, list[LongText | LongNumbers]]:
    """Cut long values out of a document; return what is left, and the values in order. Raises `BadRequestError`."""
    left: list[bytes] = []
    values: list[LongText | LongNumbers] = []
    place = 0
    for _ in range(MAX_TEXTS):
        start = document.find(b'"', place)
        values += cut_numbers(document, place, len(document) if start < 0 else start, left)
        if start < 0:
            break
        place = find_end(document, start + 1) + 1
        if place - start > LONG_BYTES:
            values.append(LongText(document, start + 1, place - 1))
            left.append(CUT_OUT)
        else:
            left.append(document[start:place])
    if start >= 0 or sum(map(len, left)) > MAX_REST_BYTES:
        raise BadRequestError(TOO_MUCH)
    return b"".join(left), values


def cut_numbers(document: bytes, start: int, end: int, left: list[bytes]) -> list[LongNumbers]:
    """Cut a long list out of a stretch without texts; what is left of the stretch is added to `left`."""
    first = last = -1
    if end - start > LONG_BYTES:
        first, after = document.find(b"[", start, end), document.find(b"}", start, end)
        last = document.rfind(b"]", start, end if after < 0 else after) + 1
    if first < 0 or last - first <= LONG_BYTES:
        left.append(document[start:end])
        return []
    left += document[start:first], CUT_OUT, document[last:end]
    return [LongNumbers(document, first, last)]


def find_end(document: bytes, start: int) -> int:
    """Find the quotation mark that ends the text which begins at `start`; raises `BadRequestError` if there is none."""
    place = start
    for _ in range(MAX_TEXTS):
        end = document.find(b'"', place)
        if end < 0:
            raise BadRequestError(NOT_JSON)
        before = document[max(start, end - MAX_BACKSLASHES) : end]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes == MAX_BACKSLASHES:
            break
        if backslashes % 2 == 0:
            return end
        place = end + 1
    raise BadRequestError(TOO_MUCH)


def flatten(values: list[Any]) -> tuple[list[Any], int]:
    """Flatten a nested list; return it, and how deeply it was nested. Raises `BadRequestError` if that is uneven."""
    depth = 0
    while list in (types := set(map(type, values))):
        if len(types) > 1:
            raise BadRequestError("The input's data is nested unevenly.")
        values, depth = list(chain.from_iterable(values)), depth + 1
    return values, depth


def decode_text(value: Any, field: str) -> bytes:
    """Decode base64 that is a text of a document; raises as `decode_base64`."""
    return decode_base64_bytes(value.to_bytes(), field) if isinstance(value, LongText) else decode_base64(value, field)


def write_json(value: Any, place: str) -> bytes:
    """Write a value of a document anew. Raises `BadRequestError`, which names the `place`, for a long list of numbers
    inside it: as Python's objects it would take too much memory.
    """

    def write_inner(inner: LongText | LongNumbers) -> str:
        if isinstance(inner, LongText):
            return inner.to_bytes().decode(errors="surrogatepass")
        raise BadRequestError(f"{place} holds a long list of numbers inside another value; send the list by itself.")

    if isinstance(value, (LongText, LongNumbers)):
        return value.to_json()
    return json.dumps(value, default=write_inner).encode()
