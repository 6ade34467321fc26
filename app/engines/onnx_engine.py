"""Runs an ONNX model in ONNX Runtime."""

import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from app.arrays import Scores
from app.engines.network_input import NCHW, NHWC, find_layout, free_batch
from app.engines.reference_engine import ReferenceEngine
from app.errors import IntegrityError


class OnnxEngine(ReferenceEngine):
    """A network of one input and one output in an `.onnx` file."""

    framework = f"onnxruntime {onnxruntime.__version__}"
    FAULTS = (
        *(errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile),
        *(errors.NotImplemented, errors.RuntimeException),
    )

    def load(self) -> None:
        """Load the model; raises `IntegrityError` if it cannot be loaded, or has not one input and one output."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4  # what it cannot load, it says in its error
        try:
            self.network = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except self.FAULTS as error:
            raise IntegrityError(f"ONNX Runtime cannot load {self._path.name}: {error}") from error
        inputs = self.network.get_inputs()
        if len(inputs) != 1 or len(self.network.get_outputs()) != 1 or inputs[0].type != "tensor(float)":
            raise IntegrityError(f"{self._path.name} has not one input of float32 and one output")
        shape = [length if isinstance(length, int) else None for length in inputs[0].shape]
        self._layout = find_layout(self._path.name, shape, self._spec, NCHW, NHWC)
        self._takes_one = shape[0] == 1

    def _call(self, pixels: NDArray[np.float32]) -> Scores:
        scores: Scores = self.network.run(None, {self.network.get_inputs()[0].name: pixels})[0]
        return scores

    def _convert(self) -> openvino.Model:
        return free_batch(openvino.Core().read_model(self._path), self._spec, self._layout)
