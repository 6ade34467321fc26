"""Runs a PyTorch model as it is: the reference that compiled models are compared with."""

import warnings
from pathlib import Path

import openvino
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from app.arrays import InputBatch, Scores
from app.engines.network_input import NCHW, take_pixels
from app.engines.pytorch.torch_architectures import ARCHITECTURES
from app.engines.pytorch.torch_weights import read_weights
from app.errors import InferenceError, IntegrityError, ManifestError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import InputSpec


class Normalized(nn.Module):
    """A network behind its normalization: takes pixels 0 to 255, float32 [N, 3, H, W]."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return scores, float32 [N, outputs]."""
        scores: Tensor = self.network((pixels - self.mean) / self.std)
        return scores


def build_network(folder: Path, manifest: ModelManifest) -> nn.Module:
    """Build the named architecture and fill it with the artifact's weights.

    Raises:
        ManifestError: the architecture is not in the project's list.
        IntegrityError: the weights are not of this architecture, or not those of a network alone.
    """
    name = manifest.artifact.architecture
    if name not in ARCHITECTURES:
        raise ManifestError(f"architecture {name} is not one of {', '.join(sorted(ARCHITECTURES))}")
    weights = read_weights(folder / manifest.artifact.file)
    network = ARCHITECTURES[name](manifest.output.outputs)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise IntegrityError(f"{manifest.artifact.file} does not hold the weights of {name}: {error}") from error
    return network.eval()


class TorchEngine:
    """PyTorch on the CPU, in float32."""

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._folder = folder
        self._manifest = manifest
        self._threads = threads
        self.network: nn.Module | None = None

    def load(self) -> None:
        """Build the network and load its weights."""
        torch.set_num_threads(self._threads)
        self.network = Normalized(build_network(self._folder, self._manifest), self._manifest.input).eval()

    @torch.inference_mode()
    def infer(self, batch: InputBatch) -> Scores:
        """Infer eagerly."""
        assert self.network is not None, "load() comes first"
        try:
            scores: Scores = self.network(torch.tensor(batch).permute(0, 3, 1, 2).float()).numpy()
        except RuntimeError as error:
            raise InferenceError("The model failed.") from error
        return scores

    def to_openvino(self) -> openvino.Model:
        """Trace the network with OpenVINO's own reader; nothing of TorchScript is kept."""
        spec = self._manifest.input
        example = torch.zeros(2, 3, spec.height_px, spec.width_px)
        with warnings.catch_warnings():
            # The padding is computed from the input's size, which is fixed: a constant is right.
            warnings.filterwarnings("ignore", category=TracerWarning)
            # OpenVINO's reader traces; torch would rather export, to a format that runs code when it is loaded.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.trace", category=DeprecationWarning)
            shape = [-1, 3, spec.height_px, spec.width_px]
            return take_pixels(openvino.convert_model(self.network, example_input=example, input=shape), NCHW)

    def describe(self) -> str:
        """Return the framework's name and version."""
        return f"torch {torch.__version__}"

    def close(self) -> None:
        """Free the network."""
        self.network = None
