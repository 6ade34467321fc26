"""`flask capacity`: how many machines a number of predictions a day needs, from what was measured of one server.

`capacity.json` holds the figures; `python -m benchmarks.capacity` measures and simulates them, and explains them in
`benchmarks/capacity.md`. A machine that serves has no benchmarks, so the figures stand here.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from app.errors import OperatorError

FIGURES = Path(__file__).with_name("capacity.json")
SECONDS_A_DAY = 86_400
SPARE = 1
"""Machines beyond those that the peak needs, so that one may fail or be upgraded."""


class CapacityError(OperatorError):
    """No number of machines does what is asked."""


@dataclass(frozen=True)
class ServerFigures:
    """What one server was measured to do.

    Attributes:
        model: the model and its pictures.
        workers: of the server, one a core.
        memory_mb: resident memory of all its processes.
        limit_per_s: the highest load that was measured.
        tolerance: by how much the waiting times may be off.
        waits: by rising load, each (requests a second, median, 99th percentile), the last two in milliseconds.
    """

    model: str
    workers: int
    memory_mb: float
    limit_per_s: float
    tolerance: float
    waits: list[tuple[float, float, float]]

    def find_p99_ms(self, rate_per_s: float) -> float:
        """The 99th percentile of the waiting times at a load: on the line between the two loads beside it."""
        before = self.waits[0]
        if rate_per_s <= before[0]:
            return before[2]
        for after in self.waits[1:]:
            if rate_per_s <= after[0]:
                part = (rate_per_s - before[0]) / (after[0] - before[0])
                return before[2] + part * (after[2] - before[2])
            before = after
        raise CapacityError(f"{rate_per_s:.0f}/s is more than was measured of one server")


@dataclass(frozen=True)
class Need:
    """What is needed.

    Attributes:
        peak_per_s: requests a second at the peak.
        serving: servers that carry the peak; machines: with the spare.
        p99_ms: of the waiting times at the peak, in milliseconds.
    """

    peak_per_s: float
    serving: int
    machines: int
    cores: int
    memory_mb: float
    p99_ms: float


def read_figures() -> ServerFigures:
    """Read what was measured."""
    values = json.loads(FIGURES.read_text(encoding="utf-8"))
    return ServerFigures(**values | {"waits": [tuple(wait) for wait in values["waits"]]})


def find_need(figures: ServerFigures, per_day: int, p99_ms: float, peak_factor: float, machine_cores: int) -> Need:
    """Find the fewest machines that keep the 99th percentile at the peak, and nobody refused.

    A machine carries one server for each `figures.workers` cores. Raises `CapacityError` if a lone request takes longer
    than `p99_ms`, or a machine has too few cores.
    """
    if machine_cores < figures.workers:
        raise CapacityError(f"one server takes {figures.workers} cores, as it was measured")
    bound_ms = p99_ms / (1 + figures.tolerance)
    if figures.waits[0][2] > bound_ms:
        least = figures.waits[0][2] * (1 + figures.tolerance)
        raise CapacityError(
            f"no number of machines answers 99 of 100 within {p99_ms:g} ms: a server that is hardly used needs "
            f"{least:.0f} ms. Faster cores do, or INT8 (get_started/int8.md)"
        )
    peak_per_s = per_day * peak_factor / SECONDS_A_DAY
    serving = max(1, math.ceil(peak_per_s / figures.limit_per_s))
    while figures.find_p99_ms(peak_per_s / serving) > bound_ms:
        serving += 1
    machines = math.ceil(serving / (machine_cores // figures.workers)) + SPARE
    servers = machines * (machine_cores // figures.workers)
    reached = figures.find_p99_ms(peak_per_s / serving)
    return Need(peak_per_s, serving, machines, machines * machine_cores, servers * figures.memory_mb, reached)


def describe_need(figures: ServerFigures, need: Need, peak_factor: float, machine_cores: int) -> str:
    """Say what is needed, and which settings go with it."""
    per_machine = machine_cores // figures.workers
    lines = [
        f"peak      {need.peak_per_s:,.1f} requests a second, {peak_factor:g} times the mean of the day",
        f"machines  {need.machines} of {machine_cores} cores; {SPARE} of them is spare",
        f"cores     {need.cores}",
        f"memory    {need.memory_mb / 1000:.1f} GB for all servers, {figures.memory_mb / 1000:.2f} GB each",
        f"p99       {need.p99_ms:.0f} ms at the peak, give or take {figures.tolerance:.0%}",
        "settings  of every server:",
        f"          SCANCER_WORKERS={figures.workers}",
        "          SCANCER_DATABASE=postgresql+psycopg://…   the same for all",
        "          SCANCER_LIMITS_STORE=redis://…            the same for all",
        "          SCANCER_TRUSTED_PROXIES=1                 the proxy that shares out the requests",
    ]
    if per_machine > 1:
        lines.append(f"          {per_machine} servers on each machine, with ports and a SCANCER_INSTANCE of their own")
    lines += [
        f"Measured with {figures.model}, one picture a request, at up to {figures.limit_per_s:.0f}/s a server.",
        "Other models and processors differ: python -m benchmarks.load measures yours. Proxy and network are left out.",
        "deploy/growing.md leads there.",
    ]
    return "\n".join(lines)
