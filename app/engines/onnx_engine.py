"""Runs an ONNX model in ONNX Runtime: the reference that its compiled model is compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from app.arrays import InputBatch, Scores
from app.engines.network_input import NCHW, NHWC, find_layout, free_batch, normalize, split_batch, take_pixels
from app.errors import InferenceError, IntegrityError
from app.manifest.model_manifest import ModelManifest

FAULTS = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
)
FLOAT32 = "tensor(float)"


class OnnxEngine:
    """A network of float32 [N, 3, H, W] or [N, H, W, 3] on the CPU, normalization before it."""

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._path = folder / manifest.artifact.file
        self._spec = manifest.input
        self._threads = threads
        self._takes_one = False
        self._layout = NCHW  # until it is loaded
        self.session: Any = None

    def load(self) -> None:
        """Load the model.

        Raises:
            IntegrityError: ONNX Runtime cannot load it, or it has not one input of pictures and one output.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4  # what it cannot load, it says in its error
        try:
            self.session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except FAULTS as error:
            raise IntegrityError(f"ONNX Runtime cannot load {self._path.name}: {error}") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(self.session.get_outputs()) != 1 or inputs[0].type != FLOAT32:
            raise IntegrityError(f"{self._path.name} has not one input of float32 and one output")
        shape = [length if isinstance(length, int) else None for length in inputs[0].shape]
        self._layout = find_layout(self._path.name, shape, self._spec, NCHW, NHWC)
        self._takes_one = shape[0] == 1

    def infer(self, batch: InputBatch) -> Scores:
        """Infer."""
        assert self.session is not None, "load() comes first"
        parts = split_batch(normalize(batch, self._spec, self._layout), self._takes_one)
        name = self.session.get_inputs()[0].name
        try:
            scores: Scores = np.concatenate([self.session.run(None, {name: part})[0] for part in parts])
        except FAULTS as error:
            raise InferenceError("The model failed.") from error
        return scores

    def to_openvino(self) -> openvino.Model:
        """Read the file with OpenVINO's own reader, and put the normalization before it."""
        model = openvino.Core().read_model(self._path)
        free_batch(model, self._spec, self._layout)
        return take_pixels(model, self._layout, self._spec)

    def describe(self) -> str:
        """Return the framework's name and version."""
        return f"onnxruntime {onnxruntime.__version__}"

    def close(self) -> None:
        """Free the model."""
        self.session = None
