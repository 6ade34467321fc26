"""Runs a compiled model: the fast road. Needs neither PyTorch nor TensorFlow."""

from pathlib import Path

import numpy as np
import openvino

from app.arrays import InputBatch, Scores
from app.engines.report import COMPILED_FOLDER, IR_FILE
from app.errors import CompiledModelError, InferenceError
from app.manifest import ModelManifest


class OpenVINOEngine:
    """OpenVINO on the CPU, in float32; the weights are mapped from the file, so workers share their pages."""

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:  # noqa: ARG002  # Engine's
        self._path = folder / COMPILED_FOLDER / IR_FILE
        self._threads = threads
        self._request: openvino.InferRequest | None = None

    def load(self) -> None:
        """Read and compile the IR; its report was checked before (`repository/model_repository.py`)."""
        options = {
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            # bfloat16, the default where the processor has it, moves probabilities by more than 1e-3.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._request = openvino.Core().compile_model(self._path, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise CompiledModelError(f"OpenVINO cannot load the compiled model: {error}") from error

    def infer(self, batch: InputBatch) -> Scores:
        """Infer; the batch is copied in, since a request fed with shared memory cannot change its batch size."""
        assert self._request is not None, "load() comes first"
        try:
            scores: Scores = np.array(self._request.infer({0: batch}, share_outputs=True)[0])
        except RuntimeError as error:
            raise InferenceError("The model failed.") from error
        return scores

    def close(self) -> None:
        """Free the compiled model."""
        self._request = None
