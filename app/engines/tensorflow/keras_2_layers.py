"""What a layer of Keras 2 is in Keras 3: its settings, as far as they bear on the scores, under today's names."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from app.errors import IntegrityError

# fmt: off
IDENTITIES = frozenset(
    (
        "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "RandomBrightness",
        "RandomContrast", "RandomFlip", "RandomHeight", "RandomRotation", "RandomTranslation", "RandomWidth",
        "RandomZoom", "SpatialDropout2D",
    )
)
# fmt: on
"""Layers that only do something while a model is trained. `RandomCrop` is none: it crops at the centre otherwise."""
CONVOLUTION = "kernel_size strides padding data_format dilation_rate activation use_bias"
POOLING = "pool_size strides padding data_format"
SETTINGS: Mapping[str, frozenset[str]] = {
    kind: frozenset(settings.split())
    for kind, settings in {
        "Activation": "activation",
        "Add": "",
        "Average": "",
        "AveragePooling2D": POOLING,
        "BatchNormalization": "axis epsilon center scale",
        "CenterCrop": "height width",
        "Concatenate": "axis",
        "Conv2D": f"filters groups {CONVOLUTION}",
        "Conv2DTranspose": f"filters output_padding {CONVOLUTION}",
        "Cropping2D": "cropping data_format",
        "Dense": "units activation use_bias",
        "DepthwiseConv2D": f"depth_multiplier {CONVOLUTION}",
        "ELU": "alpha",
        "Flatten": "data_format",
        "GlobalAveragePooling2D": "data_format keepdims",
        "GlobalMaxPooling2D": "data_format keepdims",
        "GroupNormalization": "groups axis epsilon center scale",
        "LayerNormalization": "axis epsilon center scale",
        "LeakyReLU": "alpha",
        "MaxPooling2D": POOLING,
        "Maximum": "",
        "Minimum": "",
        "Multiply": "",
        "Normalization": "axis mean variance invert",
        "PReLU": "shared_axes",
        "Permute": "dims",
        "ReLU": "max_value negative_slope threshold",
        "Rescaling": "scale offset",
        "Reshape": "target_shape",
        "Resizing": "height width interpolation",
        "SeparableConv2D": f"filters depth_multiplier {CONVOLUTION}",
        "Softmax": "axis",
        "Subtract": "",
        "ThresholdedReLU": "theta",
        "UpSampling2D": "size data_format interpolation",
        "ZeroPadding2D": "padding data_format",
    }.items()
}
"""The settings of each layer that bear on its scores."""
OLDER_NAMES = {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization"}
RENAMED = {"LeakyReLU": ("LeakyReLU", "alpha", "negative_slope"), "ThresholdedReLU": ("ReLU", "theta", "threshold")}
"""New kind, and a setting's name before and now."""
ONLY_IN_TRAINING = re.compile(
    "name|trainable|dtype|batch_input_shape|.*_initializer|.*_regularizer|.*_constraint"
    "|momentum|fused|virtual_batch_size|adjustment|renorm_clipping|renorm_momentum|synchronized"
)
USUAL: Mapping[str, tuple[Any, ...]] = {"groups": (1,), "renorm": (False,), "crop_to_aspect_ratio": (False,)}
"""Settings that Keras 3 knows no more, or computes otherwise: only these values are taken."""
# fmt: off
ACTIVATIONS = frozenset(
    (
        "elu", "exponential", "gelu", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax",
        "softplus", "softsign", "swish", "tanh",
    )
)
# fmt: on
"""Those that both versions compute alike."""
ACTIVATION_LAYERS = frozenset(("ELU", "LeakyReLU", "ReLU", "Softmax", "ThresholdedReLU"))
"""Layers without weights that stand for an activation at times, as in `Dense(8, activation=LeakyReLU())`."""
HARD_SIGMOID = "hard_sigmoid"
"""Keras 3 has another function of this name."""


class Step(NamedTuple):
    """A layer of Keras 3, without its name; `kernel` are weights that stand in no file."""

    kind: str
    settings: dict[str, Any]
    kernel: list[Any] | None = None


def translate_layer(kind: str, config: Mapping[str, Any]) -> list[Step]:
    """Return the layers of Keras 3 that, one after another, compute what one of Keras 2 did.

    The first has its weights. There is none for a layer that does nothing outside of training.

    Raises:
        IntegrityError: a setting means something else in Keras 3, or is unknown.
    """
    check_dtype(config)
    if kind in IDENTITIES:
        return []
    kind = OLDER_NAMES.get(kind, kind)
    settings = {key: value for key, value in config.items() if keeps(kind, key, value)}
    if isinstance(settings.get("axis"), list) and len(settings["axis"]) == 1:
        settings["axis"] = settings["axis"][0]
    if kind in RENAMED:
        kind, old, new = RENAMED[kind]
        settings[new] = settings.pop(old)
    if "activation" in settings:
        return apart(kind, settings)
    return [Step(kind, settings)]


def keeps(kind: str, key: str, value: Any) -> bool:
    """Whether a setting is Keras 3's too; raises `IntegrityError` if it can be neither kept nor left out."""
    if key in SETTINGS[kind]:
        if contains_object(value) and not (key == "activation" and isinstance(value, dict)):
            raise IntegrityError(f"{kind} has the setting {key}, which is no plain value")
        return True
    if ONLY_IN_TRAINING.fullmatch(key) or any(value is usual or value == usual for usual in USUAL.get(key, ())):
        return False
    raise IntegrityError(
        f"{kind} has the setting {key:.60}={value!r:.60}, which Keras 3 does not compute as Keras 2 did"
    )


def contains_object(value: Any) -> bool:
    """Whether something is more than numbers, texts and lists of them."""
    return isinstance(value, dict) or (isinstance(value, list) and any(contains_object(each) for each in value))


def check_dtype(config: Mapping[str, Any]) -> None:
    """Refuse a layer that computes in anything but float32, which are not the scores that we would give."""
    dtype = config.get("dtype") or "float32"
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    if name != "float32":
        raise IntegrityError(
            f"{config.get('name')!s:.60} is {name!r:.60}; build the model in float32, load its weights, and save it"
        )


def apart(kind: str, settings: dict[str, Any]) -> list[Step]:
    """Return a layer with its activation, which stands apart where Keras 3 has another one of the name."""
    activation = settings["activation"]
    if isinstance(activation, dict) and activation.get("class_name") in ACTIVATION_LAYERS:
        steps = translate_layer(activation["class_name"], activation["config"])
        return steps if kind == "Activation" else [Step(kind, {**settings, "activation": "linear"}), *steps]
    if activation == HARD_SIGMOID:
        steps = [Step("Rescaling", {"scale": 0.2, "offset": 0.5}), Step("ReLU", {"max_value": 1.0})]
        return steps if kind == "Activation" else [Step(kind, {**settings, "activation": "linear"}), *steps]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise IntegrityError(f"{kind} has the activation {activation!r:.60}, which is not allowed")
    return [Step(kind, settings)]
