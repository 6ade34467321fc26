"""What the frameworks' own engines share: each is the reference that its compiled models are compared with."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure

from app.arrays import InputBatch, Scores
from app.engines.network_facts import Channels, Head, NetworkFacts, Numbers, bound_scores, find_last_step, read_head
from app.engines.network_input import NCHW, NHWC, find_layout, normalize, take_pixels
from app.errors import CompiledModelError, InferenceError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import InputSpec

CONVERSION_ERRORS = (RuntimeError, GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure)
"""What OpenVINO raises over a network that it cannot convert."""
NO_RULE = re.compile(r"No conversion rule found for operations: ([^\n]+)")


def find_obstacle(text: str) -> str:
    """Find in what OpenVINO says which operations it does not know; else its last line."""
    if unknown := NO_RULE.search(text):
        return f"it does not know {unknown[1].strip()}; export the network without, in float32 if it is quantized"
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it does not say why")


class ReferenceEngine(ABC):
    """An engine of a network on the CPU, float32 [N, 3, H, W] or [N, H, W, 3], normalization before it."""

    FAULTS: ClassVar[tuple[type[Exception], ...]]
    """What the framework raises when a network fails."""
    framework: str
    """The framework's name and version, once the network is loaded."""
    note = ""
    """What was done to find the weights in the artifact; empty where they lie in it plainly."""
    LAYOUTS: ClassVar[tuple[str, ...]] = (NCHW, NHWC)
    """The layouts that a network may have; the usual one first."""
    shape: Sequence[int | None] | None = None
    """What the file says of its input, once it is open: None for any number; None if it says nothing."""
    _layout = NCHW
    _takes_one = False  # whether the network takes a single picture at a time

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._manifest = manifest
        self._path = folder / manifest.artifact.file
        self._spec = manifest.input
        self._threads = threads
        self._model: openvino.Model | None = None
        self.network: Any = None

    def load(self) -> None:
        """Load the network; raises `ModelFolderError` if the file cannot be served, or takes other pictures."""
        self.open()
        self.fit()

    @abstractmethod
    def open(self) -> None:
        """Read the network from its file, whatever the manifest says of pictures; raises `ModelFolderError`."""

    def fit(self) -> None:
        """Find the layout of the pictures that the network takes; raises `IntegrityError` as `find_layout`."""
        if self.shape is not None:
            self._layout = find_layout(self._path.name, self.shape, self._spec, *self.LAYOUTS)
            self._takes_one = self.shape[0] == 1

    def refit(self, spec: InputSpec) -> None:
        """Prepare an open network for pictures of another size; raises as `fit`."""
        self._spec = spec
        self.fit()

    def find_size(self) -> tuple[int | None, int | None]:
        """Find the width and height of the pictures that the network takes; None for a side that it leaves free.

        Raises `IntegrityError` if it takes no pictures of three channels.
        """
        if self.shape is None:
            return None, None
        layout = find_layout(self._path.name, self.shape, None, *self.LAYOUTS)
        return self.shape[layout.index("W")], self.shape[layout.index("H")]

    def describe_input(self) -> str:
        """Say which layout the network's pictures have, once it is fit."""
        return "channels last" if self._layout == NHWC else "channels first"

    @abstractmethod
    def _call(self, pixels: NDArray[np.float32]) -> Scores:
        """Call the network with normalized pixels in its layout."""

    @abstractmethod
    def _convert(self) -> openvino.Model:
        """Convert the network as it is."""

    def infer(self, batch: InputBatch) -> Scores:
        """Infer."""
        assert self.network is not None, "load() comes first"
        pixels = normalize(batch, self._spec, self._layout)
        try:
            return np.concatenate(
                [self._call(part) for part in np.split(pixels, len(pixels) if self._takes_one else 1)]
            )
        except self.FAULTS as error:
            raise InferenceError("The model failed.") from error

    def convert(self) -> openvino.Model:
        """Return the network as an `openvino.Model` of normalized pictures; the same one each time.

        Raises `CompiledModelError` with OpenVINO's reason if it cannot be converted.
        """
        if self._model is None:
            try:
                self._model = self._convert()
            except CONVERSION_ERRORS as error:
                raise CompiledModelError(
                    f"OpenVINO cannot convert {self._path.name}: {find_obstacle(str(error))}"
                ) from error
        return self._model

    def read_facts(self) -> NetworkFacts:
        """Read what the manifest is held against; not after `to_openvino`, which puts the normalization before it."""
        source = self.convert().output(0).get_node().input_value(0)
        head = self._read_head()

        def probe(mean: Channels, std: Channels) -> tuple[Numbers, Numbers]:
            size = (1, self._spec.height_px, self._spec.width_px, 3)
            pixels = np.concatenate([np.zeros(size, np.uint8), np.full(size, 255, np.uint8)])
            black, white = head.react(normalize(pixels, replace(self._spec, mean=mean, std=std), self._layout))
            return black, white

        return NetworkFacts(find_last_step(source), *bound_scores(source), head.steps, probe, self.read_classes())

    def _read_head(self) -> Head:
        return read_head(self.convert())

    def read_classes(self) -> tuple[str, ...] | None:
        """Return the names of the outputs in their order, if the file has them."""
        return None

    def to_openvino(self) -> openvino.Model:
        """Return the network as an `openvino.Model` that takes pixels, see `take_pixels`."""
        return take_pixels(self.convert(), self._layout, self._spec)

    def close(self) -> None:
        """Free the network."""
        self.network = self._model = None
