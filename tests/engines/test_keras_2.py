"""Models of Keras 2 as people train them: a base in a model, random changes in front, slashes in names, old words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engines.tensorflow.keras_2_graph import MAX_CALLS, translate_model
from app.engines.tensorflow.keras_2_layers import translate_layer
from app.engines.tensorflow.keras_2_operations import REVERSED_CHANNELS, Tensor, translate_operation
from app.errors import IntegrityError
from tests.engines.legacy_keras import (
    called,
    convolution,
    functional,
    input_layer,
    layer,
    operation,
    sequential,
    weighted,
    write_model,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SIDE_PX = 12
RANDOM = np.random.default_rng(3)
PIXELS = (RANDOM.random((4, SIDE_PX, SIDE_PX, 3)) * RANDOM.integers(20, 256, (4, 1, 1, 3))).round().astype(np.float32)
SIZES = {"kernel_size": [3, 3], "strides": [1, 1], "padding": "same", "data_format": "channels_last"}
NORMALIZED = ("gamma", "beta", "moving_mean", "moving_variance")
Tensors = dict[str, Any]


def make_base_weights() -> Tensors:
    """Weights of a base, by the layers' names in Keras 2, in the order of its layers."""
    random = np.random.default_rng(8)

    def draw(*shape: int) -> Any:
        return random.normal(0.1, 0.4, shape).astype(np.float32)

    def draw_normalization(name: str) -> Tensors:
        variance = random.uniform(0.5, 2, 4).astype(np.float32)
        return {f"{name}/{part}": draw(4) for part in NORMALIZED[:3]} | {f"{name}/{NORMALIZED[3]}": variance}

    weights = {"stem/conv/kernel": draw(3, 3, 3, 4), "stem/conv/bias": draw(4), **draw_normalization("stem/bn")}
    weights |= {"deep/depthwise_kernel": draw(3, 3, 4, 1), "deep/bias": draw(4), **draw_normalization("stem_bn")}
    return weights | {
        "apart/depthwise_kernel": draw(3, 3, 4, 2), "apart/pointwise_kernel": draw(1, 1, 8, 4), "apart/bias": draw(4)
    }  # fmt: skip


WEIGHTS = make_base_weights()
HEAD = {
    "scores/kernel:0": np.random.default_rng(2).normal(0, 1, (4, 2)).astype(np.float32),
    "scores/bias:0": np.zeros(2, np.float32),
}


def make_base() -> dict[str, Any]:
    """A base with settings that Keras 3 does not know: `groups`, `alpha`, an axis in a list, kernels by other names."""
    names = ["pixels", "stem/conv", "stem/bn", "leak", "deep", "stem_bn", "apart"]
    normalization = {"axis": [3], "momentum": 0.99, "epsilon": 0.001, "center": True, "scale": True}
    layers = [
        input_layer(SIDE_PX),
        convolution("stem/conv", 4),
        layer("BatchNormalization", "stem/bn", **normalization, fused=True, virtual_batch_size=None),
        layer("LeakyReLU", "leak", alpha=0.25),
        weighted("DepthwiseConv2D", "deep", "linear", **SIZES, groups=1, depth_multiplier=1, dilation_rate=[1, 1]),
        layer("BatchNormalization", "stem_bn", **normalization),
        weighted("SeparableConv2D", "apart", "relu", **SIZES, groups=1, depth_multiplier=2, filters=4),
    ]
    chain = [called(each, [[before, 0, 0, {}]]) for each, before in zip(layers[1:], names[:-1], strict=True)]
    added = called(layer("Add", "both"), [["apart", 0, 0, {}], ["leak", 0, 0, {}]])
    return functional("base", [called(layers[0]), *chain, added], ["both", 0, 0])


def make_model(base_call: Any = None) -> dict[str, Any]:
    """What the guides of Keras 2 taught: random changes, `preprocess_input`, a base that is called, and a head."""
    changes = sequential("changes", [input_layer(SIDE_PX), layer("RandomFlip", "flip", mode="horizontal", seed=None)])
    layers = [
        called(input_layer(SIDE_PX)),
        called(changes, [["pixels", 0, 0, {}]]),
        called(operation("math.truediv"), ["changes", 1, 0, {"y": 127.5, "name": None}]),
        called(operation("math.subtract"), ["tf.math.truediv", 0, 0, {"y": 1.0, "name": None}]),
        called(make_base(), base_call or ["tf.math.subtract", 0, 0, {"training": False}]),
        called(layer("GlobalAveragePooling2D", "pool", data_format="channels_last"), [["base", 1, 0, {}]]),
        called(layer("Dropout", "drop", rate=0.2, noise_shape=None, seed=None), [["pool", 0, 0, {}]]),
        called(weighted("Dense", "scores", "softmax", units=2), [["drop", 0, 0, {}]]),
    ]
    return functional("model", layers, ["scores", 0, 0])


