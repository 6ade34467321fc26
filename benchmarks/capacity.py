"""What a number of predictions a day needs: `python -m benchmarks.capacity` measures, simulates, writes `capacity.md`.

The simulation (`benchmarks/simulation.py`, SimPy) runs on costs measured on an idle server. It is compared with three
measured loads; the command fails if a p50 or p99 is off by more than a fifth. Takes about four minutes.
"""

import json
import sys
from pathlib import Path

from benchmarks.capacity_document import (
    DOCUMENT,
    SUMMARY,
    TEXT,
    describe_comparison,
    describe_measurement,
    show_costs,
    show_needs,
    summarize,
)
from benchmarks.capacity_figures import Figures, find_costs, measure
from benchmarks.capacity_model import Model, compare, find_needs
from benchmarks.scale import IS_QUICK, make_parser


def write_document(document: Path, figures: Figures, p99_ms: float, peak_factor: float) -> bool:
    """Simulate and write; returns whether simulation and measurement agree."""
    costs = find_costs(figures)
    model = Model(costs, figures.connections)
    compared = compare(figures, model)
    limit_per_s = max(each.rate_per_s for each in compared)
    needs = find_needs(model, limit_per_s, p99_ms, peak_factor)
    facts = describe_measurement(figures) | describe_comparison(figures, compared, model.find_peak_per_s())
    facts |= {"p99": p99_ms, "factor": peak_factor, "costs": show_costs(costs)}
    facts |= {"needs": show_needs(needs, figures.rss_bytes)}
    document.write_text(TEXT.format(**facts), encoding="utf-8")
    return all(each.agrees for each in compared)


def main() -> None:
    """Measure, simulate, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="the file that is written")
    parser.add_argument("--p99-ms", type=float, default=100.0)
    parser.add_argument("--peak-factor", type=float, default=3.0, help="the peak rate, by the mean rate of the day")
    parser.add_argument("--figures", type=Path, help="keep the measured figures here; if the file is there, read it")
    options = parser.parse_args()
    if options.figures and options.figures.exists():
        figures = Figures.read(options.figures)
    else:
        figures = measure(print)
        if options.figures:
            figures.write(options.figures)
    agrees = write_document(options.document, figures, options.p99_ms, options.peak_factor)
    text = options.document.read_text(encoding="utf-8")
    print(text)
    if options.document == DOCUMENT:
        SUMMARY.write_text(json.dumps(summarize(text), indent=1) + "\n", encoding="utf-8")
    if not agrees and not IS_QUICK:
        sys.exit("the simulation is off by more than it may be")


if __name__ == "__main__":
    main()
