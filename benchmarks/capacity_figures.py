"""What `benchmarks/capacity.py` needs to know of this machine, measured: costs of the steps, and loads to compare with.

Costs come from an idle server that gets one request at a time: from its own histograms, its CPU time and the caller's
waiting times. A form of several pictures is one batch, so it tells what a batch of that size takes. The loads that the
simulation is compared with are none of these.

Other processes on the machine spoil waiting times. What they took of the cores is known for each run; a run in which
they took too much is repeated, a few times at most.
"""

import json
import random
import re
import statistics
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from benchmarks.bare import measure_bare_beside_itself_ms, measure_bare_ms
from benchmarks.open_loop import Load, Seen, make_arrivals, make_request
from benchmarks.scale import choose
from benchmarks.server import TICKS_PER_S, MeasuredServer
from benchmarks.simulation import BATCH, MODEL, Costs

EXAMPLE = "normal.jpg"
PATH = f"/predictions/{MODEL}"
WORKERS = 2
ROUNDS = choose(3, 1)
PEAK_CONNECTIONS, PEAK_S = 8, choose(4.0, 0.5)
LONE, LONE_OF_SEVERAL, PAUSE_S = choose(150, 5), choose(20, 2), 0.02
LOADS = (0.2, 0.45, 0.7)
"""Parts of the rate at which eight callers in a closed loop are answered."""
LOAD_S = choose(12.0, 0.5)
BARE_PREDICTIONS = choose(400, 10)
MAX_OTHERS, REPEATS, REPEAT_PAUSE_S = 0.1, choose(8, 0), 5.0
"""Cores that other processes may take in a run; repeats that all runs together may have, each after a pause."""


def quantile(values: list[float], part: float) -> float:
    """The value that this part does not exceed."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


@dataclass
class Run:
    """One load.

    Attributes:
        stages_s: mean seconds of a request by stage, as the server saw it.
        cpu_s: CPU seconds of all server processes by request.
        waits_s: of each answered request, as the caller saw it.
        refused: requests that were turned away.
        rate_per_s: requests answered or refused a second.
        load_cpu_s: CPU seconds of the load itself by request.
        late_p99_s: how late requests were sent.
        others: cores that other processes had meanwhile.
    """

    stages_s: dict[str, float]
    cpu_s: float
    waits_s: list[float]
    refused: int
    rate_per_s: float
    load_cpu_s: float
    late_p99_s: float
    others: float

    def quantile_ms(self, part: float) -> float:
        """Milliseconds that this part of the answered waited at most."""
        return quantile(self.waits_s, part) * 1000


@dataclass
class Figures:
    """Everything measured; lists hold a run a round, lone requests by the number of pictures, loads by their part.

    `mixed_s` holds waiting times by the number of pictures, where each request had another number than the one before.
    """

    peak: list[Run] = field(default_factory=list)
    lone: dict[str, list[Run]] = field(default_factory=dict)
    mixed_s: dict[str, list[float]] = field(default_factory=dict)
    loads: dict[str, list[Run]] = field(default_factory=dict)
    beside: list[float] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)
    rss_bytes: int = 0

    def write(self, file: Path) -> None:
        """Keep them."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> "Figures":
        """Read what `write` kept."""
        known = json.loads(file.read_text())
        known["peak"] = [Run(**run) for run in known["peak"]]
        for kind in ("lone", "loads"):
            known[kind] = {name: [Run(**run) for run in runs] for name, runs in known[kind].items()}
        return cls(**known)


def median_of(runs: list[Run], value: Callable[[Run], float]) -> float:
    """Median over the rounds."""
    return statistics.median(value(run) for run in runs)


def find_costs(figures: Figures) -> Costs:
    """Work out what the steps cost; only of lone requests, and of the bare model beside itself."""
    lone = figures.lone["1"]
    inference = [
        median_of(figures.lone[str(size)], lambda run: run.stages_s["inference"])
        for size in range(1, BATCH.max_size + 1)
    ]
    change = [
        max(
            0.0,
            statistics.median(mixed) - statistics.median(wait for run in figures.lone[size] for wait in run.waits_s),
        )
        for size, mixed in sorted(figures.mixed_s.items())
    ]
    decode = median_of(lone, lambda run: run.stages_s["decode"])
    wait = median_of(lone, lambda run: statistics.mean(run.waits_s))
    python = median_of(lone, lambda run: run.cpu_s) - inference[0] - decode
    noise = [each / statistics.mean(run.waits_s) for run in lone for each in run.waits_s]
    return Costs(
        before_s=python / 2,
        decode_s=decode,
        after_s=python / 2,
        caller_s=max(0.0, wait - inference[0] - decode - python),
        inference_s=inference,
        change_s=change,
        beside=statistics.median(figures.beside),
        noise=noise,
    )


