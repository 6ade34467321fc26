"""What can be read from a network itself: what stands before its first layer, and how its scores are bounded.

A manifest is held against these facts (`app/compiling/manifest_check.py`).
"""

import ast
import json
import math
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import openvino
from numpy.typing import NDArray

Channels: TypeAlias = tuple[float, float, float]
Numbers: TypeAlias = NDArray[np.float32]
Reaction: TypeAlias = Callable[[Numbers], Numbers]
"""Turns pictures as the network takes them, float32 in its layout, into what its first layer takes, a row for each."""
ARITHMETIC = frozenset(
    (
        *("Add", "BatchNormInference", "Divide", "Multiply", "Subtract"),
        *("AddV2", "BiasAdd", "FusedBatchNorm", "FusedBatchNormV3", "Mul", "RealDiv", "Sub"),
    )
)
"""Steps that normalize pixels, by their names in OpenVINO and in TensorFlow."""
PIXELWISE = ARITHMETIC | frozenset(
    (
        *("Clamp", "Concat", "Convert", "Gather", "Interpolate", "Maximum", "Minimum", "Negative", "Reshape", "Slice"),
        *("Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"),
        *("Cast", "ClipByValue", "ConcatV2", "EnsureShape", "ExpandDims", "GatherV2", "Identity", "Neg", "Pack"),
        *("ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor", "ReverseV2", "SplitV", "Unpack"),
    )
)
"""Steps that leave a picture of one colour in one colour; whatever is none of these is a layer."""
CLASS_KEYS = frozenset(("class_names", "classes", "id2label", "index_to_name", "labels", "names"))
"""Keys under which exporters and people write the names of classes beside a network."""
MAX_TEXT = 64 * 1024
PARSING = threading.Lock()
"""Held while a text is read as Python: Python 3.11 may fail to read one while another thread reads one."""
SIZES = frozenset(("Shape", "ShapeOf"))
"""Steps that look at the size of a picture alone."""

Bounds: TypeAlias = tuple[float, float]
"""The least and the greatest number that a tensor can hold."""
ANY: Bounds = (-math.inf, math.inf)
CARRIERS = frozenset(
    (
        *("Convert", "Gather", "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Slice", "Split", "Squeeze"),
        *("StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"),
    )
)
"""Operations of OpenVINO whose results stay within the bounds of the first thing that they take."""
ENDS: dict[str, Bounds] = {
    **dict.fromkeys(("HSigmoid", "HardSigmoid", "Sigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Exp", "ReLU", "Relu", "SoftPlus"), (0.0, math.inf)),
    "LogSoftmax": (-math.inf, 0.0),
    "Tanh": (-1.0, 1.0),
}
"""Bounds of the results of operations of OpenVINO, whatever they take."""
MAX_DEPTH = 40
"""Operations that are followed back from a network's end."""


class Operation(NamedTuple):
    """One step of a network's graph: its kind, and its tensors by any key."""

    kind: str
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]


class Head(NamedTuple):
    """What stands before the first layer: the kinds of steps that normalize, and what all steps make of pictures."""

    steps: tuple[str, ...]
    react: Reaction


@dataclass(frozen=True)
class NetworkFacts:
    """What was read from a network.

    Attributes:
        last_step: the operation that its scores come from, as OpenVINO names it.
        low, high: what its scores cannot leave, whatever the picture; infinite where nothing bounds them.
        steps: kinds of the steps that normalize pixels before the first layer.
        probe: takes a mean and std; returns what the first layer then gets of a black and of a white picture.
        classes: names of its outputs in their order, if the file has them.
    """

    last_step: str
    low: float
    high: float
    steps: tuple[str, ...]
    probe: Callable[[Channels, Channels], tuple[Numbers, Numbers]]
    classes: tuple[str, ...] | None = None


def find_first_layer(operations: Iterable[Operation], start: Hashable) -> tuple[Hashable, tuple[str, ...]]:
    """Follow the picture from the tensor `start`; return the tensor that the first layer takes, and the steps to it.

    `operations` come in an order in which each stands behind those that it needs.
    """
    reached: dict[Hashable, tuple[str, ...]] = {start: ()}
    for operation in operations:
        taken = [tensor for tensor in operation.inputs if tensor in reached]
        if not taken or operation.kind in SIZES:
            continue
        if operation.kind not in PIXELWISE:
            return taken[0], reached[taken[0]]
        steps = max((reached[tensor] for tensor in taken), key=len)
        steps += (operation.kind,) if operation.kind in ARITHMETIC else ()
        reached |= dict.fromkeys(operation.outputs, steps)
    return start, ()


