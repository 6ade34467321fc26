"""Memory, open files and threads of the workers over many predictions of mixed sizes: `python -m benchmarks.soak`."""

import io
import threading
from collections import Counter
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers

CONNECTIONS = 8
WARM_UP = choose(10_000, 80)
SIZES = (
    (96, 96, "PNG"),
    (96, 96, "JPEG"),
    (50, 70, "BMP"),
    (200, 160, "WEBP"),
    (600, 450, "JPEG"),
    (1200, 900, "JPEG"),
)


def make_pictures() -> list[bytes]:
    """Smooth pictures of several sizes and formats."""
    numbers = np.random.default_rng(0)
    pictures = []
    for width, height, kind in SIZES:
        small = Image.fromarray(numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        stream = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(stream, kind)
        pictures.append(stream.getvalue())
    return pictures


def send(server: MeasuredServer, count: int, start: int, statuses: Counter[int]) -> None:
    """Send predictions on one connection; both models, every picture in turn."""
    models = sorted(path.name for path in (PROJECT_ROOT / "models").iterdir() if path.is_dir())
    connection = server.connect()
    for picture, number in zip(islice(cycle(make_pictures()), start, start + count), range(count), strict=False):
        # Nine small ones to one large: what is measured is the number of requests, not of pixels.
        body, model = (picture, models[number % 2]) if number % 10 == 0 or len(picture) < 20_000 else (SMALL, models[1])
        connection.request("PUT", f"/predictions/{model}?unfit=answer", body, make_headers())
        response = connection.getresponse()
        response.read()
        statuses[response.status] += 1
    connection.close()


SMALL = make_pictures()[0]


def run(server: MeasuredServer, count: int) -> Counter[int]:
    """Send so many predictions over all connections."""
    parts = [Counter[int]() for _ in range(CONNECTIONS)]
    threads = [
        threading.Thread(target=send, args=(server, count // CONNECTIONS, index, part))
        for index, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(parts, Counter())


def look(server: MeasuredServer) -> list[tuple[float, int, int]]:
    """Resident MB, open files and threads of each worker."""
    return [
        (
            server.rss_bytes(pid) / 1e6,
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            len(list(Path(f"/proc/{pid}/task").iterdir())),
        )
        for pid in server.worker_pids()
    ]


def main() -> None:
    """Print what the workers hold after the first ten thousand, and in the end."""
    parser = make_parser(__doc__)
    parser.add_argument("--predictions", type=int, default=choose(100_000, 160))
    options = parser.parse_args()
    with MeasuredServer(workers="2") as server:
        statuses = run(server, WARM_UP)
        before = look(server)
        statuses += run(server, options.predictions - WARM_UP)
        after = look(server)
    print(f"answers by status: {dict(statuses)}")
    for (rss, files, threads), (rss_after, files_after, threads_after) in zip(before, after, strict=True):
        print(
            f"a worker: {rss:.0f} MB after {WARM_UP}, {rss_after:.0f} MB after {options.predictions} "
            f"({(rss_after / rss - 1) * 100:+.1f} %); open files {files}, {files_after}; "
            f"threads {threads}, {threads_after}"
        )


if __name__ == "__main__":
    main()
