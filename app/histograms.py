"""The histograms of scores and of distances to the training pictures, and how far two of them lie apart."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SCORE_EDGES = tuple(round(part / 10, 1) for part in range(1, 11))
DISTANCE_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 5.0)
"""Upper edges of the bins; one more bin holds what lies above the last edge."""
HALF = 0.5
"""Is added to every count, so that an empty bin has a logarithm."""
CHANGED_FROM = 0.2
"""The index from which a change is usually looked into; below 0.1 it is called none (Siddiqi 2006, ISBN 0471754511)."""
RARE = 2.3263478740408408
"""99 % of the normal distribution lies below it."""


@dataclass(frozen=True)
class Shift:
    """How far the counts of now lie from those of a reference.

    Attributes:
        index: population stability index; 0 where both have the same shares.
        by_chance: what the index stays below in 99 of 100 cases if nothing has changed, with so few pictures.
    """

    index: float
    by_chance: float

    @property
    def is_changed(self) -> bool:
        """Whether the index is large, and larger than chance makes it."""
        return self.index >= CHANGED_FROM and self.index > self.by_chance


def count_bins(values: Iterable[float], edges: Sequence[float]) -> tuple[int, ...]:
    """Count values by bin; a value on an edge belongs to the bin below it, as in Prometheus."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_left(edges, value)] += 1
    return tuple(counts)


def undo_sums(sums: Sequence[float]) -> tuple[int, ...]:
    """Return the counts of bins of which each holds the ones before it too, as Prometheus keeps them."""
    return tuple(round(upper - lower) for lower, upper in pairwise((0.0, *sums)))


def measure_shift(reference: Sequence[int], now: Sequence[int]) -> Shift:
    """Measure how far the counts `now` lie from those of the reference; both have pictures, and the same bins.

    Where nothing has changed, the index is about chi-squared over the harmonic count, with one degree of freedom for
    every bin but one (Yurdakul 2018, Statistical Properties of Population Stability Index). The quantile of
    chi-squared is Wilson's and Hilferty's (1931, doi:10.1073/pnas.17.12.684).
    """
    pairs = [(before, after) for before, after in zip(reference, now, strict=True) if before or after]
    before, after = (to_shares([pair[side] for pair in pairs]) for side in (0, 1))
    index = sum((new - old) * math.log(new / old) for old, new in zip(before, after, strict=True))
    freedom = max(1, len(pairs) - 1)
    part = 2 / (9 * freedom)
    quantile = freedom * (1 - part + RARE * math.sqrt(part)) ** 3
    return Shift(index, quantile * (1 / sum(reference) + 1 / sum(now)))


def to_shares(counts: Sequence[int]) -> list[float]:
    """Return the share of each bin, with half a picture added to each."""
    whole = sum(counts) + HALF * len(counts)
    return [(count + HALF) / whole for count in counts]
