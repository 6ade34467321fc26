"""Runs PyTorch networks that come as programs, TorchScript and `torch.export`'s: references for their compiled models.

Loading either can run code, or read and write files: a confined process alone does it, with what the operator trusts.
"""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import openvino
import torch

from app.arrays import InputBatch, Scores
from app.engines.network_input import NCHW, find_layout, free_batch, normalize, shape_of, split_batch, take_pixels
from app.errors import InferenceError, IntegrityError
from app.manifest.model_manifest import ModelManifest


class TorchProgramEngine(ABC):
    """A network of float32 [N, 3, H, W] on the CPU, normalization before it."""

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._path = folder / manifest.artifact.file
        self._spec = manifest.input
        self._threads = threads
        self._takes_one = False
        self.network: Any = None

    def load(self) -> None:
        """Load the program.

        Raises:
            IntegrityError: PyTorch cannot load it, or it takes another input.
        """
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

    @torch.inference_mode()
    def infer(self, batch: InputBatch) -> Scores:
        """Infer eagerly."""
        assert self.network is not None, "load() comes first"
        parts = split_batch(normalize(batch, self._spec, NCHW), self._takes_one)
        try:
            scores: Scores = torch.cat([self.network(torch.from_numpy(part)) for part in parts]).numpy()
        except (RuntimeError, TypeError) as error:  # the second of what is no tensor
            raise InferenceError("The model failed.") from error
        return scores

    def to_openvino(self) -> openvino.Model:
        """Convert the program with OpenVINO's own reader, and put the normalization before it."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = self._convert()
        free_batch(model, self._spec, NCHW)
        return take_pixels(model, NCHW, self._spec)

    @abstractmethod
    def _convert(self) -> openvino.Model:
        """Convert it as it is."""

    def describe(self) -> str:
        """Return the framework's name and version."""
        return f"torch {torch.__version__}"

    def close(self) -> None:
        """Free the network."""
        self.network = None


class TorchScriptEngine(TorchProgramEngine):
    """TorchScript, traced or scripted; it does not say how many pictures it takes, so it is tried with two."""

    def _load(self) -> bool:
        self.network = torch.jit.load(self._path, map_location="cpu").eval()  # type: ignore[no-untyped-call]  # PyTorch's own
        try:
            with torch.inference_mode():
                return len(self.network(self._make_example(2))) != 2
        except RuntimeError:  # it was traced with one
            return True

    def _make_example(self, count: int) -> torch.Tensor:
        return torch.zeros(shape_of(count, self._spec, NCHW))

    def _convert(self) -> openvino.Model:
        return openvino.convert_model(self.network, example_input=self._make_example(1 if self._takes_one else 2))


class TorchExportEngine(TorchProgramEngine):
    """A program of `torch.export.save`; one that was exported without a free batch takes a single picture."""

    def _load(self) -> bool:
        self._program = torch.export.load(self._path)
        self.network = self._program.module()
        shape = read_input_shape(self._program, self._path.name)
        find_layout(self._path.name, shape, self._spec, NCHW)
        return shape[0] == 1

    def _convert(self) -> openvino.Model:
        return openvino.convert_model(self._program)


def read_input_shape(program: Any, file: str) -> list[int | None]:
    """The shape of a program's one input, None where it is free; raises `IntegrityError` if it has not one."""
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(nodes) != 1:
        raise IntegrityError(f"{file} has not one input")
    return [length if isinstance(length, int) else None for length in nodes[0].meta["val"].shape]
