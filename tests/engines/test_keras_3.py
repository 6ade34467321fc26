"""What trainers save with Keras 3 is taken: training state, changes by chance, arithmetic, `keras.applications`."""

import importlib
import inspect
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from app.errors import IntegrityError

keras = pytest.importorskip("keras")
from keras import layers, ops  # noqa: E402  # after the skip

from app.engines.tensorflow.keras_3_classes import (  # noqa: E402
    APPLICATION_LAYERS,
    KERAS_3_LAYERS,
    OPERATION_MODULES,
    PARTS,
)
from app.engines.tensorflow.keras_classes import RANDOM_LAYERS  # noqa: E402
from app.engines.tensorflow.keras_engine import load_network, read_archive  # noqa: E402
from app.engines.tensorflow.tensorflow_setup import tf  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]
SIDE_PX = 24
FORMATS = (".keras", ".h5")
NOT_SAVED = {  # Keras 3.15 itself fails to save these as .h5
    *("RandomBrightness", "RandomColorDegeneration", "RandomPosterization", "RandomSaturation", "RandomSharpness"),
    "Solarization",
}
ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("RandomBrightness", "RandomContrast", "RandomRotation", "RandomZoom", "RandomHue"), (0.2,)),
    **dict.fromkeys(("RandomSaturation", "RandomSharpness", "RandomColorDegeneration"), (0.2,)),
    **dict.fromkeys(("RandomTranslation", "RandomShear"), (0.2, 0.2)),
    "RandomPosterization": (4,),
    "MaxNumBoundingBoxes": (3,),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    keras.utils.set_random_seed(1)


def draw(side_px: int, count: int = 4) -> Any:
    random = np.random.default_rng(side_px)
    return (random.random((count, side_px, side_px, 3)) * random.integers(60, 256, (count, 1, 1, 3))).round(0)


def infer(network: Any, pixels: Any) -> Any:
    return network(pixels.astype(np.float32), training=False).numpy()


def infer_compiled(network: Any, pixels: Any) -> Any:
    given = tf.TensorSpec([None, *pixels.shape[1:]], tf.float32)
    function = tf.function(lambda pictures: network(pictures, training=False), input_signature=[given])
    model = openvino.convert_model(function, input=[-1, *pixels.shape[1:]])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(pixels.astype(np.float32))[0]


def see_taken(network: Any, folder: Path, *formats: str, is_compiled: bool = True) -> None:
    """Save a network, load it again, and compare the scores with its own; those of the last format compiled, too."""
    pixels = draw(network.input_shape[1])
    expected = infer(network, pixels)
    assert expected.std(0).min() > 1e-3, "the pictures must be told apart"
    for suffix in formats:
        path = folder / f"model{suffix}"
        network.save(path)
        loaded = load_network(path)
        np.testing.assert_allclose(infer(loaded, pixels), expected, atol=1e-5)
    if is_compiled:
        np.testing.assert_allclose(infer_compiled(loaded, pixels), expected, atol=1e-4)


def add_head(pixels: Any, values: Any) -> Any:
    """A functional model: some layers, and a softmax that tells pictures apart whatever their scale is."""
    if len(values.shape) == 4:
        values = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(values))
    features = infer(keras.Model(pixels, values), draw(pixels.shape[1]))
    normalization = layers.BatchNormalization(epsilon=1e-9)
    values = normalization(values)
    zero = np.zeros_like(features[0])
    normalization.set_weights([zero + 1, zero, features.mean(0), features.var(0)])
    scores = layers.Dense(2, kernel_initializer=keras.initializers.RandomNormal(stddev=0.5, seed=4))(values)
    return keras.Model(pixels, layers.Softmax()(scores))


def test_every_listed_name_is_one_of_keras_and_takes_no_function() -> None:
    places = dict(OPERATION_MODULES) | APPLICATION_LAYERS
    places |= dict.fromkeys(KERAS_3_LAYERS | RANDOM_LAYERS, "keras.layers")
    found = [(name, getattr(importlib.import_module(module), name)) for name, module in places.items()]
    found += [(name, getattr(importlib.import_module(part), name)) for part, names in PARTS.items() for name in names]
    for name, kind in found:
        assert inspect.isclass(kind), name
        assert not {"f", "fn", "func", "function", "filepath", "vocabulary"} & set(inspect.signature(kind).parameters)


@pytest.mark.parametrize("suffix", FORMATS)
def test_layers_that_change_pictures_by_chance_are_left_out(tmp_path: Path, suffix: str) -> None:
    # Keras itself cannot put Equalization behind another layer.
    names = sorted(RANDOM_LAYERS - {"Equalization"} - (NOT_SAVED if suffix == ".h5" else set()))
    made = [getattr(layers, name)(*ARGUMENTS.get(name, ())) for name in names]
    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    values = keras.Sequential(made[-3:], name="changes")(pixels)
    for each in made[2:-3]:
        values = each(values)
    values = layers.Pipeline(made[:2])(values, training=True)
    network = add_head(pixels, layers.Rescaling(1 / 255)(values))
    see_taken(network, tmp_path, suffix)
    assert not [
        layer for layer in load_network(tmp_path / f"model{suffix}").layers if type(layer).__name__ in RANDOM_LAYERS
    ]


