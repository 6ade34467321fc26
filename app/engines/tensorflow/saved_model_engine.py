"""Runs TensorFlow's functions, and a SavedModel as one.

Loading a SavedModel can write files, and running it read them: a confined process alone does it, with what the operator
trusts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from app.arrays import Scores
from app.engines.network_input import NHWC, find_layout, shape_of
from app.engines.reference_engine import ReferenceEngine
from app.engines.tensorflow.tensorflow_setup import limit_threads, tf
from app.errors import IntegrityError


class TensorFlowEngine(ReferenceEngine):
    """A network as one `tf.function` of float32 [N, H, W, 3]."""

    _layout = NHWC
    framework = f"tensorflow {tf.__version__}"
    FAULTS = (tf.errors.OpError,)

    def make_function(self, network: Callable[[Any], Any]) -> Any:
        """Make a network a function that is traced once."""
        count = 1 if self._takes_one else None
        pictures = tf.TensorSpec([count, *shape_of(-1, self._spec, NHWC)[1:]], tf.float32)
        return tf.function(network, input_signature=[pictures])

    def _call(self, pixels: NDArray[np.float32]) -> Scores:
        scores: Scores = self.network(pixels).numpy()
        return scores

    def _convert(self) -> openvino.Model:
        """Read the function's graph with OpenVINO's own reader; no SavedModel is written."""
        shape = shape_of(1 if self._takes_one else -1, self._spec, NHWC)
        return openvino.convert_model(self.network, input=shape)


class SavedModelEngine(TensorFlowEngine):
    """The signature `serving_default`, float32 [N, H, W, 3] in and one output."""

    def load(self) -> None:
        """Load the signature; raises `IntegrityError` if it cannot be loaded, is absent or takes something else."""
        limit_threads(self._threads)
        file = self._path.name
        try:
            self._loaded = tf.saved_model.load(self._path)  # kept, since it owns the signature's variables
        except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
            raise IntegrityError(f"TensorFlow cannot load {file}: {error}") from error
        signature = self._loaded.signatures.get("serving_default")
        if signature is None:
            raise IntegrityError(f"{file} has no signature serving_default")
        inputs = signature.structured_input_signature[1]
        if len(inputs) != 1 or len(signature.structured_outputs) != 1:
            raise IntegrityError(f"{file} has not one input and one output")
        ((name, given),) = inputs.items()
        (output,) = signature.structured_outputs
        if given.dtype != tf.float32:
            raise IntegrityError(f"{file} does not take float32")
        shape = given.shape.as_list()
        find_layout(file, shape, self._spec, NHWC)
        self._takes_one = shape[0] == 1
        self.network = self.make_function(lambda pixels: signature(**{name: pixels})[output])
