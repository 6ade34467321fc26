"""What an engine is, and which there are."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.arrays import InputBatch, Scores
from app.config.cpu_count import count_cores
from app.manifest.model_manifest import ModelManifest

if TYPE_CHECKING:
    from app.engines.reference_engine import ReferenceEngine


class Engine(Protocol):
    """A runtime that turns pixels into scores.

    An engine is built as `SomeEngine(folder, manifest, threads)`, which must be cheap: the work is in `load`.
    Normalization belongs to the engine: it takes pixels as they are.

    Thread safety: none is asked for; `BatchRunner` calls `infer` from one thread at a time.
    """

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        """Remember what to load: the model folder, its manifest, and how many cores an inference may use; 0: choose."""

    def load(self) -> None:
        """Load the model; raises `ModelFolderError` if this engine cannot serve the folder's files."""

    def infer(self, batch: InputBatch) -> Scores:
        """Return the scores, float32 [N, outputs], of pixels, uint8 [N, H, W, 3], N of any size from 1.

        Raises `InferenceError` if the runtime failed.
        """

    def close(self) -> None:
        """Let go of memory and processes; `infer` is not called afterwards."""


ENGINES = {
    "openvino": "app.engines.compiled.openvino_engine:OpenVINOEngine",
    "torch": "app.engines.pytorch.torch_engine:TorchEngine",
    "keras": "app.engines.tensorflow.keras_engine:KerasEngine",
    "torchscript": "app.engines.pytorch.torch_engine:TorchScriptEngine",
    "torch_export": "app.engines.pytorch.torch_engine:TorchExportEngine",
    "onnx": "app.engines.onnx_engine:OnnxEngine",
    "saved_model": "app.engines.tensorflow.saved_model_engine:SavedModelEngine",
}
"""Each engine's class by name; imported only when used, since each brings its framework with it."""


def build_engine(name: str, folder: Path, manifest: ModelManifest, threads: int) -> Engine:
    """Import the engine `name` and build it, without loading the model."""
    module, _, attribute = ENGINES[name].partition(":")
    engine: Engine = getattr(import_module(module), attribute)(folder, manifest, threads)
    return engine


def build_reference(framework: str, folder: Path, manifest: ModelManifest) -> "ReferenceEngine":
    """Build the engine of a model's own framework as `build_engine` does; it may use all cores."""
    engine: ReferenceEngine = build_engine(framework, folder, manifest, count_cores())  # type: ignore[assignment]  # all but OpenVINO's are
    return engine
