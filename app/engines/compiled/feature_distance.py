"""How far a picture lies from those that a network was trained on, worked out inside of the compiled network.

For every channel of a few layers, the mean and the standard deviation over the picture are taken: what textures, edges
and colours it holds, before the network has thrown away what does not tell its classes apart. The layers stand in
groups, early ones and middle ones: what one group does not see, another may. A group's distance is Mahalanobis' (Lee et
al. 2018, arXiv:1807.03888), and the largest counts.
"""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.errors import CompiledModelError
from app.manifest.fit_spec import FitSpec
from app.processes.atomic import replace_file
from app.processes.plain_files import read_plain

if TYPE_CHECKING:
    import openvino

LAYERS, CENTRE, WHITENING = "layers", "centre", "whitening"
MAX_BYTES = 64 * 1024 * 1024
"""Of all arrays of a reference; those of the shipped models have 3 MB."""
LEAST_VARIANCE = 1e-6
"""Keeps a standard deviation's root away from rounding below 0."""


@dataclass(frozen=True)
class FeatureGroup:
    """What the training pictures look like to a few layers of a network.

    Attributes:
        layers: int64, [layers]; places in the list that `find_layers` returns.
        centre: float32, [features]; the mean of the training pictures' features.
        whitening: float32, [features, features]; `|(features - centre) @ whitening|` is the distance, 1 at the limit.
    """

    layers: NDArray[np.int64]
    centre: NDArray[np.float32]
    whitening: NDArray[np.float32]

    def check(self) -> None:
        """Raise `ValueError` unless the parts are what they must be."""
        count = len(self.centre)
        parts = (self.layers, self.centre, self.whitening)
        if [str(part.dtype) for part in parts] != ["int64", "float32", "float32"]:
            raise ValueError("the numbers have other types")
        if [self.layers.ndim, self.centre.ndim, *self.whitening.shape] != [1, 1, count, count]:
            raise ValueError("the shapes do not fit each other")
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError("not every number is finite")


def write_reference(groups: Sequence[FeatureGroup], path: Path) -> None:
    """Write the file that `[fit]` of a manifest names: NumPy's `.npz`."""
    arrays = {
        f"{name}.{number}": part
        for number, group in enumerate(groups)
        for name, part in ((LAYERS, group.layers), (CENTRE, group.centre), (WHITENING, group.whitening))
    }
    with replace_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_reference(folder: Path, spec: FitSpec) -> list[FeatureGroup]:
    """Read the file of a manifest's `[fit]`; raises `CompiledModelError` if it is another one, or damaged."""
    try:
        content = read_plain(folder / spec.file)
        if hashlib.sha256(content).hexdigest() != spec.sha256:
            raise CompiledModelError(f"{spec.file} is not the file that [fit] of the manifest names")
        arrays = read_arrays(content)
        groups = [
            FeatureGroup(*(arrays[f"{name}.{number}"] for name in (LAYERS, CENTRE, WHITENING)))
            for number in range(max(1, len(arrays) // 3))
        ]
        for group in groups:
            group.check()
    except OSError as error:
        raise CompiledModelError(f"{spec.file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CompiledModelError(f"{spec.file} holds no reference of a network's features: {error}") from error
    return groups


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Read the arrays of an `.npz`; raises `ValueError` if they are compressed, too large, or need code to be read."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its arrays are compressed")
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise ValueError(f"its arrays have over {MAX_BYTES} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


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


def add_features(model: "openvino.Model", groups: Sequence[NDArray[np.int64]]) -> "openvino.Model":
    """Return the network with the features of each group of layers as further outputs."""
    import openvino

    features = [collect_features(model, layers).output(0) for layers in groups]
    return openvino.Model([find_scores(model), *features], model.get_parameters())


def find_scores(model: "openvino.Model") -> "openvino.Output":
    """Return what a network answers."""
    return model.output(0).get_node().input_value(0)


def add_distance(model: "openvino.Model", groups: Sequence[FeatureGroup]) -> "openvino.Model":
    """Return the network with the distance as one more score: float32, [N, outputs + 1].

    Raises `CompiledModelError` if the reference is of another network.
    """
    import openvino
    from openvino import opset13 as operations

    distances = [measure_distance(model, group) for group in groups]
    largest = reduce(operations.maximum, distances)
    scores = operations.concat([find_scores(model), largest], 1)
    return openvino.Model([scores.output(0)], model.get_parameters())


def measure_distance(model: "openvino.Model", group: FeatureGroup) -> "openvino.Node":
    """Add a group's distance: float32, [N, 1]."""
    from openvino import opset13 as operations

    features = collect_features(model, group.layers)
    if features.get_output_partial_shape(0)[1].get_length() != len(group.centre):
        raise CompiledModelError("the fit was made for another network")
    centred = operations.subtract(features, group.centre[np.newaxis])
    whitened = operations.matmul(centred, group.whitening, False, False)
    return operations.reduce_l2(whitened, np.array([1], dtype=np.int64), keep_dims=True)
