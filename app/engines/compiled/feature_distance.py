"""How far a picture lies from those that a network was trained on, worked out inside of the compiled network.

For every channel of a few middle layers, the mean and the standard deviation over the picture are taken: what textures,
edges and colours it holds, before the network has thrown away what does not tell its classes apart. Their Mahalanobis
distance to the training pictures' is the answer (Lee et al. 2018, arXiv:1807.03888).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.errors import CompiledModelError
from app.manifest.fit_spec import FitSpec
from app.processes.atomic import replace_file
from app.processes.plain_files import read_plain

if TYPE_CHECKING:
    import openvino

LAYERS, CENTRE, WHITENING = "layers", "centre", "whitening"
LEAST_VARIANCE = 1e-6
"""Keeps a standard deviation's root away from rounding below 0."""


@dataclass(frozen=True)
class FeatureReference:
    """What the training pictures look like to a network.

    Attributes:
        layers: int64, [layers]; places in the list that `find_layers` returns.
        centre: float32, [features]; the mean of the training pictures' features.
        whitening: float32, [features, features]; `|(features - centre) @ whitening|` is the distance, 1 at the limit.
    """

    layers: NDArray[np.int64]
    centre: NDArray[np.float32]
    whitening: NDArray[np.float32]

    def write(self, path: Path) -> None:
        """Write the file that `[fit]` of a manifest names."""
        from safetensors.numpy import save

        with replace_file(path) as file:
            file.write(save({LAYERS: self.layers, CENTRE: self.centre, WHITENING: self.whitening}))


def read_reference(folder: Path, spec: FitSpec) -> FeatureReference:
    """Read the file of a manifest's `[fit]`; raises `CompiledModelError` if it is another one, or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = read_plain(folder / spec.file)
        if hashlib.sha256(content).hexdigest() != spec.sha256:
            raise CompiledModelError(f"{spec.file} is not the file that [fit] of the manifest names")
        tensors = load(content)
        reference = FeatureReference(tensors[LAYERS], tensors[CENTRE], tensors[WHITENING])
    except OSError as error:
        raise CompiledModelError(f"{spec.file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, SafetensorError) as error:
        raise CompiledModelError(f"{spec.file} holds no reference of a network's features: {error}") from error
    count = len(reference.centre)
    kinds = [str(part.dtype) for part in (reference.layers, reference.centre, reference.whitening)]
    shapes = [reference.layers.ndim, reference.centre.ndim, *reference.whitening.shape]
    if kinds != ["int64", "float32", "float32"] or shapes != [1, 1, count, count]:
        raise CompiledModelError(f"{spec.file} holds no reference of a network's features")
    if not all(np.isfinite(part).all() for part in (reference.centre, reference.whitening)):
        raise CompiledModelError(f"{spec.file} holds numbers that are not finite")
    return reference


def find_layers(model: "openvino.Model") -> list["openvino.Node"]:
    """Return the nodes whose output may be looked at, in order: sums of two branches; without such, convolutions.

    Their output is float32, [N, channels, height, width].
    """
    nodes = [node for node in model.get_ordered_ops() if has_planes(node)]
    sums = [node for node in nodes if node.get_type_name() == "Add" and not has_constant(node)]
    return sums or [node for node in nodes if node.get_type_name() in ("Convolution", "GroupConvolution")]


def has_planes(node: "openvino.Node") -> bool:
    """Whether a node's output is [N, channels, height, width] with a known number of channels."""
    if node.get_output_size() != 1:
        return False
    shape = node.get_output_partial_shape(0)
    return bool(shape.rank.is_static and len(shape) == 4 and shape[1].is_static)


def has_constant(node: "openvino.Node") -> bool:
    """Whether an input of a node is a constant: a bias is added to its layer, and is no branch."""
    return any(value.get_source_output().get_node().get_type_name() == "Constant" for value in node.inputs())


def count_features(layer: "openvino.Node") -> int:
    """Return how many features a layer gives: two a channel."""
    return 2 * int(layer.get_output_partial_shape(0)[1].get_length())


def collect_features(model: "openvino.Model", layers: NDArray[np.int64]) -> "openvino.Node":
    """Add the mean and the standard deviation over the picture of each channel: float32, [N, features].

    Raises `CompiledModelError` if the network has no such layers.
    """
    from openvino import opset13 as operations

    found = find_layers(model)
    if not len(layers) or not all(0 <= layer < len(found) for layer in layers):
        raise CompiledModelError("the fit was made for another network")
    planes = np.array([2, 3], dtype=np.int64)
    features = []
    for layer in layers:
        output = found[layer].output(0)
        mean = operations.reduce_mean(output, planes, keep_dims=True)
        difference = operations.subtract(output, mean)
        variance = operations.reduce_mean(operations.multiply(difference, difference), planes, keep_dims=False)
        root = operations.sqrt(operations.add(variance, np.float32(LEAST_VARIANCE)))
        features += [operations.squeeze(mean, planes), root]
    return operations.concat(features, 1)


def add_features(model: "openvino.Model", layers: NDArray[np.int64]) -> "openvino.Model":
    """Return the network with its features as a second output."""
    import openvino

    features = collect_features(model, layers).output(0)
    return openvino.Model([find_scores(model), features], model.get_parameters())


def find_scores(model: "openvino.Model") -> "openvino.Output":
    """Return what a network answers."""
    return model.output(0).get_node().input_value(0)


def add_distance(model: "openvino.Model", reference: FeatureReference) -> "openvino.Model":
    """Return the network with the distance as one more score: float32, [N, outputs + 1].

    Raises `CompiledModelError` if the reference is of another network.
    """
    import openvino
    from openvino import opset13 as operations

    features = collect_features(model, reference.layers)
    if features.get_output_partial_shape(0)[1].get_length() != len(reference.centre):
        raise CompiledModelError("the fit was made for another network")
    centred = operations.subtract(features, reference.centre[np.newaxis])
    whitened = operations.matmul(centred, reference.whitening, False, False)
    distance = operations.reduce_l2(whitened, np.array([1], dtype=np.int64), keep_dims=True)
    scores = operations.concat([find_scores(model), distance], 1)
    return openvino.Model([scores.output(0)], model.get_parameters())
