"""From a framework's network to an OpenVINO IR.

OpenVINO is imported when it is first used, so that a command that compiles nothing starts without it.
"""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

from app.engines.base import Engine
from app.errors import FrameworkMissingError

PACKAGES = {"torch": "torch", "keras": "tensorflow", "torchscript": "torch", "torch_export": "torch"}
KERAS_2 = "keras_2"
PACKAGES |= {"onnx": "onnxruntime", "saved_model": "tensorflow", KERAS_2: "tf_keras"}
"""The package that must be installed for each framework, and for files of Keras 2."""


class ConvertibleEngine(Engine, Protocol):
    """A framework's engine that can hand its loaded network to OpenVINO."""

    def to_openvino(self) -> Any:
        """Return the network as an `openvino.Model` that takes pixels, see `network_input.take_pixels`."""

    def describe(self) -> str:
        """Return the framework's name and version."""


def require_framework(framework: str) -> None:
    """Raise `FrameworkMissingError` with what to install, unless the framework is there."""
    package = PACKAGES[framework]
    if importlib.util.find_spec(package) is None:
        raise FrameworkMissingError(
            f"{package} is not installed here, and the model is not compiled; run 'pip install -r requirements.txt'"
        )


def save_ir(model: Any, path: Path) -> None:
    """Write an `openvino.Model` to `path`, and its weights beside it, both in float32."""
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)


def converter_version() -> str:
    """Name and version of the converter."""
    import openvino

    return f"openvino {openvino.__version__}"
