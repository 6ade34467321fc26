"""The service under load, beside the bare machine: `python -m benchmarks.load [--seconds N]`.

wrk (Debian's package) makes the load. Password, log and metrics are on. What is printed of each model and picture:

- bare: CPU time of one inference and of decoding alone, and the rate at which as many processes as the server has
  workers decode and infer, one picture after the other;
- at each number of connections: predictions a second, its ratio to that rate, waiting times, and the CPU time of a
  prediction above inference and decoding;
- overload: ten times the connections that fill the server; what was answered, what refused, and how health answered.

Bare and served rounds take turns, and the best of each counts: other processes on the machine can only take away.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from benchmarks.bare import measure_bare_ms, measure_decode_ms, measure_limit_per_s
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers

WORKERS = 2
ROUNDS = choose(3, 1)
BARE_PREDICTIONS = choose(400, 10)
CONNECTIONS = choose((1, 2, 8, 32), (2,))
OVERLOAD = (8, 80)
CASES = (
    ("pcam-classification", "normal.jpg", "96x96 JPEG"),
    ("isic-classification", "benign.jpg", "224x224 JPEG"),
)
SCRIPT = """
wrk.method = "{method}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*all")
{headers}
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function init() answered, refused, others = 0, 0, 0 end
function response(status, headers)
  if status == 200 then answered = answered + 1
  elseif status == 503 and headers["Retry-After"] then refused = refused + 1
  else others = others + 1 end
end
function done()
  for _, thread in ipairs(threads) do
    print("counts", thread:get("answered"), thread:get("refused"), thread:get("others"))
  end
end
"""
UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw."""

    answered_per_s: float
    refused_per_s: float
    others: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float


def read_wait_ms(text: str, percent: str) -> float:
    """Return a percentile of the waiting times that wrk printed; it pads units of one letter."""
    found = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m|h) *$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"wrk told no {percent}th percentile:\n{text}")
    return float(found[1]) * UNITS_MS[found[2]]


def run_wrk(server: MeasuredServer, script: Path, path: str, connections: int, seconds: int) -> Load:
    """Load one path; connections are kept open."""
    url = f"http://127.0.0.1:{server.ports[0]}{path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), "--latency", url]
    before = server.cpu_s()
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu_s = server.cpu_s() - before
    answered, refused, others = (int(count) for count in re.search(r"counts\t(\d+)\t(\d+)\t(\d+)", text).groups())
    waits = {percent: read_wait_ms(text, percent) for percent in ("50", "99")}
    rate = answered / seconds
    return Load(rate, refused / seconds, others, waits["50"], waits["99"], cpu_s / max(answered, 1) * 1000)


@contextmanager
def watch(
    server: MeasuredServer, method: str, path: str, body: bytes | None = None
) -> Iterator[dict[int, list[float]]]:
    """Ask ten times a second meanwhile; the lists fill with milliseconds, by status."""
    waits: dict[int, list[float]] = defaultdict(list)
    stops = threading.Event()

    def ask() -> None:
        while not stops.wait(0.1):
            started = time.perf_counter()
            status, _ = server.request(method, path, body)
            waits[status].append((time.perf_counter() - started) * 1000)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield waits
    finally:
        stops.set()
        thread.join()


def write_script(folder: Path, body: Path, method: str = "PUT", headers: dict[str, str] | None = None) -> Path:
    """Write what wrk sends; the headers are by default those of a user of ours."""
    script = folder / f"{body.stem}.lua"
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in (headers or make_headers()).items())
    script.write_text(SCRIPT.format(method=method, body=body, headers=lines))
    return script


def measure_case(server: MeasuredServer, folder: Path, case: tuple[str, str, str], seconds: int) -> None:
    """Print a model's lines."""
    model, example, what = case
    picture = PROJECT_ROOT / "models" / model / "1.1" / "examples" / example
    script, path = write_script(folder, picture), f"/predictions/{model}"
    run_wrk(server, script, path, 8, choose(2, 1))
    bare_ms, decode_ms, limits, loads = [], [], [], {connections: [] for connections in CONNECTIONS}
    for _ in range(ROUNDS):
        bare_ms.append(measure_bare_ms(model, BARE_PREDICTIONS))
        decode_ms.append(measure_decode_ms(model, picture.read_bytes(), BARE_PREDICTIONS))
        limits.append(measure_limit_per_s(model, picture, BARE_PREDICTIONS, WORKERS))
        for connections, seen in loads.items():
            seen.append(run_wrk(server, script, path, connections, seconds))
    bare, decoding, limit = min(bare_ms), min(decode_ms), max(limits)
    print(f"\n{model}, {what}: bare inference {bare:.2f} ms of CPU, bare decoding {decoding:.2f} ms")
    print(f"  bare rate of {WORKERS} processes, one picture after the other: {limit:.0f}/s")
    for connections, seen in loads.items():
        rate = max(load.answered_per_s for load in seen)
        cpu_ms = min(load.cpu_ms for load in seen)
        p50, p99 = (statistics.median(getattr(load, name) for load in seen) for name in ("p50_ms", "p99_ms"))
        lost = sum(load.others for load in seen)
        print(
            f"  {connections:2} connections: {rate:4.0f}/s, {rate / limit:.2f} of the bare rate; p50 {p50:.1f} ms, "
            f"p99 {p99:.1f} ms; CPU {cpu_ms:.2f} ms, {cpu_ms - bare - decoding:.2f} above inference and decoding; "
            f"{lost} failed"
        )


def measure_overload(server: MeasuredServer, folder: Path, seconds: int) -> None:
    """Print what ten times the load gets."""
    model, example, _ = CASES[0]
    picture = PROJECT_ROOT / "models" / model / "1.1" / "examples" / example
    script = write_script(folder, picture)
    path = f"/predictions/{model}"
    for connections in OVERLOAD:
        with watch(server, "GET", "/health/live") as health, watch(server, "PUT", path, picture.read_bytes()) as asked:
            load = run_wrk(server, script, path, connections, seconds)
        waits = [wait for status in health.values() for wait in status]
        print(
            f"  {connections} connections for {seconds} s: {load.answered_per_s:.0f}/s answered, "
            f"{load.refused_per_s:.0f}/s refused, {load.others} others; health p50 {statistics.median(waits):.0f} ms, "
            f"longest {max(waits):.0f} ms"
        )
        if refused := asked[HTTPStatus.SERVICE_UNAVAILABLE]:
            tail = statistics.quantiles(refused, n=20)[-1]
            print(f"  refused after: p50 {statistics.median(refused):.0f} ms, p95 {tail:.0f} ms ({len(refused)} timed)")


def main() -> None:
    """Print everything."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=int, default=choose(5, 1), help="of each round")
    parser.add_argument("--overload-seconds", type=int, default=choose(60, 1))
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    print(f"{os.cpu_count()} cores, {WORKERS} workers; best of {ROUNDS} rounds of {options.seconds} s")
    print("wrk -t1 -c<connections> -d<seconds>s -s put.lua --latency http://127.0.0.1:<port>/predictions/<model>")
    with MeasuredServer(workers=str(WORKERS)) as server, tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            measure_case(server, Path(folder), case, options.seconds)
        print(f"\noverload of {CASES[0][0]}:")
        measure_overload(server, Path(folder), options.overload_seconds)


if __name__ == "__main__":
    main()