def read_head(model: openvino.Model) -> Head:
    """Read what stands before the first layer of a model of OpenVINO."""
    nodes = model.get_ordered_ops()
    operations = (
        Operation(
            node.get_type_name(),
            tuple(key_of(each.get_source_output()) for each in node.inputs()),
            tuple(key_of(each) for each in node.outputs()),
        )
        for node in nodes
    )
    picture = model.input(0).get_node()
    found, steps = find_first_layer(operations, key_of(picture.output(0)))
    if not steps:
        return Head((), flatten)
    tensor = next(each for node in nodes for each in node.outputs() if key_of(each) == found)
    part = openvino.Model([tensor], [picture], "head")
    compiled = openvino.Core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def react(pictures: Numbers) -> Numbers:
        return np.stack([np.array(compiled(one)[0], np.float32).ravel() for one in pictures[:, np.newaxis]])

    return Head(steps, react)


def flatten(pictures: Numbers) -> Numbers:
    """Make a row of each picture."""
    return pictures.reshape(len(pictures), -1)


def find_class_names(metadata: Mapping[str, object]) -> tuple[str, ...] | None:
    """Find the names of a network's outputs, in their order, in what is written beside it; None if there are none.

    `metadata` are texts by key: a list of names, or a table of names by index, in JSON or as Python writes it.
    """
    for key in sorted(CLASS_KEYS & metadata.keys()):
        value = read_text(metadata[key])
        if isinstance(value, dict) and all(str(index) in value for index in range(len(value))):
            value = [value[str(index)] for index in range(len(value))]
        if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
            return tuple(value)
    inner = (read_text(value) for value in metadata.values())
    return next(filter(None, (find_class_names(each) for each in inner if isinstance(each, dict))), None)


def read_text(value: object) -> object:
    """Read a list or table that may be written as text; keys of tables become texts."""
    if isinstance(value, str) and len(value) <= MAX_TEXT and value.lstrip()[:1] in ("[", "{"):
        value = read_json_or_python(value)
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else value


def read_json_or_python(text: str) -> object:
    """Read a text as JSON, or as Python writes its values; None if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with PARSING:
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def key_of(output: Any) -> tuple[str, int]:
    """Return a key of a tensor of an OpenVINO graph."""
    return output.get_node().get_name(), output.get_index()


def find_last_step(source: Any) -> str:
    """Name the operation of OpenVINO that scores come from, behind what only carries or cuts them.

    `source` is an output of a node of an `openvino.Model`.
    """
    node = source.get_node()
    for _ in range(MAX_DEPTH):
        if node.get_type_name() not in CARRIERS | {"Clamp"}:
            break
        node = node.input_value(0).get_node()
    return str(node.get_type_name())


def bound_scores(source: Any, known: dict[tuple[str, int], Bounds] | None = None) -> Bounds:
    """Return the least and the greatest number that a tensor can hold; infinite where its operations do not say.

    `known` are the bounds of tensors that were met before.
    """
    known = {} if known is None else known
    key = key_of(source)
    if key not in known:
        known[key] = ANY  # of a tensor that is too far away, too
        if len(known) <= MAX_DEPTH:
            known[key] = bound_operation(source.get_node(), known)
    return known[key]


def bound_operation(node: Any, known: dict[tuple[str, int], Bounds]) -> Bounds:
    """Bound the result of one operation as `bound_scores` does."""
    kind = node.get_type_name()
    if kind == "Constant":
        values = node.get_data()
        return (float(values.min()), float(values.max())) if values.size else ANY
    if kind in CARRIERS:
        return bound_scores(node.input_value(0), known)
    if kind not in ("Add", "Clamp", "Concat", "Divide", "Multiply", "Negative", "Power", "Subtract"):
        return ENDS.get(kind, ANY)
    inner = [bound_scores(node.input_value(index), known) for index in range(node.get_input_size())]
    if kind == "Clamp":
        limits = node.get_attributes()
        return max(inner[0][0], float(limits["min"])), min(inner[0][1], float(limits["max"]))
    if kind == "Concat":
        return min(low for low, _ in inner), max(high for _, high in inner)
    return compute(kind, inner[0], inner[-1])


def compute(kind: str, one: Bounds, other: Bounds) -> Bounds:
    """Return the bounds of a sum, difference, product, quotient, power or negative of two bounded numbers."""
    if kind == "Negative":
        return -one[1], -one[0]
    if kind == "Subtract":
        return compute("Add", one, (-other[1], -other[0]))
    if kind == "Add":
        return one[0] + other[0], one[1] + other[1]
    if kind == "Power":
        return compute("Divide", (1.0, 1.0), one) if other == (-1.0, -1.0) else ANY
    if kind == "Divide":
        if other[0] <= 0 <= other[1]:
            return ANY
        return compute("Multiply", one, (1 / other[1], 1 / other[0]))
    products = [multiply(left, right) for left in one for right in other]
    return min(products), max(products)


def multiply(left: float, right: float) -> float:
    """Multiply two bounds; nothing times infinity is nothing."""
    return 0.0 if 0 in (left, right) else left * right
