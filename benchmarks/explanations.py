"""How long a heat map takes, and how long other callers wait meanwhile: `python -m benchmarks.explanations`.

First nobody explains, then one caller asks for heat maps without a pause; the other callers send one picture after the
other.
"""

import http.client
import statistics
import time

from app.config.setting_types import PROJECT_ROOT
from benchmarks.callers import Callers
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers

PICTURES = {"pcam-classification": "normal.jpg", "isic-classification": "benign.jpg"}
CALLERS, SECONDS, ALONE = 2, choose(15, 1), choose(5, 1)


class TimedCallers(Callers):
    """Callers that ask for the same; `waits` are the seconds of each answer."""

    def __init__(self, server: MeasuredServer, path: str, body: bytes, count: int) -> None:
        super().__init__(count)
        self.waits: list[float] = []
        self._server, self._path, self._body = server, path, body

    def ask(self, number: int) -> None:  # noqa: ARG002  # every caller does the same
        """Ask, one request after the other."""
        connection = self._server.connect()
        while not self.stops.is_set():
            self.waits.append(time_request(connection, self._path, self._body))


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
            with TimedCallers(server, prediction, body, CALLERS) as before:
                time.sleep(SECONDS)
            maps, beside = TimedCallers(server, explanation, body, 1), TimedCallers(server, prediction, body, CALLERS)
            with maps, beside:
                time.sleep(SECONDS)
            lone_s, busy_s = statistics.median(alone), statistics.median(maps.waits)
            print(
                f"{model}: a heat map takes {lone_s:.2f} s alone, {busy_s:.2f} beside {CALLERS} callers; "
                f"their p99 {find_p99_ms(before.waits):.1f} ms before, {find_p99_ms(beside.waits):.1f} ms meanwhile"
            )


if __name__ == "__main__":
    main()
