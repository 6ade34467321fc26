"""Gives a network the weights of a `.h5` file of Keras 2: by name, or else in Keras 2's order; none is left over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from app.engines.tensorflow.keras_2_graph import Origin, Translation
from app.errors import IntegrityError

OWN_WEIGHTS, LAYERS, WEIGHTS = "top_level_model_weights", "layer_names", "weight_names"
SEEDS = ("StateVar", "seed_generator_state")
"""State of random numbers, which layers that do nothing outside of training keep among the weights."""
OLDER_VARIABLES = {("DepthwiseConv2D", "kernel"): "depthwise_kernel"}

Pairs = list[tuple[str, Any]]
"""A weight's name in the file, and the variable of Keras 3 that it is for."""


@dataclass(frozen=True)
class Leaf:
    """A layer that has weights: its name in the file, and its variables by their names in the file."""

    name: str
    trainable: bool
    variables: Mapping[str, Any]
    learned: frozenset[str]
    """Names of those variables that training changes; the others are statistics."""


def set_weights(network: Any, translation: Translation, file: h5py.File) -> None:
    """Give every layer of a network its weights.

    Args:
        network: what Keras 3 made of the translated config.
        translation: where each layer comes from.
        file: the checked file.

    Raises:
        IntegrityError: the file's weights are not exactly those that the network needs.
    """
    group = file["model_weights"]
    wanted: dict[str, list[Leaf]] = {}
    layers = {layer.name: layer for layer in network.layers}
    for name, kernel in translation.constants.items():
        layers[name].set_weights([np.array(kernel, np.float32)])
    for name, origin in translation.origins.items():
        if layers[name].weights:
            wanted.setdefault(origin.path[0], []).append(make_leaf(layers[name], origin))
    saved = {name: read_names(group[name], WEIGHTS) for name in read_names(group, LAYERS)}
    saved[OWN_WEIGHTS] = read_names(group[OWN_WEIGHTS], WEIGHTS) if OWN_WEIGHTS in group else []
    for name, weights in saved.items():
        names = [weight for weight in weights if split(weight)[1] not in SEEDS]
        fill(name, group.get(name), names, wanted.pop(name, []))
    if wanted:
        raise IntegrityError(f"the file holds no weights of {next(iter(wanted)):.60}")
    for layer in layers.values():
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()


def make_leaf(layer: Any, origin: Origin) -> Leaf:
    """Describe a layer of Keras 3 as Keras 2 knew it."""
    kind = type(layer).__name__
    variables = {OLDER_VARIABLES.get((kind, each.name), each.name): each for each in layer.weights}
    learned = {id(each) for each in layer.trainable_weights}
    names = frozenset(name for name, each in variables.items() if id(each) in learned)
    return Leaf(origin.path[-1], origin.trainable, variables, names)


def read_names(group: h5py.Group, key: str) -> list[str]:
    """Return a list of names; a long one lies in several attributes, numbered from 0."""
    parts = [group.attrs[key]] if key in group.attrs else []
    while f"{key}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{key}{len(parts)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]


def split(weight: str) -> tuple[str, str]:
    """Return the layer and the variable that a weight is called after."""
    layer, _, variable = weight.rpartition("/")
    return layer, variable.removesuffix(":0")


def fill(name: str, group: Any, weights: Sequence[str], leaves: Sequence[Leaf]) -> None:
    """Give the layers that lay in one of the outermost layers their weights."""
    pairs = match_by_name(weights, leaves)
    if pairs is None:
        pairs = match_by_order(weights, leaves)
    if pairs is None:
        raise IntegrityError(f"the weights of {name:.60} are not those that its layers need")
    for weight, variable in pairs:
        values = group.get(weight)
        if not isinstance(values, h5py.Dataset) or values.dtype.kind not in "fiu":
            raise IntegrityError(f"{weight:.60} holds no numbers")
        if values.shape != tuple(variable.shape):
            raise IntegrityError(f"{weight:.60} is {values.shape}, and its layer needs {tuple(variable.shape)}")
        variable.assign(values[()].astype(variable.dtype))


def match_by_name(weights: Sequence[str], leaves: Sequence[Leaf]) -> Pairs | None:
    """Pair weights with variables by the names of their layers; none if these do not fit one another exactly."""
    parts: dict[str, dict[str, str]] = {}
    for weight in weights:
        layer, variable = split(weight)
        parts.setdefault(layer, {})[variable] = weight
    by_name = {leaf.name: leaf for leaf in leaves}
    owners = {layer: find_owner(layer, by_name) for layer in parts}
    found = {leaf.name for leaf in owners.values() if leaf is not None}
    if len(by_name) != len(leaves) or not len(found) == len(parts) == len(leaves):
        return None
    pairs: Pairs = []
    for layer, owner in owners.items():
        if owner is None or set(owner.variables) != set(parts[layer]):
            return None
        pairs += [(weight, owner.variables[variable]) for variable, weight in parts[layer].items()]
    return pairs if len(pairs) == len(weights) else None


def find_owner(layer: str, by_name: Mapping[str, Leaf]) -> Leaf | None:
    """Return the layer of a name that may have the names of models before it."""
    while layer not in by_name and "/" in layer:
        layer = layer.partition("/")[2]
    return by_name.get(layer)


def match_by_order(weights: Sequence[str], leaves: Sequence[Leaf]) -> Pairs | None:
    """Pair weights with variables in the order in which Keras 2 wrote them, if the variables' names agree.

    What training changes came first, whatever the layers. TensorFlow 1 called a layer `conv_1` if another had been
    `conv` in the same process, so the layers' names need not agree; but each must stand for one layer all along.
    """
    learned = [(leaf, name) for leaf in leaves if leaf.trainable for name in leaf.variables if name in leaf.learned]
    others = [
        (leaf, name) for leaf in leaves for name in leaf.variables if not (leaf.trainable and name in leaf.learned)
    ]
    order = [*learned, *others]
    if [name for _, name in order] != [split(weight)[1] for weight in weights]:
        return None
    couples = {(split(weight)[0], id(leaf)) for weight, (leaf, _) in zip(weights, order, strict=True)}
    if not len(couples) == len({layer for layer, _ in couples}) == len({leaf for _, leaf in couples}):
        return None
    return [(weight, leaf.variables[name]) for weight, (leaf, name) in zip(weights, order, strict=True)]
