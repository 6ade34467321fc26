"""Writes `.h5` files as versions of Keras 2 wrote them, by h5py and by hand: forms that tf-keras 2.21 no longer writes.

The layout was compared with files of tf-keras 2.21: names of groups and attributes, keys of every layer's config.
It also spares a test that needs no framework the import of one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Kernel and bias of each layer that has them, by the layer's name."""


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "trainable": True, "dtype": "float32", **config}}


def weighted(kind: str, name: str, activation: str, **config: Any) -> dict[str, Any]:
    """A layer with kernel and bias."""
    none = dict.fromkeys(
        ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")
    )
    initializers = {
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}},
    }
    return layer(kind, name, **config, activation=activation, use_bias=True, **initializers, **none)


def convolution(name: str, filters: int) -> dict[str, Any]:
    sizes = {"filters": filters, "kernel_size": [3, 3], "strides": [1, 1], "padding": "same", "dilation_rate": [1, 1]}
    return weighted("Conv2D", name, "relu", data_format="channels_last", groups=1, **sizes)


def pooling(name: str) -> dict[str, Any]:
    sizes = {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}
    return layer("MaxPooling2D", name, data_format="channels_last", **sizes)


def input_layer(side_px: int) -> dict[str, Any]:
    config = {"batch_input_shape": [None, side_px, side_px, 3], "dtype": "float32", "sparse": False, "ragged": False}
    return {"class_name": "InputLayer", "config": {**config, "name": "pixels"}}


def vgg_like(side_px: int, filters: tuple[int, ...], hidden: int) -> list[dict[str, Any]]:
    """Convolutions and poolings in turn, a dense layer, and a softmax of two, as a list of layers."""
    layers = [input_layer(side_px)]
    for index, count in enumerate(filters):
        layers += [convolution(f"conv{index}", count), pooling(f"pool{index}")]
    head = [
        layer("Flatten", "flatten", data_format="channels_last"),
        weighted("Dense", "hidden", "relu", units=hidden),
        layer("Dropout", "dropout", rate=0.5, noise_shape=None, seed=None),
        weighted("Dense", "scores", "softmax", units=2),
    ]
    return layers + head


def make_weights(side_px: int, filters: tuple[int, ...], hidden: int, seed: int = 5) -> Weights:
    """Seeded weights of a `vgg_like` whose answers differ from picture to picture."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for index, count in enumerate(filters):
        shapes[f"conv{index}"] = (3, 3, channels, count)
        channels = count
    last_px = side_px >> len(filters)
    shapes |= {"hidden": (last_px * last_px * channels, hidden), "scores": (hidden, 2)}
    return {
        name: (
            (random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)).astype(np.float32),
            random.normal(0, 0.1, shape[-1]).astype(np.float32),
        )
        for name, shape in shapes.items()
    }


def nest(layers: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Put the first layers into a model of their own, as with a base that was trained before."""
    names = [each["config"]["name"] for each in layers[:count]]
    base = [called(layers[0])]
    base += [called(each, [[before, 0, 0, {}]]) for each, before in zip(layers[1:count], names, strict=False)]
    inner = functional("base", base, [names[-1], 0, 0])
    return [input_layer(layers[0]["config"]["batch_input_shape"][1]), inner, *layers[count:]]


def write_keras_2(path: Path, layers: list[dict[str, Any]], weights: Weights, base: tuple[str, ...] = ()) -> Path:
    """Write a Sequential of layers with their weights; those of the layers in `base` lie together."""
    groups: dict[str, dict[str, Any]] = {}
    for name in [each["config"]["name"] for each in layers if each["class_name"] != "InputLayer"]:
        members = base if name == "base" else (name,) if name in weights else ()
        parts = [(each, part) for each in members for part in ("kernel", "bias")]
        groups[name] = {f"{each}/{part}:0": weights[each][part == "bias"] for each, part in parts}
    return write_model(path, sequential("sequential", layers), groups)


def write_model(path: Path, config: dict[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a model: its config, and the weights of each of its outermost layers, by the names that they had."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        for each in (file, group):
            each.attrs["keras_version"], each.attrs["backend"] = "2.15.0", "tensorflow"
        file.attrs["model_config"] = json.dumps(config)
        group.attrs["layer_names"] = [name.encode() for name in groups]
        for name, weights in groups.items():
            part = group.create_group(name)
            part.attrs["weight_names"] = np.array([weight.encode() for weight in weights], dtype="S64")
            for weight, values in weights.items():
                part[weight] = values
    return path


def sequential(name: str, layers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": name, "layers": layers}}


def called(each: dict[str, Any], *calls: Any) -> dict[str, Any]:
    """A layer in a functional model, with what each of its calls takes."""
    return {**each, "name": each["config"]["name"], "inbound_nodes": list(calls)}


def operation(function: str, **config: Any) -> dict[str, Any]:
    kind = "SlicingOpLambda" if function.endswith("getitem") else "TFOpLambda"
    return layer(kind, f"tf.{function}", function=function, **config)


def functional(name: str, layers: list[dict[str, Any]], output: list[Any]) -> dict[str, Any]:
    ends = {"input_layers": [[layers[0]["name"], 0, 0]], "output_layers": [output]}
    return {"class_name": "Functional", "config": {"name": name, "trainable": True, "layers": layers, **ends}}