def test_layers_that_change_every_picture_are_kept(tmp_path: Path) -> None:
    pixels = layers.Input((32, 32, 3))
    values = layers.ContrastLimitedAdaptiveHistogramEqualization(tile_grid_size=(2, 2))(pixels)
    values = layers.CenterCrop(28, 28)(layers.Resizing(30, 30)(layers.AutoContrast()(values)))
    see_taken(add_head(pixels, layers.Rescaling(1 / 255)(values)), tmp_path, *FORMATS)


def test_operations_on_tensors_are_taken(tmp_path: Path) -> None:
    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    values = (1 - pixels / 255)[..., ::-1] * np.array([1, 2, 3], np.float32)
    values = ops.clip(values[:, 1:-1, 1:-1], 0.1, 2.5) ** 2 - ops.abs(-ops.mean(values, axis=(1, 2, 3), keepdims=True))
    values = ops.concatenate([values, ops.flip(values, 2), ops.stack([values[..., 0], values[..., 1]], -1)], -1)
    values = ops.where(values > 0, ops.sqrt(ops.maximum(values, 1e-3)), ops.tanh(values))
    values = ops.pad(ops.relu6(values + ops.convert_to_tensor([0.5])), [[0, 0], [1, 1], [1, 1], [0, 0]])
    see_taken(add_head(pixels, ops.image.resize(values, (12, 12))), tmp_path, *FORMATS)


@pytest.mark.parametrize("family", ["resnet50", "mobilenet_v2", "densenet", "convnext"])
def test_preprocess_input_inside_a_network_is_taken(tmp_path: Path, family: str) -> None:
    """As Caffe, TensorFlow and PyTorch want their pixels, and as they are."""
    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    prepared = getattr(keras.applications, family).preprocess_input(pixels)
    see_taken(add_head(pixels, prepared), tmp_path, *FORMATS, is_compiled=family == "resnet50")


def test_each_picture_can_be_standardised_by_the_network(tmp_path: Path) -> None:
    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    centred = pixels - ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
    spread = ops.maximum(ops.std(pixels, axis=(1, 2, 3), keepdims=True), 1 / np.sqrt(SIDE_PX * SIDE_PX * 3))
    network = keras.Model(pixels, centred / spread)
    network.save(tmp_path / "model.keras")
    expected = tf.image.per_image_standardization(draw(SIDE_PX)).numpy()
    np.testing.assert_allclose(infer(load_network(tmp_path / "model.keras"), draw(SIDE_PX)), expected, atol=1e-4)


def test_attention_is_taken(tmp_path: Path) -> None:
    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    patches = layers.Reshape((9, 12))(layers.Conv2D(12, 8, strides=8)(layers.Rescaling(1 / 255)(pixels)))
    patches = patches + layers.Embedding(9, 12)(np.arange(9))
    attended = layers.MultiHeadAttention(2, 6)(patches, patches) + patches
    values = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(attended))
    see_taken(add_head(pixels, layers.Dense(6, activation="gelu")(values)), tmp_path, ".keras")


def count(value: Any, prediction: Any) -> Any:
    """A metric of the trainer's own."""
    return keras.ops.mean(prediction - value)


def make_compiled_parts() -> Any:
    """A model in a model, both compiled, with parts that only training needs: none of them may be looked for."""
    base = keras.Sequential([layers.Input((SIDE_PX, SIDE_PX, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    base.compile(keras.optimizers.SGD(), loss=lambda a, b: ops.mean(a - b))
    scores = [layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax")]
    network = keras.Sequential([layers.Input((SIDE_PX, SIDE_PX, 3)), layers.Rescaling(1 / 255), base, *scores])
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10)
    loss = keras.losses.CategoricalFocalCrossentropy()
    network.compile(
        keras.optimizers.AdamW(schedule, use_ema=True),
        loss,
        metrics=["accuracy", count, keras.metrics.AUC()],
        jit_compile=False,
    )
    network.fit(draw(SIDE_PX, 8), np.eye(2)[[0, 1] * 4], epochs=2, verbose=0)
    return network


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_training_state_is_passed_over_in_models_inside_a_model_too(tmp_path: Path) -> None:
    network = make_compiled_parts()
    see_taken(network, tmp_path, *FORMATS, is_compiled=False)
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        text = archive.read("config.json").decode()
    assert text.count('"compile_config"') == 2
    assert "__lambda__" in text
    assert "compile_config" not in json.dumps(read_archive(tmp_path / "model.keras"))


def test_layer_called_for_training_answers_as_keras_itself_does(tmp_path: Path) -> None:
    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    values = layers.BatchNormalization()(layers.RandomFlip()(layers.Rescaling(1 / 255)(pixels), training=True))
    network = add_head(pixels, layers.Dropout(0.5)(values, training=True))
    see_taken(network, tmp_path, *FORMATS)
    np.testing.assert_allclose(network.predict(draw(SIDE_PX), verbose=0), infer(network, draw(SIDE_PX)), atol=1e-6)


@pytest.mark.parametrize("suffix", FORMATS)
def test_half_precision_is_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    layer = layers.Conv2D(2, 3, dtype="mixed_float16")
    keras.Sequential([layers.Input((8, 8, 3)), layer, layers.Flatten()]).save(tmp_path / f"model{suffix}")
    with pytest.raises(
        IntegrityError, match=r"computes in float16 \(mixed precision\), and the server in float32: build"
    ):
        load_network(tmp_path / f"model{suffix}")
