"""CPU time of a prediction through gunicorn, beside the bare compiled model: `python -m benchmarks.overhead`.

Password, log and metrics are on. Server and bare model take turns, and each one's best round counts: other processes on
the machine can only add time. The server's figure is user + system time of all its processes, by predictions. The bare
model is measured alone, and in as many processes at once as the server has workers, since cores share caches.
"""

import os
import threading

from app.config.setting_types import PROJECT_ROOT
from benchmarks.bare import measure_bare_beside_itself_ms, measure_bare_ms
from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer

ROUNDS = choose(5, 1)
PREDICTIONS = choose(600, 16)
CONNECTIONS = (2, 8)
WORKERS = 2
CASES = (
    ("pcam-classification", "normal.jpg", "96x96 JPEG"),
    ("isic-classification", "benign.jpg", "224x224 JPEG"),
)


def measure_server_ms(server: MeasuredServer, model: str, body: bytes, connections: int) -> float:
    """CPU milliseconds of all server processes by prediction, over connections that are kept open."""
    for _ in range(4):
        server.predict(model, body, 10)
    before = server.cpu_s()
    threads = [
        threading.Thread(target=server.predict, args=(model, body, PREDICTIONS // connections))
        for _ in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (server.cpu_s() - before) / PREDICTIONS * 1000


def main() -> None:
    """Print a line a model and number of connections."""
    make_parser(__doc__).parse_args()
    print(f"{os.cpu_count()} cores; best of {ROUNDS} rounds of {PREDICTIONS} predictions")
    with MeasuredServer(workers=str(WORKERS)) as server:
        for model, example, what in CASES:
            body = (PROJECT_ROOT / "models" / model / "1.1" / "examples" / example).read_bytes()
            rounds = [
                (
                    measure_bare_ms(model, PREDICTIONS),
                    measure_bare_beside_itself_ms(model, PREDICTIONS, WORKERS),
                    *(measure_server_ms(server, model, body, count) for count in CONNECTIONS),
                )
                for _ in range(ROUNDS)
            ]
            alone, beside, *through = (min(column) for column in zip(*rounds, strict=True))
            print(f"{model}, {what}: bare compiled model {alone:.2f} ms alone, {beside:.2f} ms in {WORKERS} processes")
            for count, whole in zip(CONNECTIONS, through, strict=True):
                print(
                    f"  {count} connections: {whole:.2f} ms of CPU a prediction, {whole - alone:.2f} ms above the bare "
                    f"model alone, {whole - beside:.2f} ms above it in {WORKERS} processes"
                )


if __name__ == "__main__":
    main()
