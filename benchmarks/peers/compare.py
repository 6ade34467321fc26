"""Another server beside ours: started, its answers checked against ours, both loaded in turn, a table printed.

Each peer's module says how it is set up and calls `compare`. Its own environment is made as that module's head says, on
a machine with Debian's wrk, and given with `--environment`. Both servers run the same weights in float32 with two
workers of one thread each; ours asks for a password and logs. They run side by side and are loaded in turn (A B A B):
`wrk -t1 -c8`. The best rate and CPU time of the rounds count, and the median of the waiting times.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from app.config.setting_types import PROJECT_ROOT
from app.manifest.model_manifest import read_manifest
from app.pipeline.postprocess import undo_calibration
from benchmarks.bare import measure_bare_ms
from benchmarks.load import Load, run_wrk, write_script
from benchmarks.peers.peer import Case, Peer, PeerServer, Setup, start_peer
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, find_free_ports, make_headers

ROUNDS, CONNECTIONS, WARM_UP_S = choose(3, 1), 8, choose(5, 3)
CHECKS = choose(20, 2)  # of each picture
RANDOM_MODEL, RANDOM_SIDE_PX, RANDOM_CLASSES = "random-weights", 96, 3


def open_shipped(model: str, *examples: str) -> Case:
    """A shipped model."""
    folder = PROJECT_ROOT / "models"
    return Case(folder, model, tuple(folder / model / "1.1/examples" / name for name in examples))


PCAM = open_shipped("pcam-classification", "normal.jpg", "metastatic.jpg")


def make_random(architecture: str, models: Path) -> Case:
    """A model of random weights, compiled, with the pictures of pcam."""
    from benchmarks.random_model import write_model

    write_model(models, RANDOM_MODEL, architecture, RANDOM_SIDE_PX, RANDOM_CLASSES)
    command = [sys.executable, "-m", "flask", "models", "compile", RANDOM_MODEL]
    environment = {**os.environ, "SCANCER_MODELS": str(models)}
    subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return Case(models, RANDOM_MODEL, PCAM.pictures)


def ask_ours(server: MeasuredServer, case: Case, picture: bytes) -> dict[str, float]:
    """Send one picture to our server; return the probabilities without the calibration, which the peers do not know."""
    probabilities = server.request("PUT", f"/predictions/{case.model}", picture)[1]["probabilities"]
    row = undo_calibration(np.array([list(probabilities.values())]), read_manifest(case.folder).output)[0]
    return dict(zip(probabilities, row.tolist(), strict=True))


def find_difference(theirs: PeerServer, ours: MeasuredServer, case: Case) -> float:
    """The largest difference of a probability, each picture asked often and at once so that batches are mixed."""
    bodies = [picture.read_bytes() for picture in case.pictures]
    expected = [ask_ours(ours, case, body) for body in bodies]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = list(pool.map(theirs.ask, bodies * CHECKS))
    pairs = zip(expected * CHECKS, answers, strict=True)
    return max(abs(answer[name] - value) for wanted, answer in pairs for name, value in wanted.items())


def find_version(setup: Setup, distribution: str) -> str:
    """The version that is installed in the peer's environment."""
    code = f"import importlib.metadata; print(importlib.metadata.version({distribution!r}))"
    return subprocess.run([setup.bin("python"), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def sum_memory_mb(pids: list[int], kind: str) -> float:
    """Resident memory of several processes: `Pss` counts pages they share once, `Rss` in each of them."""
    texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(text.partition(f"\n{kind}:")[2].split()[0]) for text in texts) / 1000


def take_turns(theirs: PeerServer, ours: MeasuredServer, case: Case, seconds: int) -> tuple[list[Load], list[Load]]:
    """Load ours and theirs, A B A B; return what was seen of each."""
    body = theirs.peer.encode(case.pictures[0].read_bytes())
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "peer.body").write_bytes(body)
        our_script = write_script(Path(name), case.pictures[0], "PUT", make_headers())
        their_script = write_script(Path(name), Path(name) / "peer.body", "POST", theirs.peer.headers)

        def run_ours(seconds: int) -> Load:
            return run_wrk(ours, our_script, f"/predictions/{case.model}", CONNECTIONS, seconds)

        def run_theirs(seconds: int) -> Load:
            return run_wrk(theirs, their_script, theirs.peer.path, CONNECTIONS, seconds)

        run_ours(WARM_UP_S), run_theirs(WARM_UP_S)
        rounds = [(run_ours(seconds), run_theirs(seconds)) for _ in range(ROUNDS)]
    return [round_[0] for round_ in rounds], [round_[1] for round_ in rounds]


def print_row(name: str, loads: list[Load], pids: list[int], start_s: float) -> None:
    """Print a row of the table."""
    rate, cpu = max(load.answered_per_s for load in loads), min(load.cpu_ms for load in loads)
    p50, p99 = (statistics.median(getattr(load, key) for load in loads) for key in ("p50_ms", "p99_ms"))
    pss, rss = (sum_memory_mb(pids, kind) for kind in ("Pss", "Rss"))
    print(
        f"| {name} | {cpu:.1f} ms | {rate:.0f}/s | {p50:.0f} ms | {p99:.0f} ms | {pss:.0f} MB | {rss:.0f} MB "
        f"| {start_s:.1f} s |"
    )


def run_pair(peer: Peer, setup: Setup, seconds: int) -> None:
    """Start both, check the peer's answers, and print both rows."""
    case, picture = setup.case, setup.case.pictures[0].read_bytes()
    with ExitStack() as stack:
        theirs, their_start_s = stack.enter_context(start_peer(peer, setup, picture))
        ours = stack.enter_context(MeasuredServer(workers="2", models=str(case.models)))
        ready = time.monotonic()
        ask_ours(ours, case, picture)
        our_start_s = ours.ready_s + time.monotonic() - ready
        difference = find_difference(theirs, ours, case)
        our_loads, their_loads = take_turns(theirs, ours, case, seconds)
        failed = sum(load.others + round(load.refused_per_s * seconds) for load in [*our_loads, *their_loads])
        print(f"{case.model}: largest difference of a probability {difference:.1e}; {failed} failed")
        print("| server | CPU of a prediction | predictions | p50 | p99 | memory | sum of RSS | start to answer |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        print_row(
            f"{peer.distribution} {find_version(setup, peer.distribution)}", their_loads, theirs.pids(), their_start_s
        )
        print_row("this service", our_loads, [ours.process.pid, *ours.worker_pids()], our_start_s)


def compare(description: str, prepare: Callable[[Setup], Peer], shipped: Case = PCAM) -> None:
    """The command of a peer's module."""
    parser = make_parser(description)
    parser.add_argument("--environment", type=Path, required=True, help="the peer's own")
    parser.add_argument("--seconds", type=int, default=choose(10, 3), help="of each round")
    parser.add_argument("--batch-size", type=int, default=8, help="the peer's")
    parser.add_argument("--delay-ms", type=int, default=5, help="how long the peer gathers a batch")
    parser.add_argument("--random", metavar="ARCHITECTURE", help="random weights at 96x96 instead of the shipped model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        peer_folder, models = Path(name) / "peer", Path(name) / "models"
        peer_folder.mkdir()
        case = make_random(options.random, models) if options.random else shipped
        setup = Setup(
            options.environment.absolute(), peer_folder, find_free_ports(5), case, options.batch_size, options.delay_ms
        )
        print(f"bare compiled model: {measure_bare_ms(case.model, 200, case.models):.2f} ms of CPU")
        run_pair(prepare(setup), setup, options.seconds)
