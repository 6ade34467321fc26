"""TorchServe 0.12 beside us: `python -m benchmarks.peers.torchserve --environment FOLDER`.

The environment is a virtual one of its own, made once (Java 17 and Debian's wrk must be there too):

    python3 -m venv FOLDER
    FOLDER/bin/pip install torch==2.13.0 torchserve==0.12.0 torch-model-archiver pyyaml psutil packaging pillow numpy \\
        setuptools

Both servers run the shipped pcam weights in float32 with two workers of one thread each; TorchServe batches up to
`--batch-size` pictures within 5 ms, and asks for no password, while we ask for one. They take turns; wrk with eight
connections.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from app.config import PROJECT_ROOT
from benchmarks.load import Load, run_wrk, write_script
from benchmarks.server import MeasuredServer, find_free_ports, sum_cpu_s

ROUNDS, CONNECTIONS = 3, 8
MODEL = "pcam-classification"
PICTURE = PROJECT_ROOT / "models" / MODEL / "1.0/examples/synthetic-normal.png"
CONFIG = """inference_address=http://127.0.0.1:{ports[0]}
management_address=http://127.0.0.1:{ports[1]}
metrics_address=http://127.0.0.1:{ports[2]}
grpc_inference_port={ports[3]}
grpc_management_port={ports[4]}
disable_token_authorization=true
model_store={folder}
load_models=pcam.mar
models={models}
"""
SETTINGS = {"defaultVersion": True, "marName": "pcam.mar", "minWorkers": 2, "maxWorkers": 2, "maxBatchDelay": 5}


class TorchServe:
    """A TorchServe of its own, with the interface that `run_wrk` asks of a server."""

    def __init__(self, process: subprocess.Popen[bytes], ports: list[int]) -> None:
        self.process, self.ports = process, ports

    def pids(self) -> list[int]:
        """Itself and all its descendants."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                queue += [int(child) for child in children.read_text().split()]
        return found

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return sum_cpu_s(self.pids())


def pack(environment: Path, folder: Path) -> None:
    """Make the archive with TorchServe's own tool."""
    torch.save(load_file(PROJECT_ROOT / "models" / MODEL / "1.0/model.safetensors"), folder / "pcam.pt")
    command = [environment / "bin/torch-model-archiver", "--model-name", "pcam", "--version", "1.0"]
    command += ["--serialized-file", folder / "pcam.pt", "--handler", Path(__file__).with_name("torchserve_handler.py")]
    command += ["--extra-files", PROJECT_ROOT / "app/engines/torch_architectures.py", "--export-path", folder]
    subprocess.run(command, check=True, capture_output=True)


def ask(address: str, body: bytes) -> dict[str, float]:
    """Send one picture."""
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "image/png"}, method="PUT")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


@contextmanager
def start_torchserve(environment: Path, folder: Path, batch_size: int) -> Iterator[tuple[TorchServe, float]]:
    """Start TorchServe, wait for its first answer, and stop it in the end."""
    ports = find_free_ports(5)
    models = json.dumps({"pcam": {"1.0": {**SETTINGS, "batchSize": batch_size, "responseTimeout": 120}}})
    (folder / "config.properties").write_text(CONFIG.format(ports=ports, folder=folder, models=models))
    command = [environment / "bin/torchserve", "--foreground", "--ncs", "--ts-config", folder / "config.properties"]
    settings = {
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "LOG_LOCATION": str(folder),
        "METRICS_LOCATION": str(folder),
    }
    started = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **settings}, cwd=folder, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{ports[0]}/predictions/pcam"
        while True:
            try:
                ask(address, PICTURE.read_bytes())
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > started + 120:
                    sys.exit((folder / "log").read_text()[-3000:])
                time.sleep(0.1)
        yield TorchServe(process, ports), time.monotonic() - started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def sum_rss_mb(pids: list[int]) -> float:
    """Resident memory of several processes, shared pages counted once."""
    fields = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(text.partition("\nPss:")[2].split()[0]) for text in fields) / 1000


def print_row(name: str, loads: list[Load], rss_mb: float, start_s: float) -> None:
    """Print a row of the table."""
    rate, cpu = max(load.answered_per_s for load in loads), min(load.cpu_ms for load in loads)
    p50, p99 = (statistics.median(getattr(load, key) for load in loads) for key in ("p50_ms", "p99_ms"))
    print(f"| {name} | {cpu:.1f} ms | {rate:.0f}/s | {p50:.0f} ms | {p99:.0f} ms | {rss_mb:.0f} MB | {start_s:.1f} s |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=10, help="of each round")
    parser.add_argument("--batch-size", type=int, default=8, help="TorchServe's")
    options = parser.parse_args()
    environment = options.environment.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack(environment, folder)
        script = write_script(folder, PICTURE)
        with (
            start_torchserve(environment, folder, options.batch_size) as (theirs, their_start_s),
            MeasuredServer(workers="2") as ours,
        ):
            answer = ask(f"http://127.0.0.1:{theirs.ports[0]}/predictions/pcam", PICTURE.read_bytes())
            expected = ours.request("PUT", f"/predictions/{MODEL}", PICTURE.read_bytes())[1]["probabilities"]
            difference = max(abs(answer[name] - value) for name, value in expected.items())
            runs: dict[str, Callable[[int], Load]] = {
                "ours": lambda seconds: run_wrk(ours, script, f"/predictions/{MODEL}", CONNECTIONS, seconds),
                "TorchServe": lambda seconds: run_wrk(theirs, script, "/predictions/pcam", CONNECTIONS, seconds),
            }
            for run in runs.values():
                run(5)
            loads = {who: [] for who in runs}
            for _ in range(ROUNDS):
                for who, run in runs.items():
                    loads[who].append(run(options.seconds))
            print(
                f"largest difference of a probability: {difference:.1e}; failed: "
                f"{sum(load.others for each in loads.values() for load in each)}"
            )
            print("| server | CPU of a prediction | predictions | p50 | p99 | memory | start to answer |")
            print("| --- | --- | --- | --- | --- | --- | --- |")
            print_row("this service", loads["ours"], sum_rss_mb([ours.process.pid, *ours.worker_pids()]), ours.ready_s)
            print_row(
                f"TorchServe 0.12.0, batches up to {options.batch_size}",
                loads["TorchServe"],
                sum_rss_mb(theirs.pids()),
                their_start_s,
            )


if __name__ == "__main__":
    main()
