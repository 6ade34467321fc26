"""Reads the graph out of a Keras 2 config: which layers there are, what each is called with, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.engines.tensorflow.keras_classes import LEGACY_MODELS
from app.errors import IntegrityError

CONSTANT, INPUT = "_CONSTANT_VALUE", "InputLayer"
INPUT_TYPES = ("float32", "uint8")
"""Of the outermost input, which gets whole numbers as float32: both are computed alike."""
Spec = Mapping[str, Any]
End = Sequence[Any]
"""One output of one call of a layer: the layer's name, the number of the call, that of the output, arguments."""
Call = tuple[str, int]


class Graph:
    """The graph of a functional model.

    Raises:
        KeyError, TypeError, ValueError, IndexError, AttributeError: it is none.
        IntegrityError: it is one, but not one that is taken.
    """

    def __init__(self, config: Spec, nested: bool) -> None:
        self.layers = name_layers(config["layers"], nested)
        self.inputs, self.outputs = read_ends(config["input_layers"]), read_ends(config["output_layers"])
        self._first = self._find_first_calls()
        self.calls = self._sort_calls()
        """Those that the outputs need, each after what it needs."""

    def find_call(self, end: End) -> Call:
        """Return which call of a layer gave an output, counted from 0."""
        index = end[1] - self._first.get(end[0], 0)
        if index < 0 or end[2] < 0:
            raise IndexError("a negative number of a call")
        return end[0], index

    def _sort_calls(self) -> list[Call]:
        inputs = {self.find_call(end) for end in self.inputs}
        ready: dict[Call, None] = dict.fromkeys(inputs)
        opened = set()
        stack = [self.find_call(end) for end in self.outputs]
        while stack:
            call = stack[-1]
            missing = [need for need in self._find_needs(call) if need not in ready] if call not in ready else []
            if not missing:
                ready[stack.pop()] = None
            elif call in opened:
                raise IntegrityError(f"{call[0]:.60} needs its own output")
            else:
                opened.add(call)
                stack += missing
        return [call for call in ready if call not in inputs]

    def _find_needs(self, call: Call) -> list[Call]:
        name, index = call
        return [self.find_call(end) for end in find_ends(self.layers[name]["inbound_nodes"][index])]

    def _find_first_calls(self) -> dict[str, int]:
        """Return the number by which the first call of each inner model goes: 1, or, of some Sequentials, 0.

        Keras 2 counted from 1 where the model had had an input of its own before. The first call always leads
        somewhere, so the smallest number that is named is its.
        """
        calls = (call for layer in self.layers.values() for call in layer.get("inbound_nodes", ()))
        first: dict[str, int] = {}
        for name, number, *_ in [*self.outputs, *(end for call in calls for end in find_ends(call))]:
            if self.layers[name]["class_name"] in LEGACY_MODELS:
                first[name] = min(number, first.get(name, number))
        return first


def name_of(layer: Spec) -> str:
    """Return a layer's name."""
    return str(layer["config"]["name"])


def name_layers(layers: Sequence[Spec], nested: bool) -> dict[str, Spec]:
    """Return a model's layers by name; raises `IntegrityError` if two have one, as their weights would be mixed up."""
    named = {name_of(layer): layer for layer in layers}
    if len(named) != len(layers):
        raise IntegrityError("two layers of a model have one name")
    for layer in layers:
        dtype = layer["config"].get("dtype") or "float32"
        if layer["class_name"] == INPUT and dtype not in INPUT_TYPES[: 1 if nested else None]:
            raise IntegrityError(
                f"the input {name_of(layer):.60} is {dtype!r:.60}; build the model with one of float32"
            )
    return named


def read_layers(config: Any) -> list[Any]:
    """Return the layers of a Sequential, whose config was a bare list up to Keras 2.2.2."""
    return list(config if isinstance(config, list) else config["layers"])


def list_paths(spec: Spec, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the names that lead to each layer, in the order in which Keras 2 wrote their weights."""
    for layer in read_layers(spec["config"]):
        here = (*path, name_of(layer))
        if layer["class_name"] in LEGACY_MODELS:
            yield from list_paths(layer, here)
        else:
            yield here


def read_ends(ends: Any) -> list[End]:
    """Return inputs or outputs as a list, which Keras 2 leaves out round a lone one at times."""
    ends = [ends] if ends and isinstance(ends[0], str) else ends
    if not isinstance(ends, list) or not all(isinstance(end, list) and isinstance(end[0], str) for end in ends):
        raise IntegrityError("a model has inputs or outputs by name, which are not taken")
    return ends


def find_ends(call: Any) -> Iterator[End]:
    """Yield every output of another layer that a call takes, also by the name of an argument."""
    for end in read_ends(call):
        if end[0] != CONSTANT:
            yield end
        for value in read_arguments(end).values():
            if is_end(value):
                yield value


def is_end(value: Any) -> bool:
    """Whether an argument is the output of another layer."""
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and value[0] != CONSTANT


def read_arguments(end: End) -> dict[str, Any]:
    """Return the arguments by name of a call that say something."""
    return {key: value for key, value in end[3].items() if value is not None} if len(end) > 3 else {}


def read_operation(call: Any, resolve: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return what a function is called with: tensors and constants in order, and arguments by name."""
    ends = read_ends(call)
    operands = [end[2] if end[0] == CONSTANT else resolve(end) for end in ends]
    options = read_arguments(ends[0])
    if "y" in options:
        other = options.pop("y")
        operands.append(resolve(other) if is_end(other) else other)
    return operands, options


def check_arguments(layer: Spec, call: Any) -> None:
    """Refuse a call with more than its inputs; `training=False` is how every model is run here."""
    for key, value in [item for end in read_ends(call) for item in read_arguments(end).items()]:
        if key != "training":
            raise IntegrityError(f"{name_of(layer):.60} is called with {key:.60}, which is not known here")
        if value:
            raise IntegrityError(f"{name_of(layer):.60} is called with training=True, so its answers are drawn by lot")


def find_input_shape(spec: Spec) -> list[Any]:
    """Return the shape of a model's lone input, the batch first, from wherever Keras 2 wrote it."""
    kind, config = spec["class_name"], spec["config"]
    if kind == "Sequential":
        first = read_layers(config)[0]
        if first["class_name"] in LEGACY_MODELS or "batch_input_shape" in first["config"]:
            return find_input_shape(first)
        return read_shape(config.get("build_input_shape"))
    if kind in LEGACY_MODELS:
        ends = read_ends(config["input_layers"])
        if len(ends) != 1:
            raise IntegrityError("the model has not one input and one output")
        return find_input_shape(name_layers(config["layers"], nested=False)[ends[0][0]])
    return read_shape(config.get("batch_input_shape"))


def read_shape(shape: Any) -> list[Any]:
    """Return a shape as a list, which is how JSON has it at most times."""
    shape = shape["items"] if isinstance(shape, dict) else shape
    if not isinstance(shape, list):
        raise IntegrityError("the model does not say how large its input is; call it with a picture before saving it")
    return shape
