"""Reloads and dying workers under load: `python -m benchmarks.reload`.

Eight clients send two pictures at random and compare each answer with the first one they got. First the server is
reloaded (HUP) again and again until 2,000 predictions are through: none may fail. Then a worker is killed (KILL) every
five seconds for a minute: what it had in hand is lost, but no answer may be wrong.
"""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter

from app.config.setting_types import PROJECT_ROOT
from benchmarks.callers import Callers
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers

CLIENTS = 8
RELOADED_PREDICTIONS = choose(2000, 20)
RELOAD_EVERY_S, KILL_EVERY_S, KILLS_FOR_S = 1.5, choose(5.0, 1.0), choose(60.0, 1.0)
TOLERANCE = 1e-5
MODEL = "pcam-classification"
PICTURES = ("normal.jpg", "metastatic.jpg")


class Clients(Callers):
    """Clients that send until they are stopped; `counts` says what came of it."""

    def __init__(self, server: MeasuredServer) -> None:
        super().__init__(CLIENTS)
        folder = PROJECT_ROOT / "models" / MODEL / "1.1/examples"
        self._server = server
        self._bodies = [(folder / name).read_bytes() for name in PICTURES]
        self._expected = [server.request("PUT", f"/predictions/{MODEL}", body)[1] for body in self._bodies]
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def ask(self, number: int) -> None:
        """Send the pictures in an order of its own, and judge the answers."""
        chooser, connection = random.Random(number), self._server.connect()
        while not self.stops.is_set():
            index = chooser.randrange(len(self._bodies))
            try:
                connection.request("PUT", f"/predictions/{MODEL}", self._bodies[index], make_headers())
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = self._server.connect()
                outcome = "lost"
            else:
                outcome = self._judge(response.status, text, self._expected[index]["probabilities"])
            with self._lock:
                self.counts[outcome] += 1
        connection.close()

    @staticmethod
    def _judge(status: int, text: bytes, expected: dict[str, float]) -> str:
        if status != 200:
            return f"status {status}"
        given = json.loads(text)["probabilities"]
        is_right = all(abs(given[name] - value) <= TOLERANCE for name, value in expected.items())
        return "right" if is_right else "wrong"


def main() -> None:
    """Print what the clients got."""
    make_parser(__doc__).parse_args()
    with MeasuredServer(workers="2") as server:
        with Clients(server) as clients:
            reloads = 0
            while clients.counts.total() < RELOADED_PREDICTIONS:
                time.sleep(RELOAD_EVERY_S)
                server.process.send_signal(signal.SIGHUP)
                reloads += 1
            time.sleep(RELOAD_EVERY_S)
        print(f"{reloads} reloads: {dict(clients.counts)}")
        with Clients(server) as clients:
            end, kills = time.monotonic() + KILLS_FOR_S, 0
            while time.monotonic() < end:
                time.sleep(KILL_EVERY_S)
                os.kill(random.choice(server.worker_pids()), signal.SIGKILL)
                kills += 1
        print(f"{kills} workers killed in {KILLS_FOR_S:.0f} s: {dict(clients.counts)}")


if __name__ == "__main__":
    main()