def read_stages(server: MeasuredServer) -> tuple[dict[str, float], int]:
    """Sums of the server's histogram by stage, in seconds, and the count of requests."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[2]}/metrics") as response:
        text = response.read().decode()
    pattern = rf'^scancer_prediction_seconds_(sum|count){{.*model="{MODEL}".*stage="(\w+)".*}} (\S+)$'
    found = {(kind, stage): float(value) for kind, stage, value in re.findall(pattern, text, re.MULTILINE)}
    return {stage: value for (kind, stage), value in found.items() if kind == "sum"}, int(found["count", "whole"])


def read_machine_s() -> float:
    """CPU seconds that anything on the machine has had, or was denied by the host; neither idle nor waiting."""
    user, nice, system, _, _, irq, soft, steal, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(ticks) for ticks in (user, nice, system, irq, soft, steal)) / TICKS_PER_S


def observe(server: MeasuredServer, load: Callable[[], Seen]) -> Run:
    """Run a load and read what it cost."""
    stages, count = read_stages(server)
    server_s, own_s, machine_s, started = server.cpu_s(), time.process_time(), read_machine_s(), time.perf_counter()
    seen = load()
    took_s, machine_s = time.perf_counter() - started, read_machine_s() - machine_s
    server_s, own_s = server.cpu_s() - server_s, time.process_time() - own_s
    after, whole = read_stages(server)
    count = whole - count
    return Run(
        stages_s={stage: (after[stage] - stages[stage]) / count for stage in after},
        cpu_s=server_s / count,
        waits_s=seen.waits_s,
        refused=seen.refused,
        rate_per_s=(len(seen.waits_s) + seen.refused) / took_s,
        load_cpu_s=own_s / count,
        late_p99_s=quantile(seen.late_s, 0.99) if seen.late_s else 0.0,
        others=max(0.0, machine_s - server_s - own_s) / took_s,
    )


def count_sockets(server: MeasuredServer) -> list[int]:
    """Sockets of each worker."""
    folders = [Path(f"/proc/{pid}/fd") for pid in server.worker_pids()]
    return [sum(str(link.readlink()).startswith("socket:") for link in folder.iterdir()) for folder in folders]


class Measurement:
    """Measures everything on one server; rounds take turns, a shared machine being never the same for long."""

    def __init__(self, server: MeasuredServer, say: Callable[[str], None]) -> None:
        picture = (PROJECT_ROOT / "models" / MODEL / "1.1" / "examples" / EXAMPLE).read_bytes()
        self._requests = [make_request(PATH, picture, count) for count in range(1, BATCH.max_size + 1)]
        self._server, self._say = server, say
        self._repeats = REPEATS
        self._figures = Figures()

    def run(self) -> Figures:
        """Measure."""
        own = count_sockets(self._server)
        load = Load(self._server)
        for request in self._requests:  # the first of each size is prepared for
            load.run_alone(request, 30, 0.001, random.Random(0))
        load.run_closed(self._requests[0], PEAK_CONNECTIONS, PEAK_S)
        figures = self._figures
        figures.connections = [now - then for now, then in zip(count_sockets(self._server), own, strict=True)]
        peak = self._observe("peak", lambda: load.run_closed(self._requests[0], PEAK_CONNECTIONS, PEAK_S))
        figures.peak.append(peak)
        for number in range(ROUNDS):
            self._measure_round(load, peak.rate_per_s, random.Random(number))
        figures.rss_bytes = sum(
            self._server.rss_bytes(pid) for pid in (self._server.process.pid, *self._server.worker_pids())
        )
        load.close()
        return figures

    def _measure_round(self, load: Load, peak: float, chance: random.Random) -> None:
        figures = self._figures
        beside = measure_bare_beside_itself_ms(MODEL, BARE_PREDICTIONS, WORKERS)
        figures.beside.append(beside / measure_bare_ms(MODEL, BARE_PREDICTIONS))
        for size, request in enumerate(self._requests, 1):
            count = LONE if size == 1 else LONE_OF_SEVERAL
            run = observe(self._server, lambda r=request, c=count: load.run_alone(r, c, PAUSE_S, chance))
            figures.lone.setdefault(str(size), []).append(run)
        self._measure_mixed(load, chance)
        for part in LOADS:
            arrivals = make_arrivals(peak * part, LOAD_S, chance)
            run = self._observe(f"load {part}", lambda a=arrivals: load.run(self._requests[0], a, chance))
            figures.loads.setdefault(str(part), []).append(run)

    def _measure_mixed(self, load: Load, chance: random.Random) -> None:
        sizes = list(range(1, BATCH.max_size + 1))
        for _ in range(LONE_OF_SEVERAL):
            chance.shuffle(sizes)
            for size in sizes:
                seen = load.run_alone(self._requests[size - 1], 1, PAUSE_S, chance)
                self._figures.mixed_s.setdefault(str(size), []).extend(seen.waits_s)

    def _observe(self, name: str, load: Callable[[], Seen]) -> Run:
        """Run a load, again if others took too much of the machine; the quietest run counts."""
        best = observe(self._server, load)
        while best.others > MAX_OTHERS and self._repeats:
            self._repeats -= 1
            self._say(f"{name}: others took {best.others:.2f} of a core; once more")
            time.sleep(REPEAT_PAUSE_S)
            again = observe(self._server, load)
            best = min(best, again, key=lambda run: run.others)
        self._say(
            f"{name}: {best.rate_per_s:.0f}/s, p50 {best.quantile_ms(0.5):.1f} ms, p99 {best.quantile_ms(0.99):.1f} "
            f"ms, {best.refused} refused; others took {best.others:.2f} of a core"
        )
        return best


def measure(say: Callable[[str], None]) -> Figures:
    """Measure everything; `say` is told each load."""
    with MeasuredServer({"GUNICORN_CMD_ARGS": "--keep-alive 3600"}, workers=str(WORKERS)) as server:
        return Measurement(server, say).run()
