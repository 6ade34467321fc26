"""One reader takes every number from outside, and refuses what is no number or out of bounds."""

from typing import Any

import pytest

from app.errors import ManifestError, OutOfBoundsError
from app.handlers.handler_archive import PoolLimits
from app.manifest.bounds import BATCH_SIZE, POOL_BOUNDS, SHARE, WORKERS, Bound, read_number, read_whole, show
from app.manifest.model_specs import BatchSpec

NAN, INFINITE = float("nan"), float("inf")
OUTSIDE = [2_000_000_000, -1, 1e9, 10**400, "9" * 65, "0" * 65, 257, "257", "-1", INFINITE, -INFINITE]
NO_NUMBERS = [True, False, None, NAN, "NaN", "1e9", "inf", "Infinity", 1.5, "1.5", "", " 1", "1\n", "١", "1_0", [1], {}]


@pytest.mark.parametrize("value", [*OUTSIDE, *NO_NUMBERS], ids=show)
def test_what_is_no_whole_number_in_bounds_is_refused_with_its_name_and_the_bounds(value: object) -> None:
    with pytest.raises(OutOfBoundsError) as caught:
        read_whole("min_worker", value, WORKERS)
    head, tail = caught.value.message.split(" is not allowed: ")
    assert head.startswith("min_worker=")
    assert tail == "it must be a whole number from 0 to 256"
    assert len(head) < 60
    assert head.isascii()


@pytest.mark.parametrize("value, shown", [("NaN", "NaN"), (True, "true"), (1e9, "1000000000.0"), (-1, "-1")])
def test_message_repeats_the_value(value: object, shown: str) -> None:
    with pytest.raises(OutOfBoundsError, match=rf"^batch_size={shown} is not allowed: "):
        read_whole("batch_size", value, BATCH_SIZE)


def test_value_that_is_long_or_no_text_is_shown_shortened() -> None:
    assert show("9" * 65) == "9" * 40 + "..."
    assert show(16**5000) == show(-(16**5000)) == "<over 40 digits>"  # Python would refuse to write it out
    assert (show([1] * 1000), show("a\x1b[31m\n")) == ("<list>", "a\\x1b[31m\\n")


@pytest.mark.parametrize("value", [0, 256, "0", "256", "+7", "007", 7.0])
def test_whole_number_in_bounds_is_read_from_a_number_and_from_digits(value: Any) -> None:
    assert read_whole("n", value, WORKERS) == int(value)
    assert type(read_whole("n", value, WORKERS)) is int


@pytest.mark.parametrize("value", [NAN, INFINITE, -0.1, 1.1, True, "0.5", None])
def test_number_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(OutOfBoundsError, match=r"it must be a number from 0 to 1$"):
        read_number("threshold", value, SHARE)


def test_number_with_a_fraction_is_read() -> None:
    assert (read_number("threshold", 0.5, SHARE), read_number("threshold", 1, SHARE)) == (0.5, 1.0)


def test_message_names_the_unit() -> None:
    with pytest.raises(ManifestError, match=r"^delay=70000 is not allowed: it must be a whole number from 0 to 9 ms$"):
        read_whole("delay", 70_000, Bound(0, 9, "ms"))


@pytest.mark.parametrize("size, delay_ms", [(2_000_000_000, 5.0), (0, 5.0), (129, 5.0), (8, 60_001.0), (8, NAN)])
def test_no_batch_of_billions_can_be_described(size: int, delay_ms: float) -> None:
    with pytest.raises(OutOfBoundsError):
        BatchSpec(size, delay_ms)


def test_largest_batch_has_few_sizes() -> None:
    assert BatchSpec(128).sizes == (*range(128, 7, -8), 7, 6, 5, 4, 3, 2, 1)


@pytest.mark.parametrize("name", POOL_BOUNDS)
def test_limits_of_a_pool_are_checked_each(name: str) -> None:
    PoolLimits().check()
    limits: dict[str, Any] = {name: 2_000_000_000}
    with pytest.raises(OutOfBoundsError, match=rf"^{name}=2000000000 is not allowed: "):
        PoolLimits(**limits).check()
