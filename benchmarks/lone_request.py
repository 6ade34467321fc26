"""A lone request on a slow model, beside the bare compiled model with all cores.

`python -m benchmarks.lone_request MODELS NAME PICTURE`: a folder of models, one of its names, a picture. Both take
turns; the median of each counts.
"""

import statistics
import time
from pathlib import Path

import numpy as np

from app.config.cpu_count import count_cores
from benchmarks.bare import open_bare
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers

ROUNDS = choose(30, 3)


def main(models: Path, name: str, picture: bytes) -> None:
    """Print both medians and their ratio."""
    infer, shape = open_bare(name, models, count_cores())
    image = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    bare, served = [], []
    with MeasuredServer(workers="2", models=str(models)) as server:
        connection = server.connect()
        for round_ in range(ROUNDS + 3):
            started = time.perf_counter()
            infer(image)
            between = time.perf_counter()
            connection.request("PUT", f"/predictions/{name}", picture, make_headers())
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"answered {answer.status}")
            if round_ >= 3:
                bare.append(between - started)
                served.append(time.perf_counter() - between)
    one, other = statistics.median(bare) * 1000, statistics.median(served) * 1000
    print(
        f"{name}: bare compiled model, {count_cores()} cores {one:.1f} ms; a request {other:.1f} ms; {other / one:.2f}"
    )


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("name")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    main(options.models.resolve(), options.name, options.picture.read_bytes())
