"""What costly requests of a known user do to the others: `python -m benchmarks.costly_requests [--seconds N] [NAME…]`.

Each attack of `ATTACKS` runs by itself, then all of them together, for N seconds (20) each. Printed of each: answers by
status, the largest resident memory of a worker, and the waits of those who ask meanwhile every 50 ms for
health, metrics, the models at the management address, and a prediction.
"""

import base64
import gzip
import http.client
import multiprocessing
import resource
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from multiprocessing.synchronize import Barrier, Event
from typing import Any, NamedTuple

import numpy as np

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers

MODEL = "pcam-classification"
PICTURE = PROJECT_ROOT / f"models/{MODEL}/1.1/examples/normal.jpg"
PREDICT, V1, V2 = f"/predictions/{MODEL}", f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"
BODY_BYTES, SIDE_PX, PAUSE_S = 31 * 1024 * 1024, 5000, 0.05
MEMORY_BYTES = 6 * 1024**3
"""Of address space for each process: a server that takes too much fails instead of the machine."""
LOGINS = 20
"""Requests before the first attack, until each worker knows the user: to verify a password takes long."""
JSON = {"Content-Type": "application/json"}
GZIP = JSON | {"Content-Encoding": "gzip"}


class Attack(NamedTuple):
    """Requests that so many `clients` repeat at a time."""

    clients: int
    path: str
    headers: Mapping[str, str]
    make_body: Callable[[], bytes]


@dataclass
class Seen:
    """What those saw who asked meanwhile: the waits by what they asked for, and answers other than 200."""

    waits_s: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[tuple[str, int]] = field(default_factory=Counter)
    rss_bytes: int = 0


