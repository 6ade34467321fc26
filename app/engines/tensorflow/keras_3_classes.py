"""What a model of Keras 3 may be built of besides the layers that Keras 2 has: more layers, and plain operations."""

from app.engines.tensorflow.keras_classes import ALLOWED_LAYERS, CONSTRAINTS, INITIALIZERS, REGULARIZERS

# fmt: off
KERAS_3_LAYERS = ALLOWED_LAYERS | frozenset((
    "AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D", "AdditiveAttention", "Attention", "AutoContrast",
    "AveragePooling1D", "ContrastLimitedAdaptiveHistogramEqualization", "Conv1D", "Cropping1D", "Dot", "EinsumDense",
    "Embedding", "GlobalAveragePooling1D", "GlobalMaxPooling1D", "GroupQueryAttention", "Identity", "MaxPooling1D",
    "MultiHeadAttention", "Pipeline", "RMSNormalization", "RandomCrop", "RepeatVector", "SpatialDropout1D",
    "SpectralNormalization", "UnitNormalization", "UpSampling1D", "ZeroPadding1D",
))
# What `keras.applications` builds of layers of its own.
APPLICATION_LAYERS = {
    "CustomScaleLayer": "keras.src.applications.inception_resnet_v2",
    "LayerScale": "keras.src.applications.convnext",
    "StochasticDepth": "keras.src.applications.convnext",
}
# What arithmetic on tensors becomes, such as that of `preprocess_input`: functions of tensors and numbers alone. Those
# that take functions (Map, Cond, WhileLoop, VectorizedMap) and those that draw numbers are missing on purpose.
OPERATIONS = {
    "numpy": (
        "Abs", "Absolute", "Add", "All", "Amax", "Amin", "Any", "Append", "Arctan", "Argmax", "Argmin", "Average",
        "BroadcastTo", "Ceil", "Clip", "Concatenate", "Copy", "Cos", "Cosh", "Cumsum", "Divide", "DivideNoNan", "Dot",
        "Einsum", "Equal", "Exp", "Exp2", "ExpandDims", "Expm1", "Flip", "Fliplr", "Flipud", "Floor", "FloorDivide",
        "FullLike", "GetItem", "Greater", "GreaterEqual", "Hstack", "Less", "LessEqual", "Log", "Log10", "Log1p",
        "Log2", "LogicalAnd", "LogicalNot", "LogicalOr", "Matmul", "Max", "Maximum", "Mean", "Min", "Minimum", "Mod",
        "Moveaxis", "Multiply", "Negative", "NotEqual", "OnesLike", "Pad", "Power", "Prod", "Ravel", "Reciprocal",
        "Repeat", "Reshape", "Roll", "Rot90", "Round", "Sign", "Sin", "Sinh", "Split", "Sqrt", "Square", "Squeeze",
        "Stack", "Std", "Subtract", "Sum", "Swapaxes", "Take", "Tan", "Tanh", "Tensordot", "Tile", "Transpose",
        "TrueDivide", "Trunc", "Var", "Vstack", "Where", "ZerosLike",
    ),
    "nn": (
        "AdaptiveAveragePool", "AdaptiveMaxPool", "AveragePool", "Celu", "DepthToSpace", "Elu", "Gelu", "Glu",
        "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "LayerNorm", "LeakyRelu", "LogSigmoid", "LogSoftmax",
        "MaxPool", "Moments", "Normalize", "OneHot", "RMSNorm", "Relu", "Relu6", "Selu", "Sigmoid", "Silu",
        "SoftShrink", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "SparseSigmoid", "Squareplus", "TanhShrink",
        "Threshold",
    ),
    "math": ("Erf", "Logsumexp", "Rsqrt"),
    "core": ("Cast", "ConvertToTensor", "SaturateCast", "Slice", "StopGradient", "Unstack"),
    "image": ("CropImages", "PadImages", "RGBToGrayscale", "RGBToHSV", "Resize"),
    "linalg": ("Norm",),
}
# fmt: on
OPERATION_MODULES = {name: f"keras.src.ops.{module}" for module, names in OPERATIONS.items() for name in names}
MODELS = {name: f"keras.src.models.{name.lower()}" for name in ("Functional", "Sequential")}
MODEL_MODULES = {name: {module, "keras", "keras.models"} for name, module in MODELS.items()}
PARTS = {"keras.layers": KERAS_3_LAYERS, "keras.initializers": INITIALIZERS, "keras.regularizers": REGULARIZERS}
PARTS |= {"keras.constraints": CONSTRAINTS, "keras": frozenset(("DTypePolicy",))}


def find_module(module: str | None, name: str, is_layer: bool) -> str | None:
    """Tell in which module Keras 3 has a class that a config names; None if the class is in no list.

    Args:
        module: the module that the config names; None: it names none, as in a `.h5` file.
        name: the class.
        is_layer: whether its settings are those of a layer. A `.h5` file calls layer and operation `Add` alike.
    """
    if module is None:
        if name in OPERATION_MODULES and not is_layer:
            return OPERATION_MODULES[name]
        homes = (*(part for part, names in PARTS.items() if name in names), MODELS.get(name))
        return next(filter(None, homes), APPLICATION_LAYERS.get(name))
    if module in MODEL_MODULES.get(name, ()):
        return MODELS[name]
    if module in (OPERATION_MODULES.get(name), APPLICATION_LAYERS.get(name)):
        return module
    return module if name in PARTS.get(module, ()) else None
