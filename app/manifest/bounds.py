"""The bounds of every number that comes from outside, and the one reader that checks them.

A model.toml, an archive's YAML, a query, a JSON body and a row of the state store give the same numbers. Each is read
here, so that no way in allows more than another.
"""

import re
from typing import NamedTuple

from app.errors import OutOfBoundsError

MAX_SHOWN = 40


class Bound(NamedTuple):
    """The least and the greatest value that a number may have, and its unit for messages."""

    low: float
    high: float
    unit: str = ""

    def describe(self) -> str:
        """Say the range: `from 1 to 64 pictures`."""
        return f"from {self.low} to {self.high} {self.unit}".rstrip()


BATCH_SIZE = Bound(1, 128)
"""Requests or pictures in one batch. TorchServe's clients ask for up to 128. Before its first batch an engine infers
every size once, 1,116 pictures for a bound of 128; a larger bound would cost callers minutes.
"""
BATCH_DELAY_MS = Bound(0, 60_000, "ms")
"""How long a batch waits for company. TorchServe's guides use 5,000 and 10,000 ms; after 60,000 ms, the default of
`SCANCER_PREDICTION_TIMEOUT_MS`, nobody waits for the answer.
"""
WORKERS = Bound(0, 256)
"""Processes of one model; `SCANCER_WORKERS` has the same upper bound."""
TIMEOUT_S = Bound(1, 86_400, "s")
"""How long a handler may load or answer; as the settings that it overrides."""
QUEUE_SIZE = Bound(1, 10_000)
"""Requests that wait for one handler; as `SCANCER_QUEUE_SIZE`."""
POOL_BOUNDS = {
    "min_workers": WORKERS,
    "max_workers": WORKERS,
    "batch_size": BATCH_SIZE,
    "max_batch_delay_ms": BATCH_DELAY_MS,
    "response_timeout_s": TIMEOUT_S,
    "startup_timeout_s": TIMEOUT_S,
    "queue_size": QUEUE_SIZE,
}
"""By field of `PoolLimits` and of `WantedVersion`."""
SIDE_PX = Bound(1, 4096, "px")
SAMPLE = Bound(0, 255)
STD = Bound(0.001, 1000)
UM_PER_PX = Bound(0.001, 10_000)
JPEG_MIN_SCALE = Bound(2, 100)
SHARE = Bound(0, 1)
TEMPERATURE, OFFSET, COVERAGE = Bound(0.01, 100), Bound(-50, 50), Bound(0.5, 0.999)
LOOK, SHAPE, LAYER = Bound(0, 255), Bound(1, 1000), Bound(0, 9999)
COUNT, COUNTED = Bound(1, 10**9), Bound(0, 10**9)
PAGE_SIZE, PAGE_TOKEN = Bound(0, 100), Bound(0, 2**31 - 1)
BEST_CLASSES = Bound(0, 2**31 - 1)
CLASS_INDEX = Bound(0, 2**31 - 1)
TENSOR_SIDE = Bound(1, 2**31 - 1)
DEADLINE_MS = Bound(0, 10**9 - 1, "ms")
BODY_BYTES = Bound(0, 10**15 - 1, "bytes")
UNLOAD_TIMEOUT_S = Bound(-1, 86_400, "s")
"""TorchServe's `timeout` of a change: how long it waits for a worker that is to end; -1 waits for ever."""


def read_whole(name: str, value: object, bound: Bound) -> int:
    """Read a whole number: an int, a float without a fraction, or a text of digits.

    Raises `OutOfBoundsError`, which calls the number `name`, if the value is no such number or out of bounds.
    """
    number = _find_number(value)
    if number is None or not bound.low <= number <= bound.high or number != int(number):
        raise refuse(name, value, f"a whole number {bound.describe()}")
    return int(number)


def read_number(name: str, value: object, bound: Bound) -> float:
    """Read a number that may have a fraction; raises `OutOfBoundsError` as `read_whole` does."""
    number = _find_number(value)
    if number is None or not bound.low <= number <= bound.high:  # not a number, NaN, is within no bounds
        raise refuse(name, value, f"a number {bound.describe()}")
    return float(number)


def _find_number(value: object) -> float | None:
    """Return the number that a value is; None if it is none, as true and false are."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def refuse(name: str, value: object, rule: str) -> OutOfBoundsError:
    """Make the error that says what was found, and what is allowed."""
    return OutOfBoundsError(f"{name}={show(value)} is not allowed: it must be {rule}")


def show(value: object) -> str:
    """Write a value from outside on one line, in ASCII, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**MAX_SHOWN:  # Python refuses to write over 4,300 digits
        return f"<over {MAX_SHOWN} digits>"
    if isinstance(value, int | float):
        return str(value)
    text = ascii(value)[1:-1] if isinstance(value, str) else f"<{type(value).__name__}>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