def fill(unit: bytes, start: bytes = b'{"instances":[', end: bytes = b"{}]}") -> bytes:
    """Repeat a part of JSON up to 31 MiB."""
    return start + unit * ((BODY_BYTES - len(start) - len(end)) // len(unit)) + end


def make_webp() -> bytes:
    """A WebP of one colour and 25 million pixels in 28 bytes."""
    fields = [(SIDE_PX - 1, 14), (SIDE_PX - 1, 14), (0, 4), (0, 3), *[(1, 1), (0, 3)] * 5]
    bits = place = 0
    for value, count in fields:
        bits |= value << place
        place += count
    data = b"\x2f" + bits.to_bytes((place + 7) // 8, "little")
    data = b"VP8L" + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def make_png() -> bytes:
    """A transparent PNG of 25 million pixels with four samples of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deflater, row = zlib.compressobj(1), bytes(1 + SIDE_PX * 8)
    data = b"".join(deflater.compress(row) for _ in range(SIDE_PX)) + deflater.flush()
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def make_instances(picture: bytes, count: int) -> bytes:
    """The same picture several times, as JSON."""
    return b'{"instances":[' + b",".join([b'{"data":"%b"}' % base64.b64encode(picture)] * count) + b"]}"


def make_tensor(unit: bytes, datatype: bytes, shape: bytes) -> bytes:
    """A tensor of many numbers, as JSON."""
    start = b'{"inputs":[{"name":"x","datatype":"%b","shape":[%b],"data":[' % (datatype, shape)
    return fill(unit, start, unit.strip(b",") + b"]}]}")


ATTACKS = {
    "JSON of empty objects": Attack(8, PREDICT, JSON, lambda: fill(b"{},")),
    "JSON of small texts": Attack(8, V1, JSON, lambda: fill(b'"ab",')),
    "JSON of numbers": Attack(8, V2, JSON, lambda: make_tensor(b"1e1,", b"FP32", b"64,3,96,96")),
    "JSON of a large picture": Attack(8, V2, JSON, lambda: make_tensor(b"255,", b"UINT8", b"1,2000,1354,3")),
    "gzip of empty objects": Attack(8, V1, GZIP, lambda: gzip.compress(fill(b"{},"), 1)),
    "gzip of one text": Attack(8, V2, GZIP, lambda: gzip.compress(fill(b"A", b'["', b'"]'), 1)),
    "64 WebP": Attack(8, PREDICT, JSON, lambda: make_instances(make_webp(), 64)),
    "64 WebP, KServe": Attack(8, V1, JSON, lambda: make_instances(make_webp(), 64)),
    "PNG, 25 megapixels": Attack(72, PREDICT, {}, make_png),
    "PNG, another path": Attack(72, "//predictions/" + MODEL, {}, make_png),
    "24 PNG": Attack(4, PREDICT, JSON, lambda: make_instances(make_png(), 24)),
}


def attack(
    port: int, one: Attack, is_over: Event, ready: Barrier, answers: "multiprocessing.Queue[Counter[int]]"
) -> None:
    """Repeat an attack until it is over; a process of its own."""
    body, seen, lock = one.make_body(), Counter[int](), threading.Lock()
    ready.wait()

    def repeat() -> None:
        while not is_over.is_set():
            status = ask(port, "POST", one.path, body, one.headers)[0]
            with lock:
                seen[status] += 1

    threads = [threading.Thread(target=repeat, daemon=True) for _ in range(one.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
    answers.put(seen)


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, float]:
    """Send a request on a connection of its own; return its status, 0 for none, and the seconds until the answer."""
    connection, started = http.client.HTTPConnection("127.0.0.1", port, timeout=70), time.perf_counter()
    try:
        connection.request(method, path, body, {**make_headers(), **(headers or {})})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return 0, time.perf_counter() - started
    finally:
        connection.close()
    return response.status, time.perf_counter() - started


def watch(server: MeasuredServer, is_over: Event, seen: Seen) -> None:
    """Ask as others do, and look at the workers' memory, until it is over."""
    inference, management, metrics = server.ports
    questions: dict[str, tuple[int, str, str, bytes | None]] = {
        "health": (inference, "GET", "/health/live", None),
        "metrics": (metrics, "GET", "/metrics", None),
        "management": (management, "GET", "/models", None),
        "prediction": (inference, "PUT", PREDICT, PICTURE.read_bytes()),
    }

    def repeat(name: str) -> None:
        while not is_over.is_set():
            status, wait_s = ask(*questions[name])
            seen.waits_s.setdefault(name, []).append(wait_s)
            seen.failures[name, status] += status != HTTPStatus.OK
            is_over.wait(PAUSE_S)

    threads = [threading.Thread(target=repeat, args=[name]) for name in questions]
    for thread in threads:
        thread.start()
    while not is_over.is_set():
        seen.rss_bytes = max([seen.rss_bytes, *map(server.rss_bytes, server.worker_pids())])
        is_over.wait(0.01)
    for thread in threads:
        thread.join()


def run(server: MeasuredServer, attacks: Sequence[Attack], seconds: float) -> tuple[Counter[int], Seen]:
    """Run attacks together; return their answers by status, and what others saw."""
    queue: multiprocessing.Queue[Counter[int]] = multiprocessing.Queue()
    is_over, ready, seen = multiprocessing.Event(), multiprocessing.Barrier(len(attacks) + 1), Seen()
    common = (is_over, ready, queue)
    processes = [multiprocessing.Process(target=attack, args=[server.ports[0], one, *common]) for one in attacks]
    for process in processes:
        process.start()
    ready.wait()
    timer = threading.Timer(seconds, is_over.set)
    timer.start()
    watch(server, is_over, seen)
    answers = sum((queue.get() for _ in processes), Counter[int]())
    for process in processes:
        process.join()
    return answers, seen


def describe_waits(seen: Seen) -> str:
    """Return three cells of a table: memory, waits, and answers other than 200."""
    parts = []
    for what, waits_s in seen.waits_s.items():
        half, most, longest = (1000 * value for value in np.quantile(waits_s, (0.5, 0.95, 1)))
        parts.append(f"{what} {half:.0f}, {most:.0f}, {longest:.0f} ms")
    failures = {f"{what} {status}": number for (what, status), number in seen.failures.items() if number}
    return f"{seen.rss_bytes / 1e6:.0f} MB | {'; '.join(parts)} | {failures}"


def print_table(
    description: str | None,
    names: Sequence[str],
    quick: str,
    run_named: Callable[[MeasuredServer, Sequence[str], float], tuple[Counter[Any], Seen]],
) -> None:
    """Read the command line, and print a row for each of the names, or of those that are given, and one for all."""
    parser = make_parser(description)
    parser.add_argument("--seconds", type=float, default=choose(20.0, 2.0))
    parser.add_argument("names", nargs="*", default=choose([*names], [quick]))
    arguments = parser.parse_args()
    runs = {name: [name] for name in arguments.names}
    runs |= {"together": arguments.names} if len(runs) > 1 else {}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))  # the server has it too
    with MeasuredServer(workers="2") as server:
        for _ in range(LOGINS):
            server.request("GET", "/models")
        print("| attack | its answers | memory of a worker | waits: half, 95 %, all within | other answers |")
        print("| --- | --- | --- | --- | --- |")
        for name, chosen in runs.items():
            answers, seen = run_named(server, chosen, arguments.seconds)
            print(f"| {name} | {dict(answers)} | {describe_waits(seen)} |", flush=True)


def main() -> None:
    """Print a table."""
    print_table(
        __doc__,
        [*ATTACKS],
        "JSON of empty objects",
        lambda server, names, seconds: run(server, [ATTACKS[name] for name in names], seconds),
    )


if __name__ == "__main__":
    main()
