"""Runs a Keras model as it is: the reference that compiled models are compared with."""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Set before the import: TensorFlow otherwise prints to the log, and rounds differently from one machine to the next.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
import openvino
import tensorflow as tf

from app.arrays import InputBatch, Scores
from app.errors import InferenceError, IntegrityError
from app.manifest import ModelManifest

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 8 * 1024 * 1024
# Layers that compute on their inputs alone. Not here, on purpose: Lambda, TFSMLayer, TorchModuleWrapper, and all
# that read a file or hold code. Keras' own safe mode was bypassed eight times in 2024 and 2025, so this comes first.
# fmt: off
ALLOWED_LAYERS = frozenset(
    (
        "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate",
        "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten",
        "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "InputLayer",
        "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "Normalization",
        "PReLU", "Permute", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Softmax",
        "SpatialDropout2D", "Subtract", "UpSampling2D", "ZeroPadding2D",
    )
)
# fmt: on


MODEL_CLASSES = frozenset(
    (
        ("keras", "Functional"),
        ("keras", "Sequential"),
        ("keras.src.models.functional", "Functional"),
        ("keras.src.models.sequential", "Sequential"),
    )
)
PLAIN_MODULES = frozenset(("keras.initializers", "keras.regularizers", "keras.constraints"))
PLAIN_CLASSES = frozenset((("keras", "DTypePolicy"), (None, "__keras_tensor__")))
ALLOWED_MEMBERS = frozenset((CONFIG_FILE, "metadata.json", "model.weights.h5"))


def find_classes(config: Any) -> Iterator[tuple[str | None, str]]:
    """Walk a Keras config and yield (module, class name) of everything it would build."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config.get("module"), str(config["class_name"])
        for value in config.values():
            yield from find_classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from find_classes(value)


def is_allowed(module: str | None, name: str) -> bool:
    """Whether a class may be built: a listed layer, a plain container of them, or an initializer and the like."""
    if module == "keras.layers":
        return name in ALLOWED_LAYERS
    return module in PLAIN_MODULES or (module, name) in MODEL_CLASSES or (module, name) in PLAIN_CLASSES


def check_classes(path: Path) -> None:
    """Refuse a `.keras` file that would build anything outside the lists, before Keras sees it.

    Raises:
        IntegrityError: not a `.keras` file, or it holds what is not on a list.
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
            raise IntegrityError(f"{path.name} holds {module}.{name}, which is not allowed")


class KerasEngine:
    """Keras 3 on TensorFlow, on the CPU, in float32, as one `tf.function` (`predict` is ten times slower)."""

    layout = "NHWC"

    def __init__(self, folder: Path, manifest: ModelManifest, threads: int) -> None:
        self._path = folder / manifest.artifact.file
        self._spec = manifest.input
        self._threads = threads
        self.function: Any = None

    def load(self) -> None:
        """Check what the file would build, load it in safe mode, and put the normalization in front."""
        check_classes(self._path)
        try:
            tf.config.threading.set_intra_op_parallelism_threads(self._threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            pass  # TensorFlow is running already, with the threads of whoever came first
        try:
            network = keras.saving.load_model(self._path, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise IntegrityError(f"Keras cannot load {self._path.name}: {error}") from error
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
        return openvino.convert_model(self.function, input=[-1, self._spec.height_px, self._spec.width_px, 3])

    def describe(self) -> str:
        """Return the framework's name and version."""
        return f"keras {keras.__version__} on tensorflow {tf.__version__}"

    def close(self) -> None:
        """Free the network."""
        self.function = None