def groups(base: Tensors, head: Tensors = HEAD) -> dict[str, Tensors]:
    state = {"flip/StateVar:0": np.array([1, 2, 3], np.int64)}
    return {"changes": state, "base": base, "pool": {}, "scores": head}


def pool_with_keras_3() -> Any:
    """What the base makes of the pictures, by Keras 3, layer by layer."""
    import keras

    def run(made: Any, values: Any, *names: str) -> Any:
        made.build(values.shape)
        made.set_weights([WEIGHTS[name] for name in names])
        return made(values)

    values = PIXELS / np.float32(127.5) - 1
    conv = keras.layers.Conv2D(4, 3, padding="same", activation="relu")
    values = run(conv, values, "stem/conv/kernel", "stem/conv/bias")
    values = run(keras.layers.BatchNormalization(), values, *(f"stem/bn/{part}" for part in NORMALIZED))
    leaked = keras.layers.LeakyReLU(0.25)(values)
    values = run(keras.layers.DepthwiseConv2D(3, padding="same"), leaked, "deep/depthwise_kernel", "deep/bias")
    values = run(keras.layers.BatchNormalization(), values, *(f"stem_bn/{part}" for part in NORMALIZED))
    separable = keras.layers.SeparableConv2D(4, 3, padding="same", depth_multiplier=2, activation="relu")
    values = run(separable, values, "apart/depthwise_kernel", "apart/pointwise_kernel", "apart/bias")
    return (values + leaked).numpy().mean((1, 2))


@pytest.fixture(scope="module")
def expected() -> tuple[Tensors, Any]:
    """Weights of a head that tells the pictures apart, and the probabilities."""
    pooled = pool_with_keras_3()
    kernel = HEAD["scores/kernel:0"] / pooled.std(0)[:, None]
    bias = -pooled.mean(0) @ kernel
    exponentials = np.exp(pooled @ kernel + bias)
    scores = exponentials / exponentials.sum(1, keepdims=True)
    assert scores[:, 1].std() > 0.1
    return {"scores/kernel:0": kernel, "scores/bias:0": bias}, scores


def answer(path: Path) -> Any:
    from app.engines.tensorflow.keras_engine import load_network

    return load_network(path)(PIXELS, training=False).numpy()


LEARNED_FIRST = sorted(WEIGHTS, key=lambda name: "moving" in name)
ORDERS = {
    "as a trained model has them": [(name, f"{name}:0") for name in LEARNED_FIRST],
    "as a frozen model has them": [(name, f"{name}:0") for name in WEIGHTS],
    "as a model thawed in part has them": [(name, f"{name}:0") for name in sorted(WEIGHTS)],
    "with the model's name before": [(name, f"model/base/{name}:0") for name in LEARNED_FIRST],
    "numbered by TensorFlow 1": [(name, "_1/".join(name.rsplit("/", 1)) + ":0") for name in LEARNED_FIRST],
}


@pytest.mark.parametrize("order", ORDERS)
def test_base_in_a_model_of_keras_2_gives_what_its_layers_give_in_keras_3(
    tmp_path: Path, expected: tuple[Tensors, Any], order: str
) -> None:
    head, scores = expected
    path = write_model(
        tmp_path / "model.h5", make_model(), groups({new: WEIGHTS[name] for name, new in ORDERS[order]}, head)
    )
    before = path.read_bytes()
    np.testing.assert_allclose(answer(path), scores, atol=1e-4)
    assert path.read_bytes() == before


