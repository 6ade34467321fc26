"""How often each image is drawn, so that a network learns the disease and not where its pictures come from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.image_folder import LabelledImages


@dataclass(frozen=True)
class Balance:
    """Draws of an epoch, as many as there are images.

    Attributes:
        positive_share: share of positive draws within every origin.
        origin_power: an origin of n images gets draws in proportion to n to this power; 1: as many as it has.
        most_draws: no image is drawn more often than this, also if the shares are missed by it.
    """

    positive_share: float
    origin_power: float
    most_draws: float


def count_draws(balance: Balance, train: LabelledImages, random: np.random.Generator) -> NDArray[np.int64]:
    """Return how often each image is drawn, int64 [N]; a fraction becomes a chance, so that the sum is exact."""
    origins, sizes = np.unique(train.origins, return_counts=True)
    weights = sizes**balance.origin_power / (sizes**balance.origin_power).sum()
    wanted = np.zeros(len(train.labels))
    for origin, weight in zip(origins, weights, strict=True):
        for label, share in ((0, 1 - balance.positive_share), (1, balance.positive_share)):
            cell = (train.origins == origin) & (train.labels == label)
            wanted[cell] = min(weight * share * len(wanted) / max(cell.sum(), 1), balance.most_draws)
    order = random.permutation(len(wanted))
    ends = np.floor(np.cumsum(wanted[order]) + random.random())
    counts = np.empty(len(wanted), dtype=np.int64)
    counts[order] = np.diff(ends, prepend=0)
    return counts
