"""The bare compiled model, without any of the service: the limit that the service is measured against."""

import subprocess
import sys
import time

import numpy as np
import openvino

from app.config import PROJECT_ROOT
from app.engines.report import COMPILED_FOLDER, IR_FILE

WARM_UP = 20


def measure_bare_ms(model: str, predictions: int) -> float:
    """CPU milliseconds of one inference on one thread of this process."""
    path = PROJECT_ROOT / "models" / model / "1.0" / COMPILED_FOLDER / IR_FILE
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()
    shape = [1, *(dimension.get_length() for dimension in list(compiled.input(0).partial_shape)[1:])]
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(WARM_UP):
        request.infer({0: image})
    started = time.process_time()
    for _ in range(predictions):
        request.infer({0: image})
    return (time.process_time() - started) / predictions * 1000


def measure_bare_beside_itself_ms(model: str, predictions: int, processes: int) -> float:
    """The same in several processes at once, as many as the server has workers, so that both share their caches."""
    command = [sys.executable, "-m", "benchmarks.bare", model, str(predictions)]
    running = [subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    figures = [float(process.communicate()[0]) for process in running]
    return sum(figures) / processes


if __name__ == "__main__":
    print(measure_bare_ms(sys.argv[1], int(sys.argv[2])))
