"""Runs a compiled model: the fast road. Needs neither PyTorch nor TensorFlow."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.arrays import InputBatch, Scores
from app.config.cpu_count import count_cores
from app.engines.compiled.compile_report import COMPILED_FOLDER, read_ir
from app.engines.compiled.feature_distance import add_distance, read_groups
from app.errors import CompiledModelError, InferenceError
from app.manifest.model_manifest import ModelManifest

if TYPE_CHECKING:
    import openvino

SLOW_S = 0.05
"""A model that takes longer for one picture on one core gets all cores for each."""


class OpenVINOEngine:
    """OpenVINO on the CPU; the files are read as a whole and not mapped, so nothing that happens to them later matters.

    It runs the compiled model in the folder `compiled`; what is not quantized in it runs in float32. With `ir_sha256`,
    it runs only the files that their report spoke of. With `tells_distance`, each row of scores ends with the
    picture's distance to the training pictures, see `add_distance`. With `warms_up`, the first batch of several waits
    until every size of batch was met.
    """

    def __init__(
        self,
        folder: Path,
        manifest: ModelManifest,
        threads: int,
        compiled: str = COMPILED_FOLDER,
        ir_sha256: str = "",
        tells_distance: bool = False,
        warms_up: bool = True,
    ) -> None:
        self._folder = folder / compiled
        self._read_groups = partial(read_groups, folder, manifest) if tells_distance else None
        self._ir_sha256 = ir_sha256
        self._threads = threads
        self._sizes = manifest.batch.sizes
        self._is_warm = not warms_up
        self._takes_one = False
        self._one = np.zeros((1, manifest.input.height_px, manifest.input.width_px, 3), dtype=np.uint8)
        self._request_one: Any = None
        self._request_many: Any = None

    def load(self) -> None:
        """Read and compile the IR; raises `CompiledModelError` if it is not the one of its report."""
        import openvino  # here, so that commands that load no model start without it

        try:
            model = openvino.Core().read_model(*read_ir(self._folder, self._ir_sha256))
            if self._read_groups is not None:
                model = add_distance(model, self._read_groups(model))
        except RuntimeError as error:
            raise CompiledModelError(f"OpenVINO cannot read the compiled model: {error}") from error
        self._compile(model, self._threads or 1)
        # One core a picture serves most in all, but a slow model's lone caller would wait while other cores idle.
        if not self._threads and count_cores() > 1 and self._time_one() > SLOW_S:
            self._compile(model, count_cores())

    def _compile(self, model: "openvino.Model", threads: int) -> None:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": threads,
            # For one core no stream of its own: the calling thread infers, which saves two thread switches a picture.
            "NUM_STREAMS": 0 if threads == 1 else 1,
            # bfloat16, the default where the processor has it, moves probabilities by more than 1e-3.
            "INFERENCE_PRECISION_HINT": "f32",
            # Every worker would pin its threads to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = openvino.Core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise CompiledModelError(f"OpenVINO cannot load the compiled model: {error}") from error
        self._takes_one = compiled.input(0).partial_shape[0].is_static  # a program that was exported for one picture
        # A request that shares its input's memory cannot change its batch size, so each kind has its own.
        self._request_one, self._request_many = compiled.create_infer_request(), compiled.create_infer_request()
        self._request_one.set_input_tensor(openvino.Tensor(self._one, shared_memory=True))

    def _time_one(self) -> float:
        """Return how many seconds one picture takes; the first inference prepares, and does not count."""
        self.infer(self._one)
        started = time.perf_counter()
        self.infer(self._one)
        return time.perf_counter() - started

    def infer(self, batch: InputBatch) -> Scores:
        """Infer: a lone picture through memory that the request keeps, several through a copy of OpenVINO's own.

        The first several wait until every size of batch was met once, 0.1 to 0.3 s: OpenVINO keeps memory for each, and
        least of it where the largest comes first. Where callers never come together, none of it is spent.
        """
        assert self._request_one is not None, "load() comes first"
        try:
            if batch.shape == self._one.shape:
                np.copyto(self._one, batch)
                self._request_one.infer()
                return np.array(self._request_one.get_output_tensor(0).data)
            if self._takes_one:
                return np.concatenate([self.infer(one[np.newaxis]) for one in batch])
            if not self._is_warm:
                self._is_warm = True
                for size in self._sizes:
                    self._request_many.infer({0: np.repeat(self._one, size, axis=0)})
            return np.array(self._request_many.infer({0: batch}, share_outputs=True)[0])
        except RuntimeError as error:
            raise InferenceError("The model failed.") from error

    def close(self) -> None:
        """Free the compiled model."""
        self._request_one = self._request_many = None
