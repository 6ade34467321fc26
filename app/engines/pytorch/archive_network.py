"""From an archive's PyTorch network to an `openvino.Model` that takes pixels and normalizes them itself."""

import warnings

import openvino
import torch
from torch.export import Dim, export

from app.engines.network_input import NCHW, shape_of, take_pixels
from app.manifest.model_specs import InputSpec


def convert_network(network: torch.nn.Module, spec: InputSpec) -> openvino.Model:
    """Convert a network of normalized pictures, float32 [N, 3, H, W].

    A program is exported, not traced: one that decides by what it sees cannot be exported, where a trace would keep
    whatever it decided for one picture. TorchScript keeps its decisions and is read as it is.

    Args:
        network: in evaluation mode.
        spec: size and normalization of its input.

    Raises:
        Exception: whatever PyTorch or OpenVINO raise for what they cannot convert.
    """
    example = torch.zeros(shape_of(2, spec, NCHW))
    with torch.no_grad(), warnings.catch_warnings():
        # What PyTorch deprecates, OpenVINO still calls; what either wants to say of the network shows in the scores.
        warnings.simplefilter("ignore")
        if isinstance(network, torch.jit.ScriptModule):
            model = openvino.convert_model(network, example_input=example)
        else:
            program = export(network, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
            model = openvino.convert_model(program)
    model.reshape(shape_of(-1, spec, NCHW))
    return take_pixels(model, NCHW, spec)
