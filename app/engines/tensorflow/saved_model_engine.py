"""Runs a TensorFlow SavedModel: the reference that its compiled model is compared with.

Loading one can write files, and running it read them: a confined process alone does it, with what the operator trusts.
"""

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from app.arrays import InputBatch, Scores
from app.engines.network_input import NHWC, find_layout, shape_of, split_batch, take_pixels
from app.engines.tensorflow.tensorflow_setup import limit_threads, tf
from app.errors import InferenceError, IntegrityError
from app.manifest.model_manifest import ModelManifest

SIGNATURE = "serving_default"


class SavedModelEngine:
    """The signature `serving_default`, float32 [N, H, W, 3] in and one output, behind its normalization."""

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._path = folder / manifest.artifact.file
        self._spec = manifest.input
        self._threads = threads
        self._takes_one = False
        self._loaded: Any = None
        self.function: Any = None

    def load(self) -> None:
        """Load the signature.

        Raises:
            IntegrityError: TensorFlow cannot load it, or the signature is not there or takes something else.
        """
        limit_threads(self._threads)
        try:
            self._loaded = tf.saved_model.load(self._path)
        except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
            raise IntegrityError(f"TensorFlow cannot load {self._path.name}: {error}") from error
        signature = self._loaded.signatures.get(SIGNATURE)
        if signature is None:
            raise IntegrityError(f"{self._path.name} has no signature {SIGNATURE}")
        inputs = signature.structured_input_signature[1]
        if len(inputs) != 1 or len(signature.structured_outputs) != 1:
            raise IntegrityError(f"{self._path.name} has not one input and one output")
        ((name, given),) = inputs.items()
        if given.dtype != tf.float32:
            raise IntegrityError(f"{self._path.name} does not take float32")
        shape = given.shape.as_list()
        find_layout(self._path.name, shape, self._spec, NHWC)
        self._takes_one = shape[0] == 1
        self.function = self._normalize_before(signature, name)

    def _normalize_before(self, signature: Any, name: str) -> Any:
        mean, std = (np.array(values, dtype=np.float32) for values in (self._spec.mean, self._spec.std))
        (output,) = signature.structured_outputs

        def normalize_and_infer(pixels: Any) -> Any:
            return signature(**{name: (pixels - mean) / std})[output]

        count = 1 if self._takes_one else None
        wanted = tf.TensorSpec([count, *shape_of(-1, self._spec, NHWC)[1:]], tf.float32)
        return tf.function(normalize_and_infer, input_signature=[wanted])

    def infer(self, batch: InputBatch) -> Scores:
        """Infer."""
        assert self.function is not None, "load() comes first"
        parts = split_batch(batch.astype(np.float32), self._takes_one)
        try:
            scores: Scores = np.concatenate([self.function(part).numpy() for part in parts])
        except tf.errors.OpError as error:
            raise InferenceError("The model failed.") from error
        return scores

    def to_openvino(self) -> openvino.Model:
        """Read the function's graph with OpenVINO's own reader."""
        shape = shape_of(1 if self._takes_one else -1, self._spec, NHWC)
        return take_pixels(openvino.convert_model(self.function, input=shape), NHWC)

    def describe(self) -> str:
        """Return the framework's name and version."""
        return f"tensorflow {tf.__version__}"

    def close(self) -> None:
        """Free the model."""
        self.function = self._loaded = None
