"""The classes that a file of `torch.save` may name: those of tensors, and those of what trainers keep beside them."""

import re

TENSOR_CLASSES = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor_v2|parameter)|torch\.\w+Storage"
    r"|torch\.storage\.(Untyped|Typed)Storage|torch\.serialization\._get_layout"
)
"""What a state dict is made of."""
TRAINING_PACKAGES = frozenset(
    (
        *("argparse", "collections", "datetime", "enum", "functools", "lightning", "lightning_fabric", "numpy"),
        *("omegaconf", "pathlib", "pytorch_lightning", "timm", "torch", "torchmetrics", "torchvision", "transformers"),
    )
)
"""Packages whose classes checkpoints hold: options, numbers, optimizers, schedules. None of them is ever looked for."""
PLAIN_CLASSES = frozenset(
    (*("bool", "bytearray", "complex", "dict", "float", "frozenset"), *("int", "list", "object", "set", "str", "tuple"))
)


def is_tensor_class(name: str) -> bool:
    """Whether `module.name` is a part of tensors."""
    return TENSOR_CLASSES.fullmatch(name) is not None


def is_training_class(name: str) -> bool:
    """Whether `module.name` is what a trainer keeps beside the weights; what is made of it is an empty object."""
    module, _, kind = name.rpartition(".")
    if module in ("builtins", "__builtin__"):
        return kind in PLAIN_CLASSES
    return name == "_codecs.encode" or module.partition(".")[0] in TRAINING_PACKAGES
