"""Runs PyTorch networks as they are: listed architectures with their weights, and programs.

Loading a program, TorchScript or `torch.export`'s, can run code, or read and write files: a confined process alone does
it, with what the operator trusts.
"""

import warnings
from abc import abstractmethod
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch.export import Dim, export

from app.arrays import Scores
from app.engines.network_input import NCHW, find_layout, free_batch, shape_of, take_pixels
from app.engines.pytorch.torch_architectures import ARCHITECTURES
from app.engines.pytorch.torch_weights import read_weights
from app.engines.reference_engine import ReferenceEngine
from app.errors import IntegrityError, ManifestError
from app.manifest.model_specs import InputSpec


class TorchEngine(ReferenceEngine):
    """A listed architecture with the artifact's weights, run eagerly."""

    framework = f"torch {torch.__version__}"
    FAULTS = (RuntimeError, ValueError, AttributeError)  # the last of what is no tensor
    MEMORY_FORMAT = torch.channels_last  # a third to a half less time than contiguous for EfficientNet-Lite0

    def load(self) -> None:
        """Build the named architecture and fill it with the artifact's weights.

        Raises `ManifestError` if the architecture is not listed, `IntegrityError` if the weights are not of it.
        """
        torch.set_num_threads(self._threads)
        name = self._manifest.artifact.architecture
        if name not in ARCHITECTURES:
            raise ManifestError(f"architecture {name} is not one of {', '.join(sorted(ARCHITECTURES))}")
        weights = read_weights(self._path)
        network = ARCHITECTURES[name](self._manifest.output.outputs)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise IntegrityError(f"{self._path.name} does not hold the weights of {name}: {error}") from error
        self.network = network.eval()

    @torch.inference_mode()
    def _call(self, pixels: NDArray[np.float32]) -> Scores:
        scores: Scores = self.network(torch.from_numpy(pixels).contiguous(memory_format=self.MEMORY_FORMAT)).numpy()
        return scores

    def to_openvino(self) -> openvino.Model:
        """Convert the network with OpenVINO's own reader, and put the normalization before it."""
        with warnings.catch_warnings(), torch.no_grad():
            # What PyTorch deprecates, OpenVINO still calls. Tracing makes the padding's computation a constant, which
            # is right, since the input's size is fixed.
            warnings.simplefilter("ignore")
            return super().to_openvino()

    def _convert(self) -> openvino.Model:
        """Trace the network; nothing of TorchScript is kept."""
        shape = shape_of(-1, self._spec, NCHW)
        return openvino.convert_model(self.network, example_input=self._make_example(2), input=shape)

    def _make_example(self, count: int) -> torch.Tensor:
        return torch.zeros(shape_of(count, self._spec, NCHW))


class TorchProgramEngine(TorchEngine):
    """A network that comes with its own code."""

    MEMORY_FORMAT = torch.contiguous_format  # a program may call `view`, which wants it

    def load(self) -> None:
        """Load the program; raises `IntegrityError` if PyTorch cannot load it, or it takes another input."""
        torch.set_num_threads(self._threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch deprecates, its files still hold
            try:
                self._takes_one = self._load()
            except (RuntimeError, ValueError, TypeError, KeyError, OSError, BadZipFile, UnpicklingError) as error:
                raise IntegrityError(f"PyTorch cannot load {self._path.name}: {error}") from error

    @abstractmethod
    def _load(self) -> bool:
        """Set `network`; return whether it takes a single picture at a time."""


class TorchScriptEngine(TorchProgramEngine):
    """TorchScript, traced or scripted; it does not say how many pictures it takes, so it is tried with two."""

    def _load(self) -> bool:
        self.network = torch.jit.load(self._path, map_location="cpu").eval()  # type: ignore[no-untyped-call]  # PyTorch's own
        try:
            with torch.inference_mode():
                return len(self.network(self._make_example(2))) != 2
        except RuntimeError:  # it was traced with one
            return True

    def _convert(self) -> openvino.Model:
        example = self._make_example(1 if self._takes_one else 2)
        return free_batch(openvino.convert_model(self.network, example_input=example), self._spec, NCHW)


class TorchExportEngine(TorchProgramEngine):
    """A program of `torch.export.save`; one that was exported without a free batch takes a single picture."""

    def _load(self) -> bool:
        self._program = torch.export.load(self._path)
        self.network = self._program.module()
        shape = read_input_shape(self._program, self._path.name)
        find_layout(self._path.name, shape, self._spec, NCHW)
        return shape[0] == 1

    def _convert(self) -> openvino.Model:
        return free_batch(openvino.convert_model(self._program), self._spec, NCHW)


def convert_network(network: torch.nn.Module, spec: InputSpec) -> openvino.Model:
    """Convert an archive's network of normalized pictures to one that takes pixels; raises whatever the converters do.

    A program is exported, not traced: one that decides by what it sees cannot be exported, where a trace would keep
    whatever it decided for one picture. TorchScript keeps its decisions and is read as it is.
    """
    example = torch.zeros(shape_of(2, spec, NCHW))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what either wants to say of the network shows in the scores
        if isinstance(network, torch.jit.ScriptModule):
            model = openvino.convert_model(network, example_input=example)
        else:
            program = export(network, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
            model = openvino.convert_model(program)
    model.reshape(shape_of(-1, spec, NCHW))
    return take_pixels(model, NCHW, spec)


def read_input_shape(program: Any, file: str) -> list[int | None]:
    """Return the shape of a program's one input, None where it is free; raises `IntegrityError` if it has not one."""
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(nodes) != 1:
        raise IntegrityError(f"{file} has not one input")
    return [length if isinstance(length, int) else None for length in nodes[0].meta["val"].shape]
