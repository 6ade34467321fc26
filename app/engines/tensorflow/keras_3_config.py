"""Looks through the config of a Keras 3 model before Keras builds it, and leaves out what training alone needs."""

from collections.abc import Mapping
from typing import Any

from app.engines.tensorflow.keras_2_checks import MAX_CALLS, count_calls
from app.engines.tensorflow.keras_3_classes import MODELS, find_module
from app.engines.tensorflow.keras_classes import RANDOM_LAYERS, refuse_class
from app.errors import IntegrityError

TRAINING_STATE = "compile_config"
"""Key of optimizer, loss and metrics, which may be of any class: it is passed over, in models inside a model, too."""
VALUES = ("__keras_tensor__", "__slice__", "__ellipsis__")
"""What stands for a value in the arguments of an operation."""
CONSTANTS = ("__tensor__", "__numpy__")
NUMBERS = frozenset(("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16"))


def read_keras_3(file: str, config: Any) -> dict[str, Any]:
    """Return a config as Keras is to build it: listed classes alone, each in its module, without training state.

    Layers that change pictures by chance in training become `Identity`. Raises `IntegrityError`, which names `file`, if
    the config holds anything outside of the lists, or is no model's.
    """
    try:
        read: Any = _read(file, config)
        is_model = read["class_name"] in MODELS
        is_too_long = is_model and count_calls(read) > MAX_CALLS
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise IntegrityError(f"{file} holds no config of Keras 3: {type(error).__name__} {error}") from error
    if not is_model:
        raise IntegrityError(f"{file} holds {read['class_name']}, and not a model")
    if is_too_long:
        raise IntegrityError(f"{file} calls more than {MAX_CALLS} layers")
    return dict(read)


def _read(file: str, data: Any) -> Any:
    """Read any part of a config."""
    if isinstance(data, list):
        return [_read(file, each) for each in data]
    if not isinstance(data, dict):
        return data
    name = data.get("class_name")
    if "class_name" not in data:
        return {key: _read(file, value) for key, value in data.items() if key != TRAINING_STATE}
    if name == "__tuple__":
        return [_read(file, each) for each in data["items"]]
    if data.get("module") is None and name in VALUES + CONSTANTS:
        return _read_value(file, data)
    return _read_class(file, data)


def _read_value(file: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Read what stands for a tensor, a slice, an ellipsis, or a constant, whose numbers are of a plain kind."""
    config = data.get("config", {})
    if data["class_name"] in CONSTANTS and config["dtype"] not in NUMBERS:
        raise IntegrityError(f"{file} holds a constant of {config['dtype']!s:.60}, and not of numbers")
    return {"class_name": data["class_name"], "config": _read(file, config)}


def _read_class(file: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Read a layer, an operation, a model, or a part of one; raise `IntegrityError` if it is in no list."""
    name, module, config = str(data["class_name"]), data.get("module"), data["config"]
    if data.get("registered_name") not in (None, name):  # Keras would look for a class of that name first
        raise refuse_class(file, None, str(data["registered_name"]))
    if name in RANDOM_LAYERS and module in (None, "keras.layers"):
        return _leave_out(file, data)
    found = find_module(module, name, is_layer="trainable" in config)
    if found is None:
        raise refuse_class(file, module, name)
    rest = {key: value for key, value in data.items() if key not in ("registered_name", TRAINING_STATE)}
    read = {key: _read(file, value) for key, value in rest.items()}
    return {**read, "class_name": name, "module": found, "registered_name": None}


def _leave_out(file: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a layer that returns the picture it gets; some draw numbers all the same, which cannot be compiled."""
    left: dict[str, Any] = {"class_name": "Identity", "module": "keras.layers", "registered_name": None}
    left["config"] = {"name": data["config"]["name"]}
    if "inbound_nodes" in data:
        calls = [[*call["args"], *call["kwargs"].values()][:1] for call in data["inbound_nodes"]]
        left |= {"name": data["name"], "inbound_nodes": [{"args": _read(file, call), "kwargs": {}} for call in calls]}
    return left
