"""Looks through the config of a Keras 2 model before tf-keras builds it: names, number formats, order of calls."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from app.engines.tensorflow.keras_classes import (
    KERAS_2_ACTIVATIONS,
    KERAS_2_FUNCTIONS,
    LEGACY_MODELS,
    find_tables,
    is_allowed_in_keras_2,
    refuse_class,
)
from app.errors import IntegrityError

MAX_CALLS = 20_000
"""Layers that one call of a model may call. The largest model of keras.applications calls 1200."""

Call = tuple[str, int]
"""A layer's name, and the number of the call as the config counts it."""


def check_keras_2(file: str, config: Any) -> None:
    """Refuse a config that could run code, that never ends, or whose scores would not be the trained model's.

    Raises `IntegrityError`, which names `file`, if the config breaks a rule or is none of Keras 2.
    """
    try:
        tables = list(find_tables(config))
        for table in tables:
            check_table(file, table)
        for model in [table for table in tables if table.get("class_name") in LEGACY_MODELS]:
            if count_calls(model) > MAX_CALLS:
                raise IntegrityError(f"{file} calls more than {MAX_CALLS} layers")
            if "input_layers" in model["config"]:
                check_order(file, model["config"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{file} holds no config of Keras 2: {type(error).__name__} {error}") from error


def check_table(file: str, table: dict[str, Any]) -> None:
    """Check one dict of a config: a layer, its settings, or the arguments of a call."""
    name = table.get("class_name")
    if name is not None and not is_allowed_in_keras_2(table.get("module"), name):
        raise refuse_class(file, table.get("module"), name)
    if table.get("registered_name") not in (None, name):
        raise refuse_class(file, None, str(table["registered_name"]))
    if table.get("function", "cast") not in KERAS_2_FUNCTIONS:
        raise IntegrityError(
            f"{file} holds the function tf.{table['function']!s:.60}, which is not allowed; "
            "build the model with layers in its place, load its weights, and save it"
        )
    if isinstance(table.get("activation"), str) and table["activation"] not in KERAS_2_ACTIVATIONS:
        raise IntegrityError(f"{file} holds the activation {table['activation']!r:.60}, which is not allowed")
    if table.get("training"):
        raise IntegrityError(
            f"{file} calls a layer with training=True. The layer draws at random, so the same picture would get "
            "different answers"
        )
    check_dtype(file, table)


def check_dtype(file: str, table: dict[str, Any]) -> None:
    """Refuse a layer that computes in anything but float32; an input may take uint8."""
    dtype = table.get("dtype") or "float32"
    held = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
    if held != "float32" and not (held == "uint8" and "batch_input_shape" in table):
        raise IntegrityError(
            f"{file} holds {table.get('name')!s:.60} in {held!r:.60}; "
            "build the model in float32, load its weights, and save it"
        )


def check_order(file: str, config: dict[str, Any]) -> None:
    """Refuse a functional model whose calls wait for each other, or for one that is not there: Keras 2 would hang."""
    layers = config["layers"]
    if len({layer["name"] for layer in layers}) != len(layers):
        raise IntegrityError(f"{file} holds two layers with one name in one model")
    used = {*find_calls([layer["inbound_nodes"] for layer in layers]), *find_calls(config["output_layers"])}
    first: dict[str, int] = {}  # Keras 2 counts the calls of some inner models from 1
    for name, number in used:
        first[name] = min(number, first.get(name, number))
    needs: dict[Call, set[Call]] = {}
    for layer in layers:
        name, start = layer["name"], first.get(layer["name"], 0) if layer["class_name"] in LEGACY_MODELS else 0
        for number, call in enumerate(layer["inbound_nodes"] or [[]], start):
            before = {(name, number - 1)} if number > start else set()
            needs[name, number] = before | set(find_calls(call))
    if not used <= needs.keys():
        raise IntegrityError(f"{file} needs the output of {min(used - needs.keys())[0]:.60}, which is not there")
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise IntegrityError(f"{file}: the layer {error.args[1][0][0]:.60} needs its own output") from error


def find_calls(data: Any) -> Iterator[Call]:
    """Yield every call whose output stands in the arguments of another, by position or by name."""
    if isinstance(data, list) and len(data) in (3, 4) and isinstance(data[0], str):
        if data[0] != "_CONSTANT_VALUE":
            yield data[0], int(data[1])
        data = data[3:]
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from find_calls(value)


def count_calls(model: Any) -> int:
    """Return how many layers one call of a model calls; models in models make a short file a very long one."""
    total = 0
    for layer in read_layers(model["config"]):
        inner = count_calls(layer) if layer["class_name"] in LEGACY_MODELS else 1
        total += max(len(layer.get("inbound_nodes", ())), 1) * inner
    return total


def read_layers(config: Any) -> list[Any]:
    """Return the layers of a model; the config of a Sequential was a bare list up to Keras 2.2.2."""
    return list(config if isinstance(config, list) else config["layers"])