def test_base_under_a_sequential_gives_the_same_as_the_base_that_is_called(
    tmp_path: Path, expected: tuple[Tensors, Any]
) -> None:
    base = {f"{name}:0": WEIGHTS[name] for name in LEARNED_FIRST}
    scaled = layer("Rescaling", "scaled", scale=1 / 127.5, offset=-1.0)
    inner = sequential("inner", [input_layer(SIDE_PX), scaled, make_base()])
    last = [layer("GlobalAveragePooling2D", "pool"), weighted("Dense", "scores", "softmax", units=2)]
    parts = {"inner": base, "scores": expected[0]}
    path = write_model(tmp_path / "model.h5", sequential("all", [inner, *last]), parts)
    np.testing.assert_allclose(answer(path), expected[1], atol=1e-4)


def test_inner_model_that_is_called_twice_keeps_one_set_of_weights(tmp_path: Path) -> None:
    kernel = np.random.default_rng(5).normal(0, 0.1, (3, 3)).astype(np.float32)
    dense = weighted("Dense", "mix", "linear", units=3)
    dense["config"]["use_bias"] = False
    # A Sequential that was made without the size of its input counts its calls from 0.
    twice = called(sequential("twice", [dense]), [["pixels", 0, 0, {}]], [["twice", 0, 0, {}]])
    last = called(layer("GlobalAveragePooling2D", "pool"), [["twice", 1, 0, {}]])
    config = functional("model", [called(input_layer(SIDE_PX)), last, twice], ["pool", 0, 0])
    path = write_model(tmp_path / "model.h5", config, {"twice": {"mix/kernel:0": kernel}})
    np.testing.assert_allclose(answer(path), PIXELS.mean((1, 2)) @ kernel @ kernel, rtol=1e-4)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_weights_that_go_by_order_go_by_that_of_the_file_not_of_the_graph(tmp_path: Path, names: Any) -> None:
    random = np.random.default_rng(7)
    kernels = {name: random.normal(0, 0.1, (3, 3)).astype(np.float32) for name in ("a", "b")}
    branches = [called(weighted("Dense", name, "linear", units=3), [["pixels", 0, 0, {}]]) for name in kernels]
    for branch in branches:
        branch["config"]["use_bias"] = False
    last = called(layer("Subtract", "both"), [[name, 0, 0, {}] for name in names])
    base = functional("base", [called(input_layer(SIDE_PX)), *branches, last], ["both", 0, 0])
    # As TensorFlow 1 numbered them: none of these is called as a layer is.
    weights = {f"{name}_1/kernel:0": kernel for name, kernel in kernels.items()}
    path = write_model(tmp_path / "model.h5", sequential("all", [base]), {"base": weights})
    np.testing.assert_allclose(answer(path), PIXELS @ (kernels[names[0]] - kernels[names[1]]), atol=1e-3)


OPERATIONS = [
    ("__operators__.getitem", {"slice_spec": REVERSED_CHANNELS}, lambda x: x[..., ::-1]),
    ("nn.bias_add", {"bias": [-103.9, -116.8, -123.7], "data_format": "NHWC"}, lambda x: x - [103.9, 116.8, 123.7]),
    ("math.truediv", {"y": [[[0.2, 0.5, 4.0]]]}, lambda x: x / [0.2, 0.5, 4.0]),
    ("math.multiply", {"y": 3}, lambda x: x * 3),
    ("math.multiply", {"y": ["pixels", 0, 0]}, lambda x: x * x),
    ("__operators__.add", {"y": ["pixels", 0, 0]}, lambda x: x + x),
    ("math.negative", {}, lambda x: -x),
    ("math.tanh", {}, np.tanh),
    ("math.reduce_mean", {"axis": [1, 2], "keepdims": True}, lambda x: x.mean((1, 2), keepdims=True)),
    ("cast", {"dtype": "float32"}, lambda x: x),
]


def test_functions_of_tensorflow_give_what_they_say(tmp_path: Path) -> None:
    for function, options, compute in OPERATIONS:
        layers = [
            called(input_layer(SIDE_PX)),
            called(operation(function), ["pixels", 0, 0, {**options, "name": None}]),
            called(operation("math.subtract_from"), ["_CONSTANT_VALUE", -1, 1.0, {"y": [f"tf.{function}", 0, 0]}]),
        ]
        layers[2]["config"]["function"] = "math.subtract"
        config = functional("model", layers, ["tf.math.subtract_from", 0, 0])
        given = answer(write_model(tmp_path / "model.h5", config, {}))
        np.testing.assert_allclose(given, 1 - compute(PIXELS.astype(np.float64)), rtol=1e-5, atol=1e-4)


