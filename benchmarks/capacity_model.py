"""From measured costs to waiting times and replicas, by simulation."""

import math
from dataclasses import dataclass

from benchmarks.capacity_figures import PEAK_CONNECTIONS, WORKERS, Figures, Run, median_of, quantile
from benchmarks.scale import choose
from benchmarks.simulation import Costs, Server

CORES = WORKERS
TOLERANCE = 0.2
REQUESTS = choose(60_000, 1000)
"""Simulated for each figure."""
PER_DAY = (10_000, 1_000_000, 100_000_000)
SECONDS_A_DAY = 86_400
SPARE = 1


@dataclass(frozen=True)
class Waits:
    """Waiting times, and the part of the requests that was refused."""

    p50_ms: float
    p99_ms: float
    refused: float


@dataclass(frozen=True)
class Compared:
    """A measured load and its simulation."""

    runs: list[Run]
    rate_per_s: float
    measured: Waits
    simulated: Waits

    @property
    def deviations(self) -> tuple[float, float]:
        """Of p50 and p99, as parts of what was measured."""
        measured, simulated = self.measured, self.simulated
        return simulated.p50_ms / measured.p50_ms - 1, simulated.p99_ms / measured.p99_ms - 1

    @property
    def agrees(self) -> bool:
        """Whether both are within the tolerance."""
        return all(abs(deviation) <= TOLERANCE for deviation in self.deviations)


@dataclass(frozen=True)
class Need:
    """What a number of predictions a day needs."""

    per_day: int
    peak_per_s: float
    serving: int
    waits: Waits

    @property
    def replicas(self) -> int:
        """Those that serve, and the spare."""
        return self.serving + SPARE


class Model:
    """One server of two workers on two cores, simulated."""

    def __init__(self, costs: Costs, connections: list[int]) -> None:
        self._costs, self._connections = costs, connections

    def wait(self, rate_per_s: float, requests: int = REQUESTS) -> Waits:
        """Waiting times at a rate."""
        seen = Server(self._costs, self._connections, seed=0, cores=CORES).run(rate_per_s, requests)
        p50, p99 = (quantile(seen.waits_s, part) * 1000 for part in (0.5, 0.99))
        return Waits(p50, p99, seen.refused / requests)

    def find_peak_per_s(self, seconds: float = choose(60, 1)) -> float:
        """Rate of a closed loop, as it was measured too."""
        return Server(self._costs, self._connections, seed=0, cores=CORES).run_closed(PEAK_CONNECTIONS, seconds)


def compare(figures: Figures, model: Model) -> list[Compared]:
    """Simulate each measured load."""
    compared = []
    for runs in figures.loads.values():
        rate = median_of(runs, lambda run: run.rate_per_s)
        refused = median_of(runs, lambda run: run.refused / (run.refused + len(run.waits_s)))
        p50, p99 = (median_of(runs, lambda run, part=part: run.quantile_ms(part)) for part in (0.5, 0.99))
        compared.append(Compared(runs, rate, Waits(p50, p99, refused), model.wait(rate)))
    return compared


def find_needs(model: Model, rate_per_s: float, p99_ms: float, peak_factor: float) -> list[Need]:
    """Find the fewest replicas that keep the p99 at the peak, none of them loaded more than `rate_per_s`.

    The simulated p99 must be lower by as much as the simulation may be off.
    """
    needs = []
    for per_day in PER_DAY:
        peak_per_s = per_day / SECONDS_A_DAY * peak_factor
        serving = math.ceil(peak_per_s / rate_per_s)
        while (waits := model.wait(peak_per_s / serving)).p99_ms * (1 + TOLERANCE) > p99_ms or waits.refused:
            serving += 1
        needs.append(Need(per_day, peak_per_s, serving, waits))
    return needs
