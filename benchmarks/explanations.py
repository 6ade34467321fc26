"""How long a heat map takes, and how long other callers wait meanwhile: `python -m benchmarks.explanations`.

First nobody explains, then one caller asks for heat maps without a pause; the other callers send one picture after the
other.
"""

import http.client
import statistics
import threading
import time

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers

PICTURES = {"pcam-classification": "normal.jpg", "isic-classification": "benign.jpg"}
CALLERS, SECONDS, ALONE = 2, choose(15, 1), choose(5, 1)


class Callers:
    """Callers that ask until they are stopped; `waits` are the seconds of each answer."""

    def __init__(self, server: MeasuredServer, path: str, body: bytes, count: int) -> None:
        self.waits: list[float] = []
        self._stops = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, path, body)) for _ in range(count)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, server: MeasuredServer, path: str, body: bytes) -> None:
        connection = server.connect()
        while not self._stops.is_set():
            self.waits.append(time_request(connection, path, body))


def time_request(connection: http.client.HTTPConnection, path: str, body: bytes) -> float:
    """Seconds of one answer; raises `RuntimeError` for another status than 200."""
    started = time.perf_counter()
    connection.request("PUT", path, body, make_headers())
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise RuntimeError(f"answered {response.status}: {text!r}")
    return time.perf_counter() - started


def find_p99_ms(waits: list[float]) -> float:
    """The time within which 99 of 100 answers came, in milliseconds."""
    return sorted(waits)[int(len(waits) * 0.99)] * 1000


def main() -> None:
    """Print a line a model."""
    make_parser(__doc__).parse_args()
    with MeasuredServer(workers="2") as server:
        for model, name in PICTURES.items():
            body = (PROJECT_ROOT / "models" / model / "1.1/examples" / name).read_bytes()
            prediction, explanation = f"/predictions/{model}", f"/explanations/{model}"
            connection = server.connect()
            alone = [time_request(connection, explanation, body) for _ in range(ALONE)]
            with Callers(server, prediction, body, CALLERS) as before:
                time.sleep(SECONDS)
            with Callers(server, explanation, body, 1) as maps, Callers(server, prediction, body, CALLERS) as beside:
                time.sleep(SECONDS)
            lone_s, busy_s = statistics.median(alone), statistics.median(maps.waits)
            print(
                f"{model}: a heat map takes {lone_s:.2f} s alone, {busy_s:.2f} beside {CALLERS} callers; "
                f"their p99 {find_p99_ms(before.waits):.1f} ms before, {find_p99_ms(beside.waits):.1f} ms meanwhile"
            )


if __name__ == "__main__":
    main()
