"""From an archive's PyTorch network to an OpenVINO IR that takes pixels and normalizes them itself."""

import warnings
from pathlib import Path

import openvino
import torch
from openvino.preprocess import PrePostProcessor
from torch.export import Dim, export

from app.manifest.model_specs import InputSpec


def write_network(network: torch.nn.Module, spec: InputSpec, path: Path) -> None:
    """Convert a network of normalized pictures, float32 [N, 3, H, W], and write the IR to `path` and beside it.

    A program is exported, not traced: one that decides by what it sees cannot be exported, where a trace would keep
    whatever it decided for one picture. TorchScript keeps its decisions and is read as it is.

    Args:
        network: in evaluation mode.
        spec: size and normalization of its input.
        path: of the IR, whose input is uint8 [N, H, W, 3], 0 to 255.

    Raises:
        Exception: whatever PyTorch or OpenVINO raise for what they cannot convert.
    """
    height, width = spec.height_px, spec.width_px
    with torch.no_grad(), warnings.catch_warnings():
        # What PyTorch deprecates, OpenVINO still calls; what either wants to say of the network shows in the scores.
        warnings.simplefilter("ignore")
        if isinstance(network, torch.jit.ScriptModule):
            model = openvino.convert_model(network, example_input=torch.zeros(2, 3, height, width))
        else:
            example = (torch.zeros(2, 3, height, width),)
            program = export(network, example, dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
            model = openvino.convert_model(program)
    model.reshape([-1, 3, height, width])
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(list(spec.mean)).scale(list(spec.std))
    openvino.save_model(steps.build(), path, compress_to_fp16=False)
