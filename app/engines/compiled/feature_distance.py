"""How far a picture lies from those that a network was trained on, worked out inside of the compiled network.

For every channel of a few layers, the mean and the standard deviation over the picture are taken: what textures, edges
and colours it holds, before the network has thrown away what does not tell its classes apart. The layers stand in
groups, early ones and middle ones: what one group does not see, another may. A group's distance is Mahalanobis' (Lee et
al. 2018, arXiv:1807.03888), and the largest counts.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.errors import CompiledModelError
from app.manifest.model_manifest import ModelManifest
from app.processes.plain_files import read_plain

if TYPE_CHECKING:
    import openvino

NUMBER = np.dtype("<f4")
LEAST_VARIANCE = 1e-6
"""Keeps a standard deviation's root away from rounding below 0."""
OTHER_NETWORK = "the fit was made for another network: run `flask models fit` again"


@dataclass(frozen=True)
class FeatureGroup:
    """What the training pictures look like to a few layers of a network.

    Attributes:
        layers: places in the list that `find_layers` returns.
        centre: float32, [features]; the mean of the training pictures' features.
        whitening: float32, [features, features]; `|(features - centre) @ whitening|` is the distance, 1 at the limit.
    """

    layers: Sequence[int]
    centre: NDArray[np.float32]
    whitening: NDArray[np.float32]


def pack_groups(groups: Sequence[FeatureGroup]) -> bytes:
    """Return the content of the file that `[fit]` of a manifest names: of each group the centre, then the whitening row
    by row, as little-endian float32. How many numbers these are, the network's layers say.
    """
    return b"".join(part.astype(NUMBER).tobytes() for group in groups for part in (group.centre, group.whitening))


def read_groups(folder: Path, manifest: ModelManifest, model: "openvino.Model") -> list[FeatureGroup]:
    """Read what the training pictures look like to a network, as the manifest's `[fit]` says.

    Raises `CompiledModelError` if the file is another one, or was made for another network.
    """
    spec = manifest.fit
    assert spec is not None, "called for a version with a fit"
    if spec.network_sha256 != manifest.network_sha256:
        raise CompiledModelError(OTHER_NETWORK)
    found = find_layers(model)
    if any(layer >= len(found) for layers in spec.layers for layer in layers):
        raise CompiledModelError(OTHER_NETWORK)
    counts = [sum(count_features(found[layer]) for layer in layers) for layers in spec.layers]
    try:
        content = read_plain(folder / spec.file)
    except OSError as error:
        raise CompiledModelError(f"{spec.file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != spec.sha256:
        raise CompiledModelError(f"{spec.file} is not the file that [fit] of the manifest names")
    if len(content) != NUMBER.itemsize * sum(count + count**2 for count in counts):
        raise CompiledModelError(OTHER_NETWORK)
    numbers = np.frombuffer(content, NUMBER)
    if not np.isfinite(numbers).all():
        raise CompiledModelError(f"{spec.file} holds numbers that are not finite")
    groups = []
    for layers, count in zip(spec.layers, counts, strict=True):
        centre, whitening, numbers = np.split(numbers, [count, count + count**2])
        groups.append(FeatureGroup(layers, centre, whitening.reshape(count, count)))
    return groups


def find_layers(model: "openvino.Model") -> list["openvino.Node"]:
    """Return the nodes whose output may be looked at, in order: sums of two branches; without such, convolutions.

    Their output is float32, [N, channels, height, width].
    """
    nodes = [node for node in model.get_ordered_ops() if has_planes(node)]
    sums = [node for node in nodes if node.get_type_name() == "Add" and not has_constant(node)]
    return sums or [node for node in nodes if node.get_type_name() in ("Convolution", "GroupConvolution")]


def has_planes(node: "openvino.Node") -> bool:
    """Whether a node's output is [N, channels, height, width], all but N of known size."""
    if node.get_output_size() != 1:
        return False
    shape = node.get_output_partial_shape(0)
    return bool(shape.rank.is_static and len(shape) == 4 and all(side.is_static for side in list(shape)[1:]))


def has_constant(node: "openvino.Node") -> bool:
    """Whether an input of a node is a constant: a bias is added to its layer, and is no branch."""
    return any(value.get_source_output().get_node().get_type_name() == "Constant" for value in node.inputs())


def count_features(layer: "openvino.Node") -> int:
    """Return how many features a layer gives: two a channel."""
    return 2 * int(layer.get_output_partial_shape(0)[1].get_length())


def collect_features(model: "openvino.Model", layers: Sequence[int]) -> "openvino.Node":
    """Add the mean and the standard deviation over the picture of each channel: float32, [N, features]."""
    from openvino import opset13 as operations

    found = find_layers(model)
    planes = np.array([2, 3], dtype=np.int64)
    features = []
    for layer in layers:
        output = operations.convert(found[layer].output(0), "f32")
        mean = operations.reduce_mean(output, planes, keep_dims=False)
        # Two sums over the picture: the differences to the mean would be an array as large as the layer's own.
        length = operations.reduce_l2(output, planes, keep_dims=False)
        size = np.float32(math.prod(side.get_length() for side in list(found[layer].get_output_partial_shape(0))[2:]))
        square = operations.divide(operations.multiply(length, length), size)
        variance = operations.subtract(square, operations.multiply(mean, mean))
        features += [mean, operations.sqrt(operations.maximum(variance, np.float32(LEAST_VARIANCE)))]
    return operations.concat(features, 1)


def add_features(model: "openvino.Model", groups: Sequence[Sequence[int]]) -> "openvino.Model":
    """Return the network with the features of each group of layers as further outputs."""
    import openvino

    features = [collect_features(model, layers).output(0) for layers in groups]
    return openvino.Model([find_scores(model), *features], model.get_parameters())


def find_scores(model: "openvino.Model") -> "openvino.Output":
    """Return what a network answers."""
    return model.output(0).get_node().input_value(0)


def add_distance(model: "openvino.Model", groups: Sequence[FeatureGroup]) -> "openvino.Model":
    """Return the network with the distance as one more score: float32, [N, outputs + 1]."""
    import openvino
    from openvino import opset13 as operations

    largest = reduce(operations.maximum, [measure_distance(model, group) for group in groups])
    scores = operations.concat([find_scores(model), largest], 1)
    return openvino.Model([scores.output(0)], model.get_parameters())


def measure_distance(model: "openvino.Model", group: FeatureGroup) -> "openvino.Node":
    """Add a group's distance: float32, [N, 1]."""
    from openvino import opset13 as operations

    centred = operations.subtract(collect_features(model, group.layers), group.centre[np.newaxis])
    whitened = operations.matmul(centred, group.whitening, False, False)
    return operations.reduce_l2(whitened, np.array([1], dtype=np.int64), keep_dims=True)
