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
from app.engines.network_facts import Head
from app.engines.network_input import NCHW, NHWC, describe_tensor, require_one, shape_of
from app.engines.reference_engine import ReferenceEngine
from app.engines.tensorflow.graph_head import read_graph_head
from app.engines.tensorflow.tensorflow_setup import limit_threads, tf
from app.errors import IntegrityError


class TensorFlowEngine(ReferenceEngine):
    """A network as one `tf.function` of float32 [N, H, W, 3]."""

    LAYOUTS = (NHWC, NCHW)
    _callable: Callable[[Any], Any]
    framework = f"tensorflow {tf.__version__}"
    FAULTS = (tf.errors.OpError,)

    def fit(self) -> None:
        """Make the network a function of the manifest's pictures, which is traced once."""
        super().fit()
        count = 1 if self._takes_one else None
        pictures = tf.TensorSpec([count, *shape_of(-1, self._spec, self._layout)[1:]], tf.float32)
        self.network = tf.function(self._callable, input_signature=[pictures])

    def _call(self, pixels: NDArray[np.float32]) -> Scores:
        scores: Scores = self.network(pixels).numpy()
        return scores

    def _read_head(self) -> Head:
        try:
            return read_graph_head(self.network)
        except (KeyError, NotImplementedError, ValueError, tf.errors.OpError):  # a graph that cannot be frozen
            return super()._read_head()

    def _convert(self) -> openvino.Model:
        """Read the function's graph with OpenVINO's own reader; no SavedModel is written."""
        shape = shape_of(1 if self._takes_one else -1, self._spec, self._layout)
        return openvino.convert_model(self.network, input=shape)


class SavedModelEngine(TensorFlowEngine):
    """The signature `serving_default`, float32 [N, H, W, 3] in and one output."""

    def open(self) -> None:
        """Load the signature; raises `IntegrityError` if it cannot be loaded, is absent or takes something else."""
        limit_threads(self._threads)
        file = self._path.name
        try:
            self._loaded = tf.saved_model.load(self._path)  # kept, since it owns the signature's variables
        except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
            reason = str(error).replace(f"{self._path.parent}/", "")
            raise IntegrityError(f"TensorFlow cannot load {file}: {reason}") from error
        signature = self._loaded.signatures.get("serving_default")
        if signature is None:
            found = ", ".join(sorted(self._loaded.signatures)) or "none"
            raise IntegrityError(
                f"{file} has no signature serving_default, but {found}; save it with signatures="
                "{'serving_default': function}"
            )
        inputs = signature.structured_input_signature[1]
        outputs = signature.structured_outputs
        require_one(
            file,
            *([describe_tensor(name, list(spec.shape)) for name, spec in part.items()] for part in (inputs, outputs)),
        )
        ((name, given),) = inputs.items()
        (output,) = outputs
        if given.dtype != tf.float32:
            raise IntegrityError(f"{file} takes {given.dtype.name}, and the server gives float32: export it for that")
        self.shape = given.shape.as_list()
        self._callable = lambda pixels: signature(**{name: pixels})[output]
