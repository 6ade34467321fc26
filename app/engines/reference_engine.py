"""What the frameworks' own engines share: each is the reference that its compiled models are compared with."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino
from numpy.typing import NDArray

from app.arrays import InputBatch, Scores
from app.engines.network_input import NCHW, normalize, take_pixels
from app.errors import InferenceError
from app.manifest.model_manifest import ModelManifest


class ReferenceEngine(ABC):
    """An engine of a network on the CPU, float32 [N, 3, H, W] or [N, H, W, 3], normalization before it."""

    FAULTS: ClassVar[tuple[type[Exception], ...]]
    """What the framework raises when a network fails."""
    framework: str
    """The framework's name and version, once the network is loaded."""
    _layout = NCHW
    _takes_one = False  # whether the network takes a single picture at a time

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._manifest = manifest
        self._path = folder / manifest.artifact.file
        self._spec = manifest.input
        self._threads = threads
        self.network: Any = None

    @abstractmethod
    def load(self) -> None:
        """Load the network; raises `ModelFolderError` if the file cannot be served."""

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

    def to_openvino(self) -> openvino.Model:
        """Return the network as an `openvino.Model` that takes pixels, see `take_pixels`."""
        return take_pixels(self._convert(), self._layout, self._spec)

    def close(self) -> None:
        """Free the network."""
        self.network = None
