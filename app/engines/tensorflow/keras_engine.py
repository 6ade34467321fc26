"""Runs a Keras model with the Keras that wrote it."""

from app.engines.tensorflow.tensorflow_setup import limit_threads, tf  # before Keras, which imports TensorFlow too

# isort: split
import json
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from app.engines.conversion import require_package
from app.engines.network_input import describe_tensor, require_one
from app.engines.tensorflow.keras_3_config import read_keras_3
from app.engines.tensorflow.keras_hdf5 import MAX_CONFIG_BYTES, check_hdf5
from app.engines.tensorflow.saved_model_engine import TensorFlowEngine
from app.errors import IntegrityError

CONFIG_FILE, METADATA_FILE, WEIGHTS_FILE = "config.json", "metadata.json", "model.weights.h5"
LOADING_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, OSError),
    *(RecursionError, TypeError, ValueError, tf.errors.OpError),
)
"""What Keras raises over a file that it cannot load."""
ALLOWED_MEMBERS = frozenset((CONFIG_FILE, METADATA_FILE, WEIGHTS_FILE))


def read_archive(path: Path) -> dict[str, Any]:
    """Return the config of a `.keras` file, as `read_keras_3` reads it.

    Raises `IntegrityError` if the file is no `.keras` file of Keras 3, or would build anything outside the lists.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not set(archive.namelist()) <= ALLOWED_MEMBERS:
                raise IntegrityError(f"{path.name} holds more than {', '.join(sorted(ALLOWED_MEMBERS))}")
            for name in (CONFIG_FILE, METADATA_FILE):
                if archive.getinfo(name).file_size > MAX_CONFIG_BYTES:
                    raise IntegrityError(f"{path.name}: {name} is larger than {MAX_CONFIG_BYTES} bytes")
            config, metadata = (json.loads(archive.read(name)) for name in (CONFIG_FILE, METADATA_FILE))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError) as error:
        raise IntegrityError(f"{path.name} is not a .keras file: {error}") from error
    if isinstance(metadata, dict) and str(metadata.get("keras_version")).startswith("2."):
        raise IntegrityError(f"{path.name} was written by Keras 2; load it there, and save it as .h5")
    return read_keras_3(path.name, config)


def _load_checked(path: Path) -> Any:
    """Check a file by its kind, which is told from the name, and build its network with the Keras that wrote it.

    Keras 3 builds what was read of the config, never what stands in the file; the weights are all that it reads there.
    """
    version, config = ("3", read_archive(path)) if path.suffix == ".keras" else check_hdf5(path)
    if version == "2":
        require_package("tf_keras")
        from app.engines.tensorflow.keras_2_network import load_keras_2  # tf-keras is needed for these files alone

        return load_keras_2(path, config)
    network = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if path.suffix == ".keras":
        # Keras reads weights out of an archive piece by piece, which takes up to four times as long.
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            network.load_weights(archive.extract(WEIGHTS_FILE, folder))
    else:
        network.load_weights(path)
    return network


def load_network(path: Path) -> Any:
    """Check what a file would build, and load it in safe mode: with Keras 3, or tf-keras for a `.h5` file of Keras 2.

    Raises:
        FrameworkMissingError: Keras 2 wrote the file, and tf-keras is not installed.
        IntegrityError: the file is not allowed, cannot be loaded, or has not one input and one output.
    """
    try:
        network = _load_checked(path)
    except LOADING_ERRORS as error:
        raise IntegrityError(f"Keras cannot load {path.name}: {error}") from error
    ends = (network.inputs or (), network.outputs or ())
    require_one(path.name, *([describe_tensor(name_layer(each), each.shape) for each in end] for end in ends))
    if isinstance(network, keras.Model):
        check_precision(path.name, network)
    return network


def name_layer(tensor: Any) -> str:
    """Return the name of the layer of Keras 3 or 2 that an input or output comes from."""
    return str(tensor._keras_history[0].name) if hasattr(tensor, "_keras_history") else str(tensor.name)


def check_precision(file: str, network: Any) -> None:
    """Raise `IntegrityError` for a network of Keras 3 that does not compute in float32, as the compiled one does."""
    found = sorted({layer.compute_dtype for layer in network._flatten_layers()} & {"bfloat16", "float16", "float64"})
    if found:
        raise IntegrityError(
            f"{file} computes in {' and '.join(found)} (mixed precision), and the server in float32: build the "
            "model under keras.config.set_dtype_policy('float32'), load its weights, and save it"
        )


class KerasEngine(TensorFlowEngine):
    """Keras 3 or 2 on TensorFlow, on the CPU, in float32, as one `tf.function` (`predict` is ten times slower)."""

    def open(self) -> None:
        """Check what the file would build, and load it in safe mode; raises as `load_network`."""
        limit_threads(self._threads)
        network = load_network(self._path)
        self.shape = [None, *network.inputs[0].shape[1:]]
        is_keras_3 = isinstance(network, keras.Model)
        library = f"keras {keras.__version__}" if is_keras_3 else f"tf_keras {version('tf_keras')}"
        self.framework = f"{library} on tensorflow {tf.__version__}"
        # A network may return its one output in a dict or a list.
        self._callable = lambda pixels: tf.nest.flatten(network(pixels, training=False))[0]
