"""A figure that was measured on pictures, and how sure it is."""

import math
from dataclasses import dataclass

NORMAL_QUANTILE = 1.959963984540054
"""97.5 % of the normal distribution lies below it: intervals of 95 %."""


@dataclass(frozen=True)
class Estimate:
    """A figure between 0 and 1 with its 95 % interval and the number of pictures it rests on."""

    value: float
    low: float
    high: float
    n: int


def estimate_share(hits: int, n: int) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share, doubt = hits / n, NORMAL_QUANTILE**2 / n
    centre = (share + doubt / 2) / (1 + doubt)
    half = NORMAL_QUANTILE * math.sqrt((share * (1 - share) + doubt / 4) / n) / (1 + doubt)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)