LAYERS = [
    (layer("Activation", "a", activation="hard_sigmoid"), lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    (
        layer("Activation", "a", activation={"class_name": "LeakyReLU", "config": {"name": "b", "alpha": 0.4}}),
        lambda x: np.where(x > 0, x, 0.4 * x),
    ),
    (layer("ThresholdedReLU", "a", theta=1.5), lambda x: np.where(x > 1.5, x, 0)),
    (layer("ELU", "a", alpha=0.7), lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0)))),
    (layer("GaussianDropout", "a", rate=0.5), lambda x: x),
    (layer("ReLU", "a", max_value=6.0, negative_slope=0.1, threshold=0.21), lambda x: np.where(
        x >= 6, 6, np.where(x >= 0.21, x, 0.1 * (x - 0.21))
    )),
]  # fmt: skip


def test_layers_that_keras_3_computes_otherwise_give_what_keras_2_gave(tmp_path: Path) -> None:
    scaled = layer("Rescaling", "scaled", scale=1 / 25, offset=-4.0)
    for each, compute in LAYERS:
        path = write_model(tmp_path / "model.h5", sequential("all", [input_layer(SIDE_PX), scaled, each]), {})
        np.testing.assert_allclose(answer(path), compute(PIXELS.astype(np.float64) / 25 - 4), atol=1e-5)


HALF = {"module": "keras.mixed_precision", "class_name": "Policy", "config": {"name": "mixed_float16"}}
SETTINGS = [
    ({**layer("ReLU", "a")["config"], "dtype": HALF}, "ReLU", "a is 'mixed_float16'; build the model in float32"),
    ({"name": "a", "groups": 2}, "SeparableConv2D", "setting groups=2"),
    ({"name": "a", "renorm": True}, "BatchNormalization", "setting renorm=True"),
    ({"name": "a", "crop_to_aspect_ratio": True}, "Resizing", "setting crop_to_aspect_ratio=True"),
    ({"name": "a", "units": {"class_name": "Zeros"}}, "Dense", "no plain value"),
    ({"name": "a", "activation": {"class_name": "PReLU", "config": {}}}, "Dense", "activation {'class_name': 'PReLU'"),
    ({"name": "a", "activation": "my_function"}, "Dense", "activation 'my_function', which is not allowed"),
]


