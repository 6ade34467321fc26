"""Models of Keras 2 as people train them: a base in a model, random changes in front, slashes in names, old words."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from app.engines.tensorflow.keras_2_checks import MAX_CALLS, check_keras_2
from app.engines.tensorflow.keras_classes import KERAS_2_ACTIVATIONS, KERAS_2_FUNCTIONS
from app.errors import FrameworkMissingError, IntegrityError
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


REVERSED_CHANNELS = [{"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1}]
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
    ("math.reduce_max", {"axis": [3]}, lambda x: x.max(3)),
    ("cast", {"dtype": "float32"}, lambda x: x),
    ("clip_by_value", {"clip_value_min": 7.0, "clip_value_max": 50.0}, lambda x: x.clip(7, 50)),
    ("nn.leaky_relu", {"alpha": 0.1}, lambda x: np.where(x > 0, x, 0.1 * x)),
    ("math.pow", {"y": 2.0}, np.square),
    ("reshape", {"shape": [-1, SIDE_PX, SIDE_PX * 3]}, lambda x: x.reshape(-1, SIDE_PX, SIDE_PX * 3)),
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


def test_every_allowed_function_and_activation_is_one_of_tf_keras(tmp_path: Path) -> None:
    from tensorflow.python.util.tf_export import get_symbol_from_name

    assert [name for name in sorted(KERAS_2_FUNCTIONS) if get_symbol_from_name(name) is None] == []
    chain = [layer("Activation", f"a_{name}", activation=name) for name in sorted(KERAS_2_ACTIVATIONS)]
    scaled = layer("Rescaling", "scaled", scale=1 / 255, offset=0.0)
    path = write_model(tmp_path / "model.h5", sequential("all", [input_layer(SIDE_PX), scaled, *chain]), {})
    assert np.isfinite(answer(path)).all()


LAYERS = [
    (layer("Activation", "a", activation="hard_sigmoid"), lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    (layer("Activation", "a", activation="relu6"), lambda x: np.clip(x, 0, 6)),
    (
        layer("Activation", "a", activation={"class_name": "LeakyReLU", "config": {"name": "b", "alpha": 0.4}}),
        lambda x: np.where(x > 0, x, 0.4 * x),
    ),
    (layer("ThresholdedReLU", "a", theta=1.5), lambda x: np.where(x > 1.5, x, 0)),
    (layer("ELU", "a", alpha=0.7), lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0)))),
    (layer("GaussianDropout", "a", rate=0.5), lambda x: x),
    (layer("Normalization", "a", axis=[-1], mean=[0.5], variance=[4.0]), lambda x: (x - 0.5) / 2),
    (layer("ReLU", "a", max_value=6.0, negative_slope=0.1, threshold=0.21), lambda x: np.where(
        x >= 6, 6, np.where(x >= 0.21, x, 0.1 * (x - 0.21))
    )),
]  # fmt: skip


def test_layers_that_keras_3_computes_otherwise_give_what_keras_2_gave(tmp_path: Path) -> None:
    scaled = layer("Rescaling", "scaled", scale=1 / 25, offset=-4.0)
    for each, compute in LAYERS:
        path = write_model(tmp_path / "model.h5", sequential("all", [input_layer(SIDE_PX), scaled, each]), {})
        np.testing.assert_allclose(answer(path), compute(PIXELS.astype(np.float64) / 25 - 4), atol=1e-5)


def shuffle_weights(network: Any) -> None:
    """Give every weight other values, and statistics other values than factors."""
    random = np.random.default_rng(4)
    network.set_weights([random.uniform(0.2, 0.9, weight.shape) for weight in network.get_weights()])


def make_base_of_keras_2() -> Any:
    """A functional base with a branch, an unusual convolution, and names with slashes."""
    from tf_keras import Model, layers

    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    hidden = layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same", name="stem/apart")(pixels)
    hidden = layers.BatchNormalization(name="stem/bn")(hidden)
    hidden = layers.ReLU(6.0)(layers.BatchNormalization(name="stem_bn")(hidden))
    shortcut = layers.DepthwiseConv2D(3, padding="same", name="deep/conv")(hidden)
    return Model(pixels, layers.Concatenate()([hidden, shortcut]), name="base")


def make_nested() -> Any:
    import tf_keras
    from tf_keras import layers

    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    hidden = layers.RandomRotation(0.2)(layers.RandomFlip()(pixels))
    hidden = tf_keras.applications.mobilenet_v2.preprocess_input(hidden)
    hidden = layers.GlobalAveragePooling2D()(make_base_of_keras_2()(hidden, training=False))
    return tf_keras.Model(pixels, layers.Dense(2, "softmax")(layers.Dropout(0.3)(hidden)))


def make_sequential(thaw: Callable[[Any], None]) -> Any:
    from tf_keras import Sequential, layers

    base = make_base_of_keras_2()
    thaw(base)
    first = [layers.Input((SIDE_PX, SIDE_PX, 3)), layers.Rescaling(1 / 255)]
    return Sequential([Sequential([*first, base]), layers.GlobalMaxPooling2D(), layers.Dense(1)])


def freeze(base: Any) -> None:
    base.trainable = False


def thaw_in_part(base: Any) -> None:
    base.trainable = True
    for each in base.layers[:3]:
        each.trainable = False


def thaw_inside_a_frozen_base(base: Any) -> None:
    base.trainable = False
    base.layers[-2].trainable = base.layers[3].trainable = True


def make_without_input() -> Any:
    """A Sequential that learns its input's size from the first batch, of seven pictures."""
    from tf_keras import Sequential, layers

    network = Sequential([layers.Rescaling(1 / 255), layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(2)])
    network(np.zeros((7, SIDE_PX, SIDE_PX, 3), np.float32))
    return network


