"""The lists of what a Keras model may be built of, and the search for it in a config before Keras sees it."""

import re
from collections.abc import Iterator
from typing import Any

from app.errors import IntegrityError

# Layers that compute on their inputs alone. Lambda, TFSMLayer, TorchModuleWrapper and all layers that read a file or
# hold code are missing on purpose. Keras' own safe mode was bypassed eight times in 2024 and 2025, so these lists come
# first.
# fmt: off
ALLOWED_LAYERS = frozenset((
    "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "AveragePooling2D", "BatchNormalization",
    "CenterCrop", "Concatenate", "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout",
    "ELU", "Flatten", "GaussianDropout", "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    "GroupNormalization", "InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum",
    "Multiply", "Normalization", "PReLU", "Permute", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D",
    "Softmax", "SpatialDropout2D", "Subtract", "UpSampling2D", "ZeroPadding2D",
))
# Layers that Keras says do nothing outside of training.
RANDOM_LAYERS = frozenset((
    "AugMix", "CutMix", "Equalization", "MaxNumBoundingBoxes", "MixUp", "RandAugment", "RandomBrightness",
    "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing",
    "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
    "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation",
    "RandomZoom", "Solarization",
))
INITIALIZERS = frozenset((
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity",
    "LecunNormal", "LecunUniform", "Ones", "Orthogonal", "RandomNormal", "RandomUniform",
    "TruncatedNormal", "VarianceScaling", "Zeros",
))
REGULARIZERS = frozenset(("L1", "L1L2", "L2", "OrthogonalRegularizer"))
CONSTRAINTS = frozenset(("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"))
LEGACY_MODELS = frozenset(("Functional", "Model", "Sequential"))
# What Keras 2 wrote. The random layers do nothing outside of training.
KERAS_2_CLASSES = ALLOWED_LAYERS | INITIALIZERS | REGULARIZERS | CONSTRAINTS | LEGACY_MODELS | frozenset((
    "BatchNormalizationV1", "BatchNormalizationV2", "Policy", "RandomBrightness", "RandomContrast", "RandomFlip",
    "RandomHeight", "RandomRotation", "RandomTranslation", "RandomWidth", "RandomZoom", "SlicingOpLambda",
    "TFOpLambda", "TensorShape", "ThresholdedReLU", "__ellipsis__",
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


def find_tables(config: Any) -> Iterator[dict[str, Any]]:
    """Walk a Keras config and yield every dict in it, models and layers inside others included."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from find_tables(value)


def is_allowed_in_keras_2(module: str | None, name: str) -> bool:
    """Whether a class may stand in a `.h5` file of Keras 2."""
    return name in KERAS_2_CLASSES and (module is None or KERAS_2_MODULE.fullmatch(str(module)) is not None)


def refuse_class(file: str, module: str | None, name: str) -> IntegrityError:
    """Make the error that names a class outside the lists."""
    held = f"{module}.{name}" if module else name
    return IntegrityError(
        f"{file} holds {held}, which is not allowed; build the model of layers that are, load its weights and save it; "
        "or add it as a program that you trust, a SavedModel (model.export)"
    )