@pytest.mark.parametrize(("config", "kind", "reason"), SETTINGS, ids=[each[2] for each in SETTINGS])
def test_setting_that_means_something_else_in_keras_3_is_refused(config: Any, kind: str, reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        translate_layer(kind, config)


@pytest.mark.parametrize(
    ("function", "operands", "options"),
    [
        ("io.read_file", [Tensor()], {}),
        ("py_function", [Tensor(), Tensor()], {}),
        ("math.truediv", [Tensor(), Tensor()], {}),
        ("math.truediv", [1.0, Tensor()], {}),
        ("math.truediv", [Tensor(), 0.0], {}),
        ("math.multiply", [Tensor(), "a"], {}),
        ("math.multiply", [Tensor(), [[1.0], [2.0]]], {}),
        ("math.multiply", [Tensor(), float("nan")], {}),
        ("nn.relu", [Tensor()], {"alpha": 0.1}),
        ("math.reduce_mean", [Tensor()], {"axis": [0]}),
        ("__operators__.getitem", [Tensor()], {"slice_spec": [{"start": 0, "stop": 1, "step": None}]}),
        ("cast", [Tensor()], {"dtype": "float16"}),
    ],
)
def test_function_that_is_not_known_or_not_so_is_refused(function: str, operands: Any, options: Any) -> None:
    with pytest.raises(IntegrityError, match=f"the function tf.{function} cannot be translated"):
        translate_operation(function, operands, options)


def test_names_are_plain_and_differ_in_the_translation() -> None:
    names = [each["name"] for each in translate_model(make_model()).config["config"]["layers"]]
    assert {"stem_conv", "stem_bn", "stem_bn_2"} <= set(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if "/" in name]


def make_bomb(*layers: dict[str, Any]) -> dict[str, Any]:
    """A model that calls one twice that calls one twice, and so on."""
    inner = sequential("m0", [*layers])
    for depth in range(1, 25):
        name = inner["config"]["name"]
        calls = called(inner, [["pixels", 0, 0, {}]], [[name, 1, 0, {}]])
        inner = functional(f"m{depth}", [called(input_layer(SIDE_PX)), calls], [name, 2, 0])
    return inner


def chain(*layers: dict[str, Any], output: str = "a") -> dict[str, Any]:
    return functional("model", [called(input_layer(SIDE_PX)), *layers], [output, 0, 0])


def with_inputs(ends: Any) -> dict[str, Any]:
    model = chain(called(layer("ReLU", "a"), [["pixels", 0, 0, {}]]))
    model["config"]["input_layers"] = ends
    return model


RELU, PIXELS_CALL = layer("ReLU", "a"), [["pixels", 0, 0, {}]]
REFUSED = {
    "training mode": (
        make_model(["tf.math.subtract", 0, 0, {"training": True}]), "base is called with training=True",
    ),
    "unknown argument": (chain(called(RELU, [["pixels", 0, 0, {"mask": 1}]])), "a is called with mask"),
    "circle": (chain(called(RELU, [["b", 0, 0, {}]]), called(layer("ReLU", "b"), [["a", 0, 0, {}]])), "its own output"),
    "a name twice": (chain(called(RELU, PIXELS_CALL), called(RELU, PIXELS_CALL)), "two layers of a model have"),
    "missing layer": (chain(called(RELU, [["b", 0, 0, {}]])), "not one of Keras 2"),
    "negative call": (chain(called(RELU, [["pixels", -1, 0, {}]])), "not one of Keras 2"),
    "second output": (chain(called(RELU, [["pixels", 0, 1, {}]])), "not one of Keras 2"),
    "two inputs": (with_inputs([["pixels", 0, 0], ["a", 0, 0]]), "not one input and one output"),
    "inputs by name": (with_inputs({"x": ["pixels", 0, 0]}), "not one of Keras 2|inputs or outputs by name"),
    "no size": (sequential("all", [RELU]), "does not say how large its input is"),
    "empty bomb": (make_bomb(), f"calls more than {MAX_CALLS} layers"),
    "bomb": (make_bomb(RELU), f"calls more than {MAX_CALLS} layers"),
    "no config": ({"class_name": "Functional"}, "not one of Keras 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_config_that_is_not_understood_in_full_is_refused(name: str) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(IntegrityError, match=reason):
        translate_model(config)


def test_size_of_the_input_is_found_where_versions_of_keras_2_put_it() -> None:
    first = layer("ReLU", "a", batch_input_shape=[None, 8, 9, 3])
    for config in (
        {"class_name": "Sequential", "config": [first]},
        sequential("all", [sequential("inner", [first])]),
        {"class_name": "Sequential", "config": {"layers": [RELU], "build_input_shape": [7, 8, 9, 3]}},
        {
            "class_name": "Sequential",
            "config": {"layers": [RELU], "build_input_shape": {"class_name": "TensorShape", "items": [None, 8, 9, 3]}},
        },
    ):
        assert translate_model(config).layers[0]["config"]["batch_shape"] == [None, 8, 9, 3]


def change(**groups_changed: Any) -> dict[str, Tensors]:
    return {**groups({f"{name}:0": WEIGHTS[name] for name in LEARNED_FIRST}), **groups_changed}


WRONG_WEIGHTS = {
    "no group": ({name: group for name, group in change().items() if name != "scores"}, "no weights of scores"),
    "group of no layer": (change(more={"more/kernel:0": HEAD["scores/bias:0"]}), "weights of more are not those"),
    "of the model itself": (change(top_level_model_weights={"a:0": HEAD["scores/bias:0"]}), "top_level_model_weights"),
    "one missing": (change(scores={"scores/kernel:0": HEAD["scores/kernel:0"]}), "weights of scores are not those"),
    "other shape": (change(scores={**HEAD, "scores/bias:0": np.zeros(3, np.float32)}), r"bias:0 is \(3,\)"),
    "text": (change(scores={**HEAD, "scores/bias:0": np.array([b"a", b"b"])}), "holds no numbers"),
    "others' names in another order": (
        change(base={f"x/{name}:0": WEIGHTS[name] for name in sorted(WEIGHTS, reverse=True)}
               | {"y/z:0": HEAD["scores/bias:0"]}),
        "weights of base are not those",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_that_are_not_exactly_those_of_the_layers_are_refused(tmp_path: Path, name: str) -> None:
    parts, reason = WRONG_WEIGHTS[name]
    with pytest.raises(IntegrityError, match=reason):
        answer(write_model(tmp_path / "model.h5", make_model(), parts))
