"""From a framework's network to an OpenVINO IR that takes pixels: uint8 [N, H, W, 3] in, scores out."""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import openvino
from openvino.preprocess import PrePostProcessor

from app.engines.base import Engine
from app.errors import FrameworkMissingError
from app.manifest.model_manifest import ModelManifest

PACKAGES = {"torch": "torch", "keras": "tensorflow", "torchscript": "torch", "torch_export": "torch"}
PACKAGES |= {"onnx": "onnxruntime", "saved_model": "tensorflow"}
"""The package that must be installed for each framework."""


class ConvertibleEngine(Engine, Protocol):
    """A framework's engine that can hand its loaded network to OpenVINO."""

    layout: str
    """Layout of the converted network's input: NCHW or NHWC."""

    def to_openvino(self) -> Any:
        """Return the network, normalization included, as an `openvino.Model` with a float32 input of any N."""

    def describe(self) -> str:
        """Return the framework's name and version."""


def require_framework(manifest: ModelManifest) -> None:
    """Raise `FrameworkMissingError` with what to install, unless the model's framework is there."""
    require_package(manifest.framework)


def require_package(framework: str) -> None:
    """Raise `FrameworkMissingError` with what to install, unless the framework is there."""
    package = PACKAGES[framework]
    if importlib.util.find_spec(package) is None:
        raise FrameworkMissingError(
            f"{package} is not installed here, and the model is not compiled; run 'pip install -r requirements.txt'"
        )


def write_ir(reference: ConvertibleEngine, path: Path) -> None:
    """Convert a loaded engine's network and write the IR, weights in float32, to `path` and beside it."""
    steps = PrePostProcessor(reference.to_openvino())
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout(reference.layout))
    openvino.save_model(steps.build(), path, compress_to_fp16=False)


def converter_version() -> str:
    """Name and version of the converter."""
    return f"openvino {openvino.__version__}"
