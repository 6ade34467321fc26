"""The population stability index, and what chance makes of it."""

import numpy as np
import pytest

from app.histograms import DISTANCE_EDGES, SCORE_EDGES, count_bins, measure_shift, undo_sums
from app.metrics import SCORES, Metrics, Totals
from app.watch.drift import read_counts

SHARES = np.array([30, 22, 11, 8, 6, 5, 4, 4, 4, 6, 0]) / 100


def test_a_value_on_an_edge_belongs_to_the_bin_below() -> None:
    counts = count_bins([0.0, 0.1, 0.1000001, 1.0], SCORE_EDGES)
    assert counts == (2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0)
    assert count_bins([6.0], DISTANCE_EDGES) == (0,) * 10 + (1,)


def test_counts_are_those_that_prometheus_keeps() -> None:
    metrics, values = Metrics(), [*np.random.default_rng(0).random(500).tolist(), 0.1, 0.5, 1.0]
    for value in values:
        metrics.observe_score("a-b", "1.0", value)
        metrics.observe_score("a-b", "1.1", 0.3)
    read = read_counts(Totals(metrics.collect()), f"{SCORES}_bucket", SCORE_EDGES, ("a-b", "1.0"))
    assert read == count_bins(values, SCORE_EDGES)


def test_sums_are_undone() -> None:
    assert undo_sums([1, 1, 4.0, 9]) == (1, 0, 3, 5)


def test_index_is_the_one_of_the_definition() -> None:
    before, after = (100, 50, 30), (40, 60, 90)
    old, new = (np.array(counts) + 0.5 for counts in (before, after))
    old, new = old / old.sum(), new / new.sum()
    assert measure_shift(before, after).index == pytest.approx(float(((new - old) * np.log(new / old)).sum()))


def test_equal_shares_have_no_index() -> None:
    shift = measure_shift((10, 20, 0, 30), (10, 20, 0, 30))
    assert shift.index == 0
    assert not shift.is_changed


@pytest.mark.parametrize("now", [100, 1000])
def test_chance_stays_below_its_limit_in_about_99_of_100_cases(now: int) -> None:
    random = np.random.default_rng(1)
    above = 0
    for _ in range(2000):
        shift = measure_shift(random.multinomial(2000, SHARES).tolist(), random.multinomial(now, SHARES).tolist())
        above += shift.index > shift.by_chance
    assert 0.002 < above / 2000 < 0.025


def test_few_pictures_change_nothing_and_many_do() -> None:
    other = SHARES[::-1]
    reference = np.round(SHARES * 2000).astype(int).tolist()
    random = np.random.default_rng(2)
    assert not measure_shift(reference, random.multinomial(3, SHARES).tolist()).is_changed
    assert measure_shift(reference, random.multinomial(200, other).tolist()).is_changed


def test_a_small_but_certain_shift_is_not_called_a_change() -> None:
    shift = measure_shift((500_000, 500_000), (480_000, 520_000))
    assert shift.index > shift.by_chance
    assert not shift.is_changed
