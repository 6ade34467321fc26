"""`capacity.md`: the text, and its tables."""

import os
import re
import statistics
from typing import Any

from app.config.setting_types import PROJECT_ROOT
from benchmarks.capacity_figures import (
    LOAD_S,
    MAX_OTHERS,
    PEAK_CONNECTIONS,
    REPEATS,
    ROUNDS,
    WORKERS,
    Figures,
    median_of,
)
from benchmarks.capacity_model import CORES, REQUESTS, SPARE, TOLERANCE, Compared, Need
from benchmarks.simulation import MODEL, Costs

DOCUMENT = PROJECT_ROOT / "benchmarks/capacity.md"
SUMMARY = PROJECT_ROOT / "app/upkeep/capacity.json"
"""What `flask capacity` reads: a machine that serves has no benchmarks."""
TEXT = """# Capacity

Written by `python -m benchmarks.capacity`, from what it measured on {cores} cores; do not edit.
{model}, 96x96 PNG, password, log and metrics on. A replica is one server: {workers} workers, {workers} cores.

## What a number of predictions a day needs
For a p99 of {p99:g} ms at the peak, which is {factor:g} times the mean rate, and nobody refused:

{needs}
The waiting times are simulated; the p99 must be under its bound by the {tolerance:.0%} that the simulation may be off.
The first number of replicas carries the peak alone, the other is spare. No replica gets more than {limit:.0f}/s, the
highest load that the simulation was compared at. Arrivals are random (Poisson), and spread over replicas and workers
by chance. Memory is the resident memory of all processes of a replica after these loads, {rss:.0f} MB; pages that
processes share count in each.

## Simulation and measurement
Open loop: random arrivals over {connections} connections, {rounds} rounds of {seconds:g} s of each load in turn.
Medians; in brackets the least and the most. Waiting times count from when a request was due. {requests:,} requests of
each load were simulated.

{compared}
{verdict} `others` is what other processes took of a core in the noisiest of the rounds: a run in which it was over
{most:g} was repeated, {repeats} times at most in all, and the quietest counted. The load itself took {load_ms:.2f} ms
of CPU a request on the same cores; 99 of 100 requests were sent no later than {late:.1f} ms after they were due.

One more check: {callers} callers, each asking again at once, get {peak:.0f}/s, with {peak_others:.2f} of a core
taken by others meanwhile; simulated, with nothing taken, {simulated:.0f}/s.

## What the simulation knows
Costs, from requests sent one at a time to the idle server (medians of {rounds} rounds). Nothing is fitted to the loads:

{costs}
- Cores share their time evenly among what runs; Python's lock lets one thread of a worker run Python at a time.
- A request's costs are multiplied by how far one of the lone requests, drawn by chance, was off their mean.
- Connections belong to workers as they did in the measurement ({shares}). Batches, who waits for whom, and the bound of
  what is in work, past which requests are refused, are those of `app/pipeline/batch.py` and `app/server/`.
- It knows nothing of networks, of other models on the same replica, or of processors other than this one.
"""


def summarize(text: str) -> dict[str, Any]:
    """Return the figures of the document that `flask capacity` goes by; raises `ValueError` if one is not there."""

    def find(pattern: str) -> float:
        found = re.search(pattern, text)
        if found is None:
            raise ValueError(pattern)
        return float(found[1].replace(",", ""))

    needs = re.findall(r"^\| [\d,]+ \| .*? \| ([\d.]+)/s \| (\d+) ms \| (\d+) ms \|$", text, re.MULTILINE)
    loads = re.findall(
        r"^\| (\d+)/s \| .*? \| ([\d.]+) ms \| .*? \| .*? \| ([\d.]+) ms \| .*? \| .*? \|$", text, re.MULTILINE
    )
    return {
        "model": find_word(text, r"^(\S+, .*?), password"),
        "workers": int(find(r"A replica is one server: (\d+) workers")),
        "memory_mb": find(r"after these loads, (\d+) MB"),
        "limit_per_s": find(r"No replica gets more than (\d+)/s"),
        "tolerance": find(r"under its bound by the (\d+)%") / 100,
        "waits": sorted([float(number) for number in row] for row in (*needs, *loads)),
    }


