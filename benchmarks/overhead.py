"""CPU time of a prediction through gunicorn, beside the bare compiled model: `python -m benchmarks.overhead`.

Password, log and metrics are on. Server and bare model take turns, and each one's best round counts: other processes on
the machine can only add time. The server's figure is user + system time of all its processes, by predictions.
"""

import os
import threading
import time

import numpy as np
import openvino

from app.config import PROJECT_ROOT
from app.engines.report import COMPILED_FOLDER, IR_FILE
from benchmarks.server import MeasuredServer, make_headers

ROUNDS = 5
PREDICTIONS = 600
CONNECTIONS = (2, 8)
CASES = (
    ("pcam-classification", "synthetic-normal.png", "96x96 PNG"),
    ("isic-classification", "synthetic-benign.jpg", "600x450 JPEG"),
)


def measure_bare_ms(model: str) -> float:
    """CPU milliseconds of one inference on the bare compiled model, one thread."""
    path = PROJECT_ROOT / "models" / model / "1.0" / COMPILED_FOLDER / IR_FILE
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()
    shape = [1, *(dimension.get_length() for dimension in list(compiled.input(0).partial_shape)[1:])]
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(20):
        request.infer({0: image})
    started = time.process_time()
    for _ in range(PREDICTIONS):
        request.infer({0: image})
    return (time.process_time() - started) / PREDICTIONS * 1000


def send(server: MeasuredServer, path: str, body: bytes, count: int) -> None:
    """Send predictions on one connection that is kept open."""
    connection = server.connect()
    for _ in range(count):
        connection.request("PUT", path, body, make_headers())
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"answered {response.status}")
    connection.close()


def measure_server_ms(server: MeasuredServer, model: str, body: bytes, connections: int) -> float:
    """CPU milliseconds of all server processes by prediction, over connections that are kept open."""
    path = f"/predictions/{model}"
    for _ in range(4):
        send(server, path, body, 10)
    before = server.cpu_s()
    threads = [
        threading.Thread(target=send, args=(server, path, body, PREDICTIONS // connections)) for _ in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (server.cpu_s() - before) / PREDICTIONS * 1000


def main() -> None:
    """Print a line a model and number of connections."""
    print(f"{os.cpu_count()} cores; best of {ROUNDS} rounds of {PREDICTIONS} predictions")
    with MeasuredServer(workers="2") as server:
        for model, example, what in CASES:
            body = (PROJECT_ROOT / "models" / model / "1.0" / "examples" / example).read_bytes()
            rounds = [
                (measure_bare_ms(model), *(measure_server_ms(server, model, body, count) for count in CONNECTIONS))
                for _ in range(ROUNDS)
            ]
            bare, *through = (min(column) for column in zip(*rounds, strict=True))
            for count, whole in zip(CONNECTIONS, through, strict=True):
                print(
                    f"{model}, {what}, {count} connections: {whole:.2f} ms of CPU a prediction, bare compiled model "
                    f"{bare:.2f} ms, above it {whole - bare:.2f} ms"
                )


if __name__ == "__main__":
    main()
