"""Runs PyTorch networks as they are: listed architectures with their weights, and programs.

Loading a program, TorchScript or `torch.export`'s, can run code, or read and write files: a confined process alone does
it, with what the operator trusts.
"""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from itertools import islice
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch.export import Dim, export

from app.arrays import Scores
from app.engines.network_facts import find_class_names
from app.engines.network_input import (
    NCHW,
    describe_tensor,
    find_layout,
    free_batch,
    require_one,
    shape_of,
    take_pixels,
)
from app.engines.pytorch.checkpoints import find_weights
from app.engines.pytorch.torch_architectures import ARCHITECTURES
from app.engines.pytorch.torch_weights import read_metadata, read_weights
from app.engines.reference_engine import ReferenceEngine
from app.errors import IntegrityError, ManifestError
from app.manifest.model_specs import InputSpec

CHANNELS = (3, 1, 4)
USUAL_SIDES_PX = (224, 32, 28, 48, 50, 64, 96, 100, 112, 128, 144, 150, 160, 192, 240, 256, 299, 300, 384, 448, 512)
"""Sides of the pictures that published networks were trained with."""


class TorchEngine(ReferenceEngine):
    """A listed architecture with the artifact's weights, run eagerly."""

    framework = f"torch {torch.__version__}"
    FAULTS = (RuntimeError, ValueError, AttributeError)  # the last of what is no tensor
    MEMORY_FORMAT = torch.channels_last  # a third to a half less time than contiguous for EfficientNet-Lite0

    def open(self) -> None:
        """Build the named architecture and fill it with the artifact's weights.

        Raises `ManifestError` if the architecture is not listed, `IntegrityError` if the weights are not of it.
        """
        torch.set_num_threads(self._threads)
        name = self._manifest.artifact.architecture
        if name not in ARCHITECTURES:
            raise ManifestError(f"architecture {name} is not one of {', '.join(sorted(ARCHITECTURES))}")
        network = ARCHITECTURES[name](self._manifest.output.outputs)
        weights, self.note = find_weights(self._path.name, read_weights(self._path), name, network.state_dict())
        network.load_state_dict(weights)
        self.network = network.eval()

    @torch.inference_mode()
    def _call(self, pixels: NDArray[np.float32]) -> Scores:
        found = self.network(torch.from_numpy(pixels).contiguous(memory_format=self.MEMORY_FORMAT))
        if not isinstance(found, torch.Tensor):
            outputs = found if isinstance(found, dict) else dict(enumerate(found))
            require_one(self._path.name, ["pictures"], [name_output(*each) for each in outputs.items()])
            raise IntegrityError(f"{self._path.name} returns its scores in a {type(found).__name__}: return the tensor")
        scores: Scores = found.numpy()
        return scores

    def convert(self) -> openvino.Model:
        """Convert the network with OpenVINO's own reader."""
        with warnings.catch_warnings(), torch.no_grad():
            # What PyTorch deprecates, OpenVINO still calls. Tracing makes the padding's computation a constant, which
            # is right, since the input's size is fixed.
            warnings.simplefilter("ignore")
            return super().convert()

    def _convert(self) -> openvino.Model:
        """Trace the network; nothing of TorchScript is kept.

        PyTorch's own check of the trace takes a quarter of the time to compile; the scores are compared afterwards.
        """
        example = self._make_example(2)
        traced = torch.jit.trace(self.network, example, check_trace=False)  # type: ignore[no-untyped-call]  # torch's own
        return openvino.convert_model(traced, example_input=example, input=shape_of(-1, self._spec, NCHW))

    def _make_example(self, count: int) -> torch.Tensor:
        return torch.zeros(shape_of(count, self._spec, self._layout))

    def read_classes(self) -> tuple[str, ...] | None:
        """Read the names of the classes from the file's metadata."""
        return find_class_names(read_metadata(self._path))


