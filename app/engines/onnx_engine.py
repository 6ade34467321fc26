"""Runs an ONNX model in ONNX Runtime."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from app.arrays import Scores
from app.engines.network_facts import find_class_names
from app.engines.network_input import describe_tensor, free_batch, require_one
from app.engines.reference_engine import ReferenceEngine
from app.errors import IntegrityError

NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:|Exception during initialization: |Fatal error: "
    r"|\S+\.(?:cc|h):\d+ (?:[\w: ]*::\w+\([^()]*\)|\w+) "
)
"""What ONNX Runtime writes of itself and of the server's folders into its errors."""
MISSING_WEIGHTS = re.compile(r'External data path does not exist: "?([^"\n]+)')


def explain(path: Path, text: str) -> str:
    """Say why ONNX Runtime cannot load a file, by its error."""
    if missing := MISSING_WEIGHTS.search(text):
        return (
            f"{path.name} keeps its weights in {Path(missing[1]).name}, and a file beside it is taken under the name "
            f"{path.name}.data or {path.name}_data alone; bring both under these names, or write the model into one "
            f"file: onnx.save(onnx.load('{path.name}'), 'whole.onnx')"
        )
    return f"ONNX Runtime cannot load {path.name}: {NOISE.sub('', text).strip()}"


class OnnxEngine(ReferenceEngine):
    """A network of one input and one output in an `.onnx` file."""

    framework = f"onnxruntime {onnxruntime.__version__}"
    FAULTS = (
        *(errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile),
        *(errors.NotImplemented, errors.RuntimeException),
    )

    def open(self) -> None:
        """Load the model; raises `IntegrityError` if it cannot be loaded, or has not one input and one output."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4  # what it cannot load, it says in its error
        try:
            self.network = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except self.FAULTS as error:
            raise IntegrityError(explain(self._path, str(error))) from error
        file, inputs, outputs = self._path.name, self.network.get_inputs(), self.network.get_outputs()
        require_one(
            file, *([describe_tensor(each.name, read_shape(each)) for each in part] for part in (inputs, outputs))
        )
        if inputs[0].type != "tensor(float)":
            raise IntegrityError(f"{file} takes {inputs[0].type}, and the server gives float32: export it for that")
        if not outputs[0].type.startswith("tensor("):
            raise IntegrityError(
                f"{file} returns {outputs[0].type}, and the server reads a tensor of scores: export it so (skl2onnx: "
                "options={'zipmap': False})"
            )
        self.shape = read_shape(inputs[0])

    def read_classes(self) -> tuple[str, ...] | None:
        """Read the names of the classes from the file's metadata."""
        return find_class_names(self.network.get_modelmeta().custom_metadata_map)

    def _call(self, pixels: NDArray[np.float32]) -> Scores:
        scores: Scores = self.network.run(None, {self.network.get_inputs()[0].name: pixels})[0]
        return scores

    def _convert(self) -> openvino.Model:
        return free_batch(openvino.Core().read_model(self._path), self._spec, self._layout)


def read_shape(tensor: Any) -> list[int | None]:
    """Return the shape of an input or output, None where it is free."""
    return [length if isinstance(length, int) else None for length in tensor.shape]