def make_groups() -> Any:
    """Settings that Keras 3 does not know."""
    from tf_keras import Sequential, layers

    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    resized = layers.Resizing(8, 6, crop_to_aspect_ratio=True)
    first = [pixels, layers.Rescaling(1 / 255), resized, layers.BatchNormalization(renorm=True)]
    return Sequential([*first, layers.Conv2D(6, 3, groups=3), layers.PReLU(), layers.Flatten(), layers.Dense(2)])


NETWORKS: dict[str, Callable[[], Any]] = {
    "base that is called, with preprocessing": make_nested,
    "base under a Sequential": lambda: make_sequential(lambda _: None),
    "frozen base": lambda: make_sequential(freeze),
    "base thawed in part": lambda: make_sequential(thaw_in_part),
    "layers thawed in a frozen base": lambda: make_sequential(thaw_inside_a_frozen_base),
    "Sequential without an input": make_without_input,
    "settings that are gone": make_groups,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """For each network a file that Keras 2 wrote, and what the network gave then."""
    import warnings

    folder, files = tmp_path_factory.mktemp("keras-2"), {}
    for index, (name, make) in enumerate(NETWORKS.items()):
        network = make()
        network(PIXELS)
        shuffle_weights(network)
        path = folder / f"{index}.h5"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are saving your model as an HDF5 file")
            network.save(path)
        files[name] = path, network(PIXELS, training=False).numpy()
    return files


@pytest.mark.parametrize("name", NETWORKS)
def test_file_of_keras_2_answers_as_the_network_that_wrote_it(written: dict[str, tuple[Path, Any]], name: str) -> None:
    path, expected = written[name]
    before = path.read_bytes()
    assert (expected.std(0) > 1e-4).all(), "the pictures must be told apart"
    np.testing.assert_allclose(answer(path), expected, rtol=1e-5)
    assert path.read_bytes() == before


def test_config_that_names_modules_as_keras_2_did_from_2_12_on_is_taken(
    tmp_path: Path, written: dict[str, tuple[Path, Any]]
) -> None:
    import tf_keras

    for name in ("base that is called, with preprocessing", "base under a Sequential"):
        written_path, expected = written[name]
        path = tmp_path / "model.h5"
        path.write_bytes(written_path.read_bytes())
        config = tf_keras.models.load_model(path, compile=False).to_json()
        assert '"module": "tf_keras.src.engine.functional"' in config
        assert '"build_config"' in config
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = config
        np.testing.assert_allclose(answer(path), expected, rtol=1e-5)


MANIFEST = f"""\
name = "skin-lesions"
version = "1.0"
framework = "keras"
[artifact]
file = "0.h5"
sha256 = "SHA256"
[input]
width_px = {SIDE_PX}
height_px = {SIDE_PX}
resize = "nearest"
mean = [0, 0, 0]
std = [1, 1, 1]
[output]
classes = ["benign", "malignant"]
activation = "softmax"
scores = "probabilities"
positive_class = "malignant"
threshold = 0.5
threshold_source = "none"
"""


def test_file_of_keras_2_is_compiled_and_compared_with_tf_keras(
    tmp_path: Path, written: dict[str, tuple[Path, Any]]
) -> None:
    import hashlib

    from app.compiling.folder_compiler import compile_model
    from app.engines.base import build_engine
    from app.manifest.model_manifest import read_manifest

    path, expected = written["base that is called, with preprocessing"]
    folder = tmp_path / "skin-lesions/1.0"
    folder.mkdir(parents=True)
    (folder / "0.h5").write_bytes(path.read_bytes())
    (folder / "model.toml").write_text(MANIFEST.replace("SHA256", hashlib.sha256(path.read_bytes()).hexdigest()))
    report = compile_model(folder)
    assert report.framework.startswith("tf_keras 2.")
    compiled = build_engine("openvino", folder, read_manifest(folder), 1)
    compiled.load()
    np.testing.assert_allclose(compiled.infer(PIXELS.astype(np.uint8)), expected, atol=1e-5)
    compiled.close()


def test_file_of_keras_2_is_refused_with_what_to_install_where_tf_keras_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.engines.tensorflow.keras_engine import load_network

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf_keras" else find(name))
    path = write_model(tmp_path / "model.h5", sequential("all", [input_layer(SIDE_PX), RELU]), {})
    with pytest.raises(FrameworkMissingError, match="tf_keras is not installed here"):
        load_network(path)


HALF = {"module": "keras.mixed_precision", "class_name": "Policy", "config": {"name": "mixed_float16"}}
TABLES = [
    ({**layer("ReLU", "a")["config"], "dtype": HALF}, "a in 'mixed_float16'; build the model in float32"),
    ({**input_layer(8)["config"], "dtype": "float64"}, "pixels in 'float64'; build the model in float32"),
    (layer("ReLU", "a", dtype="uint8"), "a in 'uint8'"),
    ({"name": "a", "dtype": 3}, "a in 3"),
    ({"name": "a", "dtype": {"config": 3}}, "no config of Keras 2"),
    ({"name": "a", "activation": "my_function"}, "activation 'my_function', which is not allowed"),
    (layer("Dense", "a", activation="deserialize"), "activation 'deserialize', which is not allowed"),
    ({**layer("Dense", "a"), "registered_name": "Custom>Dense"}, "Custom>Dense, which is not allowed"),
    ({"class_name": "TypeSpec", "type_spec": "tf.TensorSpec", "serialized": []}, "TypeSpec, which is not allowed"),
    ({"class_name": "CompositeTensor", "spec": {}, "tensors": []}, "CompositeTensor, which is not allowed"),
    ({"class_name": "__tuple__", "items": ["_COMPOSITE_TYPE", "{}"]}, "__tuple__, which is not allowed"),
    (operation("io.read_file"), "the function tf.io.read_file, which is not allowed"),
    (operation("py_function"), "the function tf.py_function, which is not allowed"),
    (operation("keras.models.load_model"), "the function tf.keras.models.load_model, which is not allowed"),
    (layer("SlicingOpLambda", "a", function="boolean_mask"), "the function tf.boolean_mask, which is not allowed"),
    (layer("TFOpLambda", "a", function=["cast"]), "no config of Keras 2"),
]


@pytest.mark.parametrize(("table", "reason"), TABLES, ids=[each[1] for each in TABLES])
def test_setting_that_could_run_code_or_change_the_scores_is_refused_wherever_it_stands(
    table: dict[str, Any], reason: str
) -> None:
    each = table if "class_name" in table else {"class_name": "ReLU", "config": table}
    holder = layer("ReLU", "b", negative_slope=each)
    for config in (sequential("all", [input_layer(8), each]), sequential("all", [sequential("inner", [holder])])):
        with pytest.raises(IntegrityError, match=reason):
            check_keras_2("model.h5", config)


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


RELU, PIXELS_CALL = layer("ReLU", "a"), [["pixels", 0, 0, {}]]
REFUSED = {
    "training mode": (
        make_model(["tf.math.subtract", 0, 0, {"training": True}]), "calls a layer with training=True",
    ),
    "circle": (chain(called(RELU, [["b", 0, 0, {}]]), called(layer("ReLU", "b"), [["a", 0, 0, {}]])), "its own output"),
    "circle by an argument": (
        chain(called(layer("TFOpLambda", "a", function="math.add"), ["pixels", 0, 0, {"y": ["a", 0, 0]}])),
        "its own output",
    ),
    "circle of calls": (chain(called(RELU, [["a", 1, 0, {}]], [["pixels", 0, 0, {}]])), "its own output"),
    "a name twice": (chain(called(RELU, PIXELS_CALL), called(RELU, PIXELS_CALL)), "two layers with one name"),
    "missing layer": (chain(called(RELU, [["b", 0, 0, {}]])), "needs the output of b, which is not there"),
    "missing call": (chain(called(RELU, [["pixels", 1, 0, {}]])), "needs the output of pixels, which is not there"),
    "negative call": (chain(called(RELU, [["pixels", -1, 0, {}]])), "needs the output of pixels"),
    "missing output": (chain(called(RELU, PIXELS_CALL), output="b"), "needs the output of b"),
    "empty bomb": (make_bomb(), f"calls more than {MAX_CALLS} layers"),
    "bomb": (make_bomb(RELU), f"calls more than {MAX_CALLS} layers"),
    "bomb in a setting": (
        sequential("all", [layer("Dense", "a", units=make_bomb(RELU))]), f"calls more than {MAX_CALLS} layers",
    ),
    "no config": ({"class_name": "Functional"}, "no config of Keras 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_config_whose_calls_have_no_end_or_no_answer_is_refused(name: str) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(IntegrityError, match=reason):
        check_keras_2("model.h5", config)


def with_inputs(ends: Any) -> dict[str, Any]:
    model = chain(called(layer("ReLU", "a"), [["pixels", 0, 0, {}]]))
    model["config"]["input_layers"] = ends
    return model


UNLOADABLE = {
    "unknown argument": (chain(called(RELU, [["pixels", 0, 0, {"mask": 1}]])), "Keras cannot load"),
    "second output": (chain(called(RELU, [["pixels", 0, 1, {}]])), "Keras cannot load"),
    "two inputs": (with_inputs([["pixels", 0, 0], ["a", 0, 0]]), "Keras cannot load|the manifest describes one input"),
    "an object for a number": (sequential("all", [input_layer(8), weighted("Dense", "a", "relu", units=RELU)]), "load"),
    "no size": (sequential("all", [RELU]), "does not say how large its input is"),
    "no layers": (sequential("all", []), "does not say how large its input is"),
}


def test_config_that_tf_keras_cannot_build_is_refused(tmp_path: Path) -> None:
    for config, reason in UNLOADABLE.values():
        with pytest.raises(IntegrityError, match=reason):
            answer(write_model(tmp_path / "model.h5", config, {}))


def test_size_of_the_input_is_found_where_versions_of_keras_2_put_it(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import load_network

    first = layer("ReLU", "a", batch_input_shape=[None, 8, 9, 3])
    for config in (
        {"class_name": "Sequential", "config": [first]},
        sequential("all", [sequential("inner", [first])]),
        {"class_name": "Sequential", "config": {"name": "a", "layers": [RELU], "build_input_shape": [7, 8, 9, 3]}},
        {
            "class_name": "Sequential",
            "config": {
                "name": "a",
                "layers": [RELU],
                "build_input_shape": {"class_name": "TensorShape", "items": [None, 8, 9, 3]},
            },
        },
    ):
        network = load_network(write_model(tmp_path / "model.h5", json.loads(json.dumps(config)), {}))
        assert network.inputs[0].shape[1:] == [8, 9, 3]
        assert network(np.ones((5, 8, 9, 3), np.float32)).shape == (5, 8, 9, 3)


def test_input_of_whole_numbers_is_taken(tmp_path: Path) -> None:
    pixels = input_layer(SIDE_PX)
    pixels["config"]["dtype"] = "uint8"
    scaled = layer("Rescaling", "scaled", scale=1 / 255, offset=0.0)
    path = write_model(tmp_path / "model.h5", sequential("all", [pixels, scaled]), {})
    np.testing.assert_allclose(answer(path), PIXELS / 255, atol=1e-6)


def change(**groups_changed: Any) -> dict[str, Tensors]:
    return {**groups({f"{name}:0": WEIGHTS[name] for name in LEARNED_FIRST}), **groups_changed}


WRONG_WEIGHTS = {
    "no group": ({name: group for name, group in change().items() if name != "scores"}, "weights of scores"),
    "group of no layer": (change(more={"more/kernel:0": HEAD["scores/bias:0"]}), "weights of more"),
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
