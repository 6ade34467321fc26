"""What ten more models cost a worker until they are asked for: `python -m benchmarks.many_models`.

The models are copies of the shipped pcam model (14 MB of weights) under names that come after the shipped ones. Memory
is what the kernel counts as the worker's own (`Private_*` of `/proc/<pid>/smaps_rollup`), and what it shares.
"""

import re
import shutil
import tempfile
import time
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer

COPIES = choose(10, 1)
SOURCE = "pcam-classification"
SETTLE_S = 1.0


def copy_model(models: Path, name: str) -> None:
    """Copy the shipped model, and call it otherwise."""
    target = models / name / "1.1"
    shutil.copytree(PROJECT_ROOT / "models" / SOURCE / "1.1", target)
    manifest = target / "model.toml"
    manifest.write_text(manifest.read_text().replace(f'name = "{SOURCE}"', f'name = "{name}"'))


def measure_memory_mb(pid: int) -> tuple[float, float]:
    """Private and shared resident memory of a process."""
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE))
    parts = [sum(int(kb) for name, kb in sizes.items() if name.startswith(kind)) for kind in ("Private_", "Shared_")]
    return parts[0] / 1000, parts[1] / 1000


def main() -> None:
    """Print a line without the copies, with them, and with one of them in use."""
    make_parser(__doc__).parse_args()
    body = (PROJECT_ROOT / "models" / SOURCE / "1.1/examples/normal.jpg").read_bytes()
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        for number in range(COPIES + 1):
            if number:
                copy_model(models, f"spare{number:02}-classification")
            else:
                shutil.copytree(PROJECT_ROOT / "models", models, dirs_exist_ok=True)
            if number not in (0, COPIES):
                continue
            with MeasuredServer(workers="1", models=name) as server:
                server.request("PUT", f"/predictions/{SOURCE}", body)
                print_line(f"{number} more models", server)
                if number:
                    server.request("PUT", "/predictions/spare01-classification", body)
                    print_line("one of them in use", server)


def print_line(what: str, server: MeasuredServer) -> None:
    """Print a worker's memory, once it has finished what it does after it is ready."""
    pid = server.worker_pids()[0]
    private, shared = measure_memory_mb(pid)
    while True:
        time.sleep(SETTLE_S)
        before, (private, shared) = private, measure_memory_mb(pid)
        if abs(private - before) < 0.1:
            break
    print(f"{what}: ready after {server.ready_s:.2f} s, {private:.1f} MB private, {shared:.1f} MB shared")


if __name__ == "__main__":
    main()
