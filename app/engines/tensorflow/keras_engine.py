"""Runs a Keras model with the Keras that wrote it: the reference that compiled models are compared with."""

from app.engines.tensorflow.tensorflow_setup import limit_threads, tf  # before Keras, which imports TensorFlow too

# isort: split
import json
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import openvino

from app.arrays import InputBatch, Scores
from app.engines.conversion import KERAS_2, require_framework
from app.engines.network_input import NHWC, shape_of, take_pixels
from app.engines.tensorflow.keras_classes import find_classes, is_allowed, refuse_class
from app.engines.tensorflow.keras_hdf5 import check_hdf5
from app.errors import InferenceError, IntegrityError
from app.manifest.model_manifest import ModelManifest

KERAS_SUFFIX, CONFIG_FILE = ".keras", "config.json"
LOADING_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, OSError),
    *(RecursionError, TypeError, ValueError, tf.errors.OpError),
)
"""What Keras raises over a file that it cannot load."""
MAX_CONFIG_BYTES = 8 * 1024 * 1024
ALLOWED_MEMBERS = frozenset((CONFIG_FILE, "metadata.json", "model.weights.h5"))


def check_classes(path: Path) -> None:
    """Refuse a `.keras` file that would build anything outside the lists, before Keras sees it.

    Raises:
        IntegrityError: the file is no `.keras` file, or holds a class outside the lists.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not set(archive.namelist()) <= ALLOWED_MEMBERS:
                raise IntegrityError(f"{path.name} holds more than {', '.join(sorted(ALLOWED_MEMBERS))}")
            if archive.getinfo(CONFIG_FILE).file_size > MAX_CONFIG_BYTES:
                raise IntegrityError(f"{path.name}: {CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes")
            classes = list(find_classes(json.loads(archive.read(CONFIG_FILE))))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError) as error:
        raise IntegrityError(f"{path.name} is not a .keras file: {error}") from error
    for module, name in classes:
        if not is_allowed(module, name):
            raise refuse_class(path.name, module, name)


def load_checked(path: Path) -> Any:
    """Check a file by its kind, which Keras tells from the name, and load it with the Keras that wrote it."""
    if path.suffix == KERAS_SUFFIX:
        check_classes(path)
    elif (config := check_hdf5(path)) is not None:
        require_framework(KERAS_2)
        from app.engines.tensorflow.keras_2_network import load_keras_2  # tf-keras is needed for these files alone

        return load_keras_2(path, config)
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def load_network(path: Path) -> Any:
    """Check what a file would build, and load it in safe mode.

    Returns:
        A model of Keras 3 or, for a `.h5` file of Keras 2, of tf-keras; both are called alike.

    Raises:
        FrameworkMissingError: Keras 2 wrote the file, and tf-keras is not installed.
        IntegrityError: the file holds something that is not allowed, Keras cannot load it, or the network has not one
            input and one output.
    """
    try:
        network = load_checked(path)
    except LOADING_ERRORS as error:
        raise IntegrityError(f"Keras cannot load {path.name}: {error}") from error
    if len(network.inputs or ()) != 1 or len(network.outputs) != 1:
        raise IntegrityError(f"{path.name} has not one input and one output")
    return network


class KerasEngine:
    """Keras 3 or 2 on TensorFlow, on the CPU, in float32, as one `tf.function` (`predict` is ten times slower)."""

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._path = folder / manifest.artifact.file
        self._spec = manifest.input
        self._threads = threads
        self._library = f"keras {keras.__version__}"
        self.function: Any = None

    def load(self) -> None:
        """Check what the file would build, load it in safe mode, and put the normalization in front."""
        limit_threads(self._threads)
        network = load_network(self._path)
        if not isinstance(network, keras.Model):
            self._library = f"tf_keras {version('tf_keras')}"
        mean, std = (np.array(values, dtype=np.float32) for values in (self._spec.mean, self._spec.std))
        signature = tf.TensorSpec([None, self._spec.height_px, self._spec.width_px, 3], tf.float32)

        def normalize_and_infer(pixels: Any) -> Any:
            return network((pixels - mean) / std, training=False)

        self.function = tf.function(normalize_and_infer, input_signature=[signature])

    def infer(self, batch: InputBatch) -> Scores:
        """Infer."""
        assert self.function is not None, "load() comes first"
        try:
            scores: Scores = self.function(batch.astype(np.float32)).numpy()
        except tf.errors.OpError as error:
            raise InferenceError("The model failed.") from error
        return scores

    def to_openvino(self) -> openvino.Model:
        """Read the function's graph with OpenVINO's own reader; no SavedModel is written."""
        return take_pixels(openvino.convert_model(self.function, input=shape_of(-1, self._spec, NHWC)), NHWC)

    def describe(self) -> str:
        """Return the framework's name and version."""
        return f"{self._library} on tensorflow {tf.__version__}"

    def close(self) -> None:
        """Free the network."""
        self.function = None
