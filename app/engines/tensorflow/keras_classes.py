"""The lists of what a Keras model may be built of, and the search for it in a config before Keras sees it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from app.errors import IntegrityError

# Layers that compute on their inputs alone. Lambda, TFSMLayer, TorchModuleWrapper and all layers that read a file or
# hold code are missing on purpose. Keras' own safe mode was bypassed eight times in 2024 and 2025, so these lists come
# first.
# fmt: off
ALLOWED_LAYERS = frozenset((
    "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate",
    "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten",
    "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "InputLayer",
    "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "Normalization",
    "PReLU", "Permute", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Softmax",
    "SpatialDropout2D", "Subtract", "UpSampling2D", "ZeroPadding2D",
))
# Initializers, regularizers and constraints, which Keras 2 named without their module.
LEGACY_PARTS = frozenset((
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "L1", "L1L2", "L2", "LecunNormal",
    "LecunUniform", "MaxNorm", "MinMaxNorm", "NonNeg", "Ones", "Orthogonal", "RandomNormal", "RandomUniform",
    "TruncatedNormal", "UnitNorm", "VarianceScaling", "Zeros",
))
# What else Keras 2 wrote. The random layers do nothing outside of training.
KERAS_2_CLASSES = ALLOWED_LAYERS | frozenset((
    "ActivityRegularization", "AlphaDropout", "BatchNormalizationV1", "BatchNormalizationV2", "GaussianDropout",
    "Policy", "RandomBrightness", "RandomContrast", "RandomFlip", "RandomHeight", "RandomRotation",
    "RandomTranslation", "RandomWidth", "RandomZoom", "SlicingOpLambda", "TFOpLambda", "TensorShape",
    "ThresholdedReLU", "__ellipsis__",
))
# Functions of TensorFlow that Keras 2 kept by name, such as those of `preprocess_input`. They compute on tensors alone.
KERAS_2_FUNCTIONS = frozenset((
    "__operators__.add", "__operators__.getitem", "cast", "clip_by_value", "concat", "image.resize", "math.abs",
    "math.add", "math.divide", "math.exp", "math.maximum", "math.minimum", "math.multiply", "math.negative",
    "math.pow", "math.reduce_max", "math.reduce_mean", "math.sigmoid", "math.sqrt", "math.square", "math.subtract",
    "math.tanh", "math.truediv", "nn.bias_add", "nn.elu", "nn.gelu", "nn.leaky_relu", "nn.relu", "nn.relu6",
    "nn.selu", "nn.silu", "nn.softmax", "reshape",
))
KERAS_2_ACTIVATIONS = frozenset((
    "elu", "exponential", "gelu", "hard_sigmoid", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "softmax", "softplus", "softsign", "swish", "tanh",
))
# fmt: on
KERAS_2_MODULE = re.compile(
    r"keras(\.(layers|initializers|regularizers|constraints|mixed_precision))?"
    r"|(tf_)?keras(\.src)?\.(engine\.(functional|sequential|training)|layers\.core\.tf_op_layer)"
)
LEGACY_MODELS = frozenset(("Functional", "Model", "Sequential"))
PLAIN_MODULES = frozenset(("keras.initializers", "keras.regularizers", "keras.constraints"))
PLAIN_CLASSES = frozenset(
    (
        *(("keras", "Functional"), ("keras", "Sequential"), ("keras", "DTypePolicy"), (None, "__keras_tensor__")),
        *(("keras.src.models.functional", "Functional"), ("keras.src.models.sequential", "Sequential")),
    )
)


def find_tables(config: Any) -> Iterator[dict[str, Any]]:
    """Walk a Keras config and yield every dict in it, models and layers inside others included."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from find_tables(value)


def check_listed(file: str, config: Any, is_listed: Callable[[str | None, str], bool]) -> None:
    """Raise `IntegrityError` if Keras would build anything of a config that is in no list."""
    for table in find_tables(config):
        if "class_name" in table and not is_listed(table.get("module"), str(table["class_name"])):
            raise refuse_class(file, table.get("module"), str(table["class_name"]))


def is_allowed(module: str | None, name: str) -> bool:
    """Whether a class is a listed layer, a plain model, or an initializer and the like."""
    if module == "keras.layers":
        return name in ALLOWED_LAYERS
    return module in PLAIN_MODULES or (module, name) in PLAIN_CLASSES


def is_allowed_in_hdf5(module: str | None, name: str) -> bool:
    """Whether a class may stand in a `.h5` file of Keras 3, where Keras finds some classes without their module."""
    if module is None:
        return name in ALLOWED_LAYERS | LEGACY_PARTS | LEGACY_MODELS | {"__keras_tensor__"}
    return is_allowed(module, name)


def is_allowed_in_keras_2(module: str | None, name: str) -> bool:
    """Whether a class may stand in a `.h5` file of Keras 2."""
    known = name in KERAS_2_CLASSES | LEGACY_PARTS | LEGACY_MODELS
    return known and (module is None or KERAS_2_MODULE.fullmatch(str(module)) is not None)


def refuse_class(file: str, module: str | None, name: str) -> IntegrityError:
    """Make the error that names a class outside the lists."""
    held = f"{module}.{name}" if module else name
    return IntegrityError(f"{file} holds {held}, which is not allowed; build the model of layers that are, and save it")
