"""Where the CPU time of a prediction goes, by stage: `python -m benchmarks.stages`.

One connection, one request after the other, so that the server's own clocks (`scancer_prediction_seconds`,
`scancer_request_seconds`) tell processor time. What they do not see is HTTP: reading, parsing and sending, and the
kernel's part in it; it is the rest of the processes' user + system time.
"""

import io
import os
import re
import urllib.request

import numpy as np
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer

ROUNDS = choose(3, 1)
PREDICTIONS = choose(300, 10)
LARGE_PREDICTIONS = choose(12, 3)
CASES = (
    ("pcam-classification", "normal.jpg", "96x96 JPEG"),
    ("isic-classification", "benign.jpg", "224x224 JPEG"),
    ("isic-classification", None, "6000x4000 JPEG"),
)
SERIES = re.compile(r"^scancer_(?:prediction|request)_seconds_sum\{(.*)\} (\S+)$", re.MULTILINE)
HEADER = "| model | picture | decode | wait | inference | auth, answer, metrics, log | HTTP | in all |"


def make_large_jpeg() -> bytes:
    """A smooth picture of 24 million pixels."""
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    stream = io.BytesIO()
    small.resize((6000, 4000), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def read_clocks(server: MeasuredServer, model: str) -> dict[str, float]:
    """The seconds that the server has counted for a model, by stage, and for its requests (`request`)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[2]}/metrics") as answer:
        text = answer.read().decode()
    clocks = {}
    for labels, value in SERIES.findall(text):
        if f'model="{model}"' in labels:
            clocks[re.search(r'stage="(\w+)"', labels)[1]] = float(value)
        elif 'rule="/predictions/<model_name>"' in labels and "stage=" not in labels:
            clocks["request"] = float(value)
    return clocks


def measure(server: MeasuredServer, model: str, body: bytes, count: int) -> list[float]:
    """Milliseconds a prediction: decode, wait, inference, the rest of the application, HTTP, in all."""
    server.predict(model, body, max(3, count // 10))
    before, cpu_s = read_clocks(server, model), server.cpu_s()
    server.predict(model, body, count)
    cpu_s = server.cpu_s() - cpu_s
    spent = {stage: seconds - before[stage] for stage, seconds in read_clocks(server, model).items()}
    stages = [spent["decode"], spent["queue"], spent["inference"]]
    parts = [*stages, spent["request"] - sum(stages), cpu_s - spent["request"], cpu_s]
    return [part / count * 1000 for part in parts]


def main() -> None:
    """Print a table; of each case the round that took least in all."""
    make_parser(__doc__).parse_args()
    print(f"{os.cpu_count()} cores; ms a prediction, best of {ROUNDS} rounds")
    print(f"{PREDICTIONS} predictions a round, {LARGE_PREDICTIONS} of the largest picture")
    print(f"{HEADER}\n{re.sub('[^|]+', ' --- ', HEADER)}")
    with MeasuredServer(workers="1") as server:
        for model, example, what in CASES:
            if example is None:
                body, count = make_large_jpeg(), LARGE_PREDICTIONS
            else:
                body = (PROJECT_ROOT / "models" / model / "1.1" / "examples" / example).read_bytes()
                count = PREDICTIONS
            best = min((measure(server, model, body, count) for _ in range(ROUNDS)), key=lambda parts: parts[-1])
            print(f"| {model} | {what} | " + " | ".join(f"{part:.2f}" for part in best) + " |")


if __name__ == "__main__":
    main()
