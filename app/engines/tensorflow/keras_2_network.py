"""Builds a network of Keras 2 with tf-keras, from a config that was checked, and gives it the weights of its file."""

from app.engines.tensorflow.tensorflow_setup import tf  # before tf-keras, which imports TensorFlow too

# isort: split
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import tf_keras

from app.engines.tensorflow.keras_2_checks import read_layers
from app.engines.tensorflow.keras_classes import LEGACY_MODELS, find_tables
from app.errors import IntegrityError

SEEDS = ("StateVar", "seed_generator_state")
"""State of random numbers, which some versions kept among the weights of layers that work in training alone."""
ACTIVATIONS = {"relu6": tf.nn.relu6}
"""Activations that Keras 2 wrote by name and does not find again."""


def load_keras_2(path: Path, config: Any) -> Any:
    """Build the `tf_keras.Model` of a `.h5` file, whose config `check_keras_2` found to be harmless.

    Raises:
        IntegrityError: the file does not say how large the input is, or its weights are not those of its layers.
        ValueError, TypeError and others: tf-keras cannot build the network; see `LOADING_ERRORS`.
    """
    network = tf_keras.models.model_from_json(json.dumps(config), custom_objects=ACTIVATIONS)
    if not network.inputs:
        network.build(_read_input_shape(config))
    with h5py.File(path, "r") as file:
        _set_weights(network, config, file["model_weights"])
    for layer in network.submodules:
        if isinstance(layer, tf_keras.layers.Normalization):
            layer.finalize_state()
    return network


def _read_input_shape(config: Any) -> list[Any]:
    """Find the input's shape where Keras 2 does not: a Sequential may say it, or only the first layer in it."""
    shapes = (table.get("build_input_shape") or table.get("batch_input_shape") for table in find_tables(config))
    shape = next(filter(None, shapes), None)
    if shape is None:
        raise IntegrityError("the model does not say how large its input is; call it with a picture before saving it")
    return [None, *(shape["items"] if isinstance(shape, dict) else shape)[1:]]


def _set_weights(network: Any, config: Any, group: h5py.Group) -> None:
    """Give every layer its weights; raise `IntegrityError` unless they are exactly those that the network needs.

    tf-keras' own reader goes by order alone. A base that was thawed in part could get its statistics as its factors.
    """
    own = "top_level_model_weights"
    names = [*_read_names(group, "layer_names"), *([own] if own in group else [])]
    saved = {name: _read_names(group[name], "weight_names") for name in names}
    for layer in read_layers(config["config"]):
        name = layer["config"]["name"]
        _fill(name, group.get(name), saved.pop(name, []), _list_variables(network, layer))
    left = [name for name, weights in saved.items() if weights]
    if left:
        raise IntegrityError(f"the file holds weights of {left[0]:.60}, which the model has no place for")


def _list_variables(network: Any, spec: Any) -> list[Any]:
    """Return the variables of a network's layer in the order in which Keras 2 wrote them, learned ones first."""
    layers = list(_list_layers(network, spec))
    learned = [variable for layer in layers for variable in layer.trainable_weights]
    return learned + [variable for layer in layers for variable in layer.non_trainable_weights]


def _list_layers(network: Any, spec: Any) -> Iterator[Any]:
    """Yield a network's layer, or the layers of the model that it is, in the order of the config."""
    if spec["class_name"] == "InputLayer":
        return
    layer = network.get_layer(spec["config"]["name"])
    if spec["class_name"] in LEGACY_MODELS:
        for inner in read_layers(spec["config"]):
            yield from _list_layers(layer, inner)
    else:
        yield layer


def _read_names(group: h5py.Group, key: str) -> list[str]:
    """Return a list of names; a long list lies in several attributes, numbered from 0."""
    parts = [group.attrs[key]] if key in group.attrs else []
    while f"{key}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{key}{len(parts)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]


def _fill(name: str, group: Any, weights: Sequence[str], variables: Sequence[Any]) -> None:
    """Give the variables of one of the outermost layers their weights."""
    weights = [weight for weight in weights if _last_part(weight) not in SEEDS]
    variables = [variable for variable in variables if _last_part(variable.name) not in SEEDS]
    by_name = {variable.name: variable for variable in variables}
    if len(by_name) == len(variables) == len(weights) and by_name.keys() == set(weights):
        variables = [by_name[weight] for weight in weights]
    elif [_last_part(weight) for weight in weights] != [_last_part(variable.name) for variable in variables]:
        raise IntegrityError(f"the weights of {name:.60} are not those that its layers need")
    for weight, variable in zip(weights, variables, strict=True):
        values = group.get(weight)
        if not isinstance(values, h5py.Dataset) or values.dtype.kind not in "fiu":
            raise IntegrityError(f"{weight:.60} holds no numbers")
        if values.shape != tuple(variable.shape):
            raise IntegrityError(f"{weight:.60} is {values.shape}, and its layer needs {tuple(variable.shape)}")
        variable.assign(values[()])


def _last_part(weight: str) -> str:
    """Return what a weight is to its layer, such as `kernel`."""
    return weight.rpartition("/")[2].removesuffix(":0")
