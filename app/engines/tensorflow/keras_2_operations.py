"""TensorFlow functions in a model of Keras 2, such as those of `preprocess_input`, as layers of Keras 3.

Keras 2 kept each call (`x / 127.5`) as a layer with the function's name. A short list of names is known here; no
function is ever looked up by a name.
"""

import math
from collections.abc import Sequence
from typing import Any

from app.engines.tensorflow.keras_2_layers import Step
from app.errors import IntegrityError

OPERATIONS = frozenset(("TFOpLambda", "SlicingOpLambda"))
MERGES = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
}
DIVISIONS = ("math.truediv", "math.divide")
ACTIVATIONS = {
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "math.sigmoid": "sigmoid",
    "math.tanh": "tanh",
    "nn.silu": "silu",
    "nn.elu": "elu",
    "nn.selu": "selu",
    "nn.softmax": "softmax",
}
REDUCTIONS = {"math.reduce_mean": "GlobalAveragePooling2D", "math.reduce_max": "GlobalMaxPooling2D"}
REVERSED_CHANNELS: list[Any] = [{"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1}]
REVERSING_KERNEL: list[Any] = [[[[0, 0, 1], [0, 1, 0], [1, 0, 0]]]]
"""Of a convolution over single pixels: red, green, blue to blue, green, red, without any rounding."""


class Tensor:
    """Stands for an output of another layer among the arguments of a function."""


def translate_operation(function: str, operands: Sequence[Any], options: dict[str, Any]) -> list[Step]:
    """Return the layers that compute a function of TensorFlow.

    Args:
        function: its name after `tf.`.
        operands: what it is called with, in order: a `Tensor`, or a constant.
        options: its other arguments.

    Raises:
        IntegrityError: the function, or what it is called with, is not known here.
    """
    steps = None
    try:
        if len(operands) == 1:
            steps = translate_unary(function, {key: value for key, value in options.items() if value is not None})
        elif all(isinstance(operand, Tensor) for operand in operands):
            steps = translate_merge(function, len(operands), options)
        elif not options and len(operands) == 2:
            steps = translate_with_constant(function, operands)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise refuse_operation(function) from error
    if steps is None:
        raise refuse_operation(function)
    return steps


def refuse_operation(function: str) -> IntegrityError:
    """Make the error that names a function which is not known, or not in this use."""
    return IntegrityError(
        f"the function tf.{function:.60} cannot be translated as it is called here; "
        "build the model with layers in its place, load its weights, and save it"
    )


def translate_unary(function: str, options: dict[str, Any]) -> list[Step] | None:
    """Translate a function of one tensor; none if it is not known."""
    if function in ACTIVATIONS and options in ({}, {"axis": -1}, {"beta": 1.0}):
        return [Step("Activation", {"activation": ACTIVATIONS[function]})]
    if function == "math.negative" and not options:
        return [Step("Rescaling", {"scale": -1.0, "offset": 0.0})]
    if function == "__operators__.getitem" and options == {"slice_spec": REVERSED_CHANNELS}:
        settings = {"filters": 3, "kernel_size": 1, "use_bias": False}
        return [Step("Conv2D", settings, REVERSING_KERNEL)]
    if function == "nn.bias_add" and options.pop("data_format", "NHWC") == "NHWC" and set(options) == {"bias"}:
        return [Step("Rescaling", {"scale": 1.0, "offset": read_constant(options["bias"])})]
    if function in REDUCTIONS and options.pop("axis", None) in ([1, 2], [-3, -2]):
        keep = options.pop("keepdims", False)
        return [Step(REDUCTIONS[function], {"keepdims": bool(keep)})] if not options else None
    return [] if function == "cast" and options == {"dtype": "float32"} else None


def translate_merge(function: str, count: int, options: dict[str, Any]) -> list[Step] | None:
    """Translate a function of several tensors; none if it is not known."""
    if function == "concat" and set(options) == {"axis"}:
        return [Step("Concatenate", {"axis": int(options["axis"])})]
    return [Step(MERGES[function], {})] if function in MERGES and count == 2 and not options else None


def translate_with_constant(function: str, operands: Sequence[Any]) -> list[Step] | None:
    """Translate arithmetic between a tensor and a constant; none if it is not known."""
    first = isinstance(operands[0], Tensor)
    constant = read_constant(operands[1 if first else 0])
    kind = MERGES.get(function)
    if kind == "Add":
        return [Step("Rescaling", {"scale": 1.0, "offset": constant})]
    if kind == "Subtract" and first:
        return [Step("Rescaling", {"scale": 1.0, "offset": each(constant, lambda value: -value)})]
    if kind == "Subtract":
        return [Step("Rescaling", {"scale": -1.0, "offset": constant})]
    if kind == "Multiply":
        return [Step("Rescaling", {"scale": constant, "offset": 0.0})]
    if function in DIVISIONS and first:
        return [Step("Rescaling", {"scale": each(constant, lambda value: 1 / value), "offset": 0.0})]
    return None


def each(constant: float | list[float], change: Any) -> float | list[float]:
    """Apply a function to a number, or to every number of a list."""
    return [change(value) for value in constant] if isinstance(constant, list) else change(constant)


def read_constant(value: Any) -> float | list[float]:
    """Return a number, or one a channel; lists round the only list are left out, as they do not matter.

    Raises:
        ValueError, TypeError: it is neither.
    """
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    numbers = [float(number) for number in value] if isinstance(value, list) else [float(value)]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("not a finite number")
    return numbers if isinstance(value, list) else numbers[0]
