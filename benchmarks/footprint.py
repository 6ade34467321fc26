"""Start, memory and size of what serves: `python -m benchmarks.footprint`, run where requirements_serve.txt is."""

import sys
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import make_parser
from benchmarks.server import MeasuredServer

MB = 1e6


def measure_folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    """Print a line a figure."""
    make_parser(__doc__).parse_args()
    body = (PROJECT_ROOT / "models/pcam-classification/1.1/examples/normal.jpg").read_bytes()
    with MeasuredServer(workers="2") as server:
        print(f"gunicorn start to ready, two workers: {server.ready_s:.1f} s")
        for _ in range(20):
            server.request("PUT", "/predictions/pcam-classification", body)
        sizes = [server.rss_bytes(pid) / MB for pid in server.worker_pids()]
        print(f"resident memory of a worker after predictions: {max(sizes):.0f} MB")
    print(f"environment: {measure_folder_bytes(Path(sys.prefix)) / MB:.0f} MB")


if __name__ == "__main__":
    main()