class TorchProgramEngine(TorchEngine):
    """A network that comes with its own code."""

    MEMORY_FORMAT = torch.contiguous_format  # a program may call `view`, which wants it

    def open(self) -> None:
        """Load the program; raises `IntegrityError` if PyTorch cannot load it, or it computes in another precision."""
        torch.set_num_threads(self._threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch deprecates, its files still hold
            try:
                self._load()
            except (RuntimeError, ValueError, TypeError, KeyError, OSError, BadZipFile, UnpicklingError) as error:
                raise IntegrityError(f"PyTorch cannot load {self._path.name}: {error}") from error
        for tensor in self.network.state_dict().values():
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                raise IntegrityError(
                    f"{self._path.name} computes in {str(tensor.dtype).removeprefix('torch.')}, and the server in "
                    "float32: call network.float() before you trace or export it"
                )

    @abstractmethod
    def _load(self) -> None:
        """Set `network`, and `shape` if the file says it."""

    @torch.inference_mode()
    def takes(self, shape: Sequence[int]) -> bool:
        """Try whether the network takes pictures of a shape, and returns as many rows as there are pictures."""
        try:
            found = self.network(torch.zeros(*shape))
        except self.FAULTS:
            return False
        return not isinstance(found, torch.Tensor) or (found.ndim > 0 and len(found) == shape[0])


class TorchScriptEngine(TorchProgramEngine):
    """TorchScript, traced or scripted; it does not say what it takes, so it is tried."""

    def _load(self) -> None:
        self.network = torch.jit.load(self._path, map_location="cpu").eval()  # type: ignore[no-untyped-call]  # PyTorch's own

    def fit(self) -> None:
        """Find the layout, and whether the network takes several pictures; raises `IntegrityError` if it takes none."""
        for count in (2, 1):  # it may have been traced with one
            for layout in self.LAYOUTS:
                if self.takes(shape_of(count, self._spec, layout)):
                    self._layout, self._takes_one = layout, count == 1
                    return
        sizes = [(self._spec.height_px, self._spec.width_px), *((side, side) for side in USUAL_SIDES_PX)]
        for shape in ((1, channels, *size) for channels in CHANNELS for size in sizes):
            if self.takes(shape):  # and nothing of the manifest's
                find_layout(self._path.name, (None, *shape[1:]), self._spec, NCHW)

    def find_size(self) -> tuple[int | None, int | None]:
        """Try the usual sizes; the side of the only square that the network takes, else None: it takes any, or none."""
        sides = (side for side in USUAL_SIDES_PX if any(self.takes(shape) for shape in list_shapes(side)))
        taken = [*islice(sides, 2)]
        return (taken[0], taken[0]) if len(taken) == 1 else (None, None)

    def _convert(self) -> openvino.Model:
        example = self._make_example(1 if self._takes_one else 2)
        return free_batch(openvino.convert_model(self.network, example_input=example), self._spec, self._layout)


class TorchExportEngine(TorchProgramEngine):
    """A program of `torch.export.save`; one that was exported without a free batch takes a single picture."""

    def _load(self) -> None:
        self._program = torch.export.load(self._path)
        self.network = self._program.module()
        self.shape = read_input_shape(self._program, self._path.name)

    def _convert(self) -> openvino.Model:
        return free_batch(openvino.convert_model(self._program), self._spec, self._layout)


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


def list_shapes(side_px: int) -> list[list[int]]:
    """Return the shapes of one square picture of three channels."""
    return [[1, 3, side_px, side_px], [1, side_px, side_px, 3]]


def name_output(name: object, value: object) -> str:
    """Write the name and shape of a part of what a network returns."""
    return describe_tensor(str(name), [None, *value.shape[1:]]) if isinstance(value, torch.Tensor) else str(name)


def read_input_shape(program: Any, file: str) -> list[int | None]:
    """Return the shape of a program's one input, None where it is free; raises `IntegrityError` as `require_one`."""
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    require_one(file, [node.name for node in nodes], program.graph_signature.user_outputs)
    return [length if isinstance(length, int) else None for length in nodes[0].meta["val"].shape]
