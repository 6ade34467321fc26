"""The bare compiled model, without any of the service: the limit that the service is measured against."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from app.engines.compiled.compile_report import COMPILED_FOLDER, IR_FILE

WARM_UP = 20


def open_bare(
    model: str, models: Path = PROJECT_ROOT / "models", threads: int = 1
) -> tuple[Callable[[np.ndarray], object], tuple[int, int, int]]:
    """Compile a model's newest version, by default of a shipped one; return what infers, and the shape of a picture."""
    path = max((models / model).iterdir()) / COMPILED_FOLDER / IR_FILE
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    options["ENABLE_CPU_PINNING"] = False  # else several processes all choose the first core
    compiled = openvino.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()
    height, width, channels = (dimension.get_length() for dimension in list(compiled.input(0).partial_shape)[1:])
    return lambda batch: request.infer({0: batch}), (height, width, channels)


def time_calls_ms(call: Callable[[], object], count: int, clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds of a call, by CPU time or another clock."""
    for _ in range(WARM_UP):
        call()
    started = clock()
    for _ in range(count):
        call()
    return (clock() - started) / count * 1000


def measure_bare_ms(model: str, predictions: int, models: Path = PROJECT_ROOT / "models") -> float:
    """CPU milliseconds of one inference on one thread of this process."""
    infer, shape = open_bare(model, models)
    image = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    return time_calls_ms(lambda: infer(image), predictions)


def measure_decode_ms(model: str, picture: bytes, count: int) -> float:
    """CPU milliseconds of decoding a picture to the model's size: Pillow and nothing else."""
    _, (height, width, _) = open_bare(model)
    return time_calls_ms(lambda: decode(picture, width, height), count)


def decode(picture: bytes, width: int, height: int) -> np.ndarray:
    """Decode a picture to uint8 [1, height, width, 3]."""
    with Image.open(io.BytesIO(picture)) as image:
        pixels = image.convert("RGB")
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(pixels)[np.newaxis]


def run_beside_itself(processes: int, *arguments: str) -> list[float]:
    """Run this module in several processes at once; return what each printed."""
    command = [sys.executable, "-m", "benchmarks.bare", *arguments]
    running = [subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return [float(process.communicate()[0]) for process in running]


def measure_bare_beside_itself_ms(model: str, predictions: int, processes: int) -> float:
    """CPU milliseconds of one inference in as many processes at once as the server has workers."""
    return sum(run_beside_itself(processes, model, str(predictions))) / processes


def measure_limit_per_s(model: str, picture: Path, predictions: int, processes: int) -> float:
    """Pictures a second that as many processes decode and infer, one after the other: the rate of the bare machine."""
    return sum(1000 / ms for ms in run_beside_itself(processes, model, str(predictions), str(picture)))


def main(model: str, predictions: int, picture: Path | None) -> None:
    """Print the CPU milliseconds of an inference, or, with a picture, those by the wall clock of decoding it too."""
    if picture is None:
        print(measure_bare_ms(model, predictions))
        return
    infer, (height, width, _) = open_bare(model)
    body = picture.read_bytes()
    print(time_calls_ms(lambda: infer(decode(body, width, height)), predictions, time.perf_counter))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
