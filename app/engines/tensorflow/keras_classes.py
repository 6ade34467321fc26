"""What a Keras model may be built of: read from its config, before Keras sees it."""

import re
from collections.abc import Iterator
from typing import Any

from app.errors import IntegrityError

# Layers that compute on their inputs alone. Not here, on purpose: Lambda, TFSMLayer, TorchModuleWrapper, and all
# that read a file or hold code. Keras' own safe mode was bypassed eight times in 2024 and 2025, so this comes first.
# fmt: off
ALLOWED_LAYERS = frozenset(
    (
        "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate",
        "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten",
        "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "InputLayer",
        "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "Normalization",
        "PReLU", "Permute", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Softmax",
        "SpatialDropout2D", "Subtract", "UpSampling2D", "ZeroPadding2D",
    )
)
# Initializers, regularizers and constraints, which Keras 2 named without their module.
LEGACY_PARTS = frozenset(
    (
        "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "L1", "L1L2", "L2", "LecunNormal",
        "LecunUniform", "MaxNorm", "MinMaxNorm", "NonNeg", "Ones", "Orthogonal", "RandomNormal", "RandomUniform",
        "TruncatedNormal", "UnitNorm", "VarianceScaling", "Zeros",
    )
)
# What Keras 3 does not know, or need not: it is translated before Keras sees it. The random ones are left out, as they
# do nothing outside of training; of functions of TensorFlow a short list of names is known.
KERAS_2_CLASSES = ALLOWED_LAYERS | frozenset(
    (
        "ActivityRegularization", "AlphaDropout", "BatchNormalizationV1", "BatchNormalizationV2", "GaussianDropout",
        "Policy", "RandomBrightness", "RandomContrast", "RandomFlip", "RandomHeight", "RandomRotation",
        "RandomTranslation", "RandomWidth", "RandomZoom", "SlicingOpLambda", "TFOpLambda", "TensorShape",
        "ThresholdedReLU", "__ellipsis__",
    )
)
KERAS_2_MODULE = re.compile(
    r"keras(\.(layers|initializers|regularizers|constraints|mixed_precision))?"
    r"|(tf_)?keras(\.src)?\.(engine\.(functional|sequential|training)|layers\.core\.tf_op_layer)"
)

# fmt: on

LEGACY_MODELS = frozenset(("Functional", "Model", "Sequential"))
MODEL_CLASSES = frozenset(
    (
        ("keras", "Functional"),
        ("keras", "Sequential"),
        ("keras.src.models.functional", "Functional"),
        ("keras.src.models.sequential", "Sequential"),
    )
)
PLAIN_MODULES = frozenset(("keras.initializers", "keras.regularizers", "keras.constraints"))
PLAIN_CLASSES = frozenset((("keras", "DTypePolicy"), (None, "__keras_tensor__")))


def find_classes(config: Any) -> Iterator[tuple[str | None, str]]:
    """Walk a Keras config and yield (module, class name) of everything it would build."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config.get("module"), str(config["class_name"])
        for value in config.values():
            yield from find_classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from find_classes(value)


def is_allowed(module: str | None, name: str) -> bool:
    """Whether a class may be built: a listed layer, a plain container of them, or an initializer and the like."""
    if module == "keras.layers":
        return name in ALLOWED_LAYERS
    return module in PLAIN_MODULES or (module, name) in MODEL_CLASSES or (module, name) in PLAIN_CLASSES


def is_allowed_in_hdf5(module: str | None, name: str) -> bool:
    """The same for `.h5` files, where a class may also stand without its module: Keras finds it by its name alone."""
    if module is None:
        return name in ALLOWED_LAYERS | LEGACY_PARTS | LEGACY_MODELS | {"__keras_tensor__"}
    return is_allowed(module, name)


def is_allowed_in_keras_2(module: str | None, name: str) -> bool:
    """The same for `.h5` files of Keras 2, which are translated; then `is_allowed` is asked about what came of it."""
    known = name in KERAS_2_CLASSES | LEGACY_PARTS | LEGACY_MODELS
    return known and (module is None or KERAS_2_MODULE.fullmatch(str(module)) is not None)


def refuse_class(file: str, module: str | None, name: str) -> IntegrityError:
    """Make the error that names a class outside the lists."""
    held = f"{module}.{name}" if module else name
    return IntegrityError(f"{file} holds {held}, which is not allowed; build the model of layers that are, and save it")