def find_word(text: str, pattern: str) -> str:
    """Return what a pattern finds; raises `ValueError` if it finds nothing."""
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise ValueError(pattern)
    return found[1]


def show_table(heads: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def show_compared(compared: list[Compared]) -> str:
    """Write the comparison."""
    rows = []
    for each in compared:
        measured, simulated, (p50, p99) = each.measured, each.simulated, each.deviations
        ranges = [
            f"{min(values):.1f} to {max(values):.1f}"
            for part in (0.5, 0.99)
            for values in [[run.quantile_ms(part) for run in each.runs]]
        ]
        rows.append(
            [
                f"{each.rate_per_s:.0f}/s",
                f"{measured.p50_ms:.1f} ms ({ranges[0]})",
                f"{simulated.p50_ms:.1f} ms",
                f"{p50:+.0%}",
                f"{measured.p99_ms:.1f} ms ({ranges[1]})",
                f"{simulated.p99_ms:.1f} ms",
                f"{p99:+.0%}",
                f"{max(run.others for run in each.runs):.2f}",
            ]
        )
    heads = ["load", "p50 measured", "simulated", "off by", "p99 measured", "simulated", "off by", "others"]
    return show_table(heads, rows)


def show_costs(costs: Costs) -> str:
    """Write the costs."""
    batches = ", ".join(f"{seconds * 1000:.1f}" for seconds in costs.inference_s)
    changes = ", ".join(f"{seconds * 1000:.1f}" for seconds in costs.change_s)
    python_ms = (costs.before_s + costs.after_s) * 1000
    rows = [
        ["inference of a batch of 1, 2, … 8 pictures", f"{batches} ms"],
        ["added to it after a batch of another size", f"{changes} ms"],
        ["decoding", f"{costs.decode_s * 1000:.2f} ms"],
        ["the rest of the CPU time of a request, half of it before the inference", f"{python_ms:.2f} ms"],
        ["the caller's own work, and waking up", f"{costs.caller_s * 1000:.2f} ms"],
        ["a core beside another that works", f"{costs.beside:.2f} times as slow"],
    ]
    return show_table(["cost", "measured"], rows)


def show_needs(needs: list[Need], rss_bytes: int) -> str:
    """Write the needs."""
    rows = [
        [
            f"{need.per_day:,}",
            f"{need.peak_per_s:,.1f}/s",
            f"{need.serving} + {SPARE}",
            f"{need.replicas * CORES}",
            f"{need.replicas * rss_bytes / 1e9:.1f} GB",
            f"{need.peak_per_s / need.serving:.1f}/s",
            f"{need.waits.p50_ms:.0f} ms",
            f"{need.waits.p99_ms:.0f} ms",
        ]
        for need in needs
    ]
    heads = ["predictions a day", "at the peak", "replicas", "cores", "memory", "each at the peak", "p50", "p99"]
    return show_table(heads, rows)


def describe_comparison(figures: Figures, compared: list[Compared], simulated_peak_per_s: float) -> dict[str, object]:
    """What the text says of the comparison."""
    runs = [run for each in compared for run in each.runs]
    agrees = all(each.agrees for each in compared)
    return {
        "compared": show_compared(compared),
        "verdict": f"{'All are' if agrees else 'Not all are'} within {TOLERANCE:.0%}.",
        "limit": max(each.rate_per_s for each in compared),
        "load_ms": statistics.median(run.load_cpu_s for run in runs) * 1000,
        "late": max(run.late_p99_s for run in runs) * 1000,
        "callers": PEAK_CONNECTIONS,
        "peak": median_of(figures.peak, lambda run: run.rate_per_s),
        "peak_others": median_of(figures.peak, lambda run: run.others),
        "simulated": simulated_peak_per_s,
    }


def describe_measurement(figures: Figures) -> dict[str, object]:
    """What the text says of how it was measured."""
    return {
        "cores": os.cpu_count(),
        "model": MODEL,
        "workers": WORKERS,
        "rss": figures.rss_bytes / 1e6,
        "connections": sum(figures.connections),
        "shares": " and ".join(str(count) for count in figures.connections),
        "rounds": ROUNDS,
        "seconds": LOAD_S,
        "most": MAX_OTHERS,
        "repeats": REPEATS,
        "requests": REQUESTS,
        "tolerance": TOLERANCE,
    }
