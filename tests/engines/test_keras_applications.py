"""Every family of `keras.applications` is taken, with random weights, and compiled gives what Keras itself gives."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.config.setting_types import PROJECT_ROOT
from tests.engines.test_keras_3 import FORMATS, draw, infer, infer_compiled

keras = pytest.importorskip("keras")
from keras import applications, layers  # noqa: E402  # after the skip

from app.engines.tensorflow.keras_engine import load_network  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]
FAMILIES = {
    **dict.fromkeys(("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "MobileNet"), 32),
    **dict.fromkeys(("MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16"), 32),
    **dict.fromkeys(("InceptionResNetV2", "InceptionV3"), 75),
    "Xception": 71,
}
"""Smallest member of each family, and the side that it takes in px."""


GUIDE = (PROJECT_ROOT / "get_started/add_a_keras_model.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`\w+`.*?) \| .*? \| `(\[.*?\])` \| `(\[.*?\])` \| `(RGB|BGR)` \|$", GUIDE, re.MULTILINE)
SAID = {name: row[1:] for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}
"""By module of `keras.applications`: the mean, std and order of channels that the guide says."""


def test_guide_says_what_each_familys_preprocess_input_does() -> None:
    modules = {name for name, module in vars(applications).items() if hasattr(module, "preprocess_input")}
    assert set(SAID) == modules - {"imagenet_utils", "resnet50"}  # what the others call, and another name of `resnet`
    assert applications.resnet50.preprocess_input is applications.resnet.preprocess_input
    pixels = np.random.default_rng(5).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    for name, (mean, std, order) in SAID.items():
        ordered = pixels[..., ::-1] if order == "BGR" else pixels
        expected = getattr(applications, name).preprocess_input(pixels.copy())
        said = (ordered - np.array(json.loads(mean))) / np.array(json.loads(std))
        np.testing.assert_allclose(said, expected, atol=1e-3, err_msg=name)


def find_kinds(network: Any) -> list[str]:
    return [type(layer).__name__ for layer in network.layers]


def cut(base: Any) -> Any:
    """The output of the first layer behind which every kind of layer stands: what follows are repeats."""
    kinds = find_kinds(base)
    last = max(kinds.index(kind) for kind in set(kinds))
    outputs = (layer.output for layer in base.layers[last:] if len(layer.output.shape) == 4)
    return next(output for output in outputs if set(find_kinds(keras.Model(base.input, output))) == set(kinds))


def shake(network: Any, pixels: Any) -> None:
    """Give every weight a value of its own, and every normalization the statistics under which pictures differ."""
    random = np.random.default_rng(0)
    network.set_weights([value + random.normal(0, 0.03, value.shape) ** 2 for value in network.get_weights()])
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
        elif isinstance(layer, layers.Normalization):
            layer.finalize_state()
    network(pixels, training=True)


ALWAYS = ("ConvNeXtTiny", "EfficientNetB0", "MobileNetV3Small", "ResNet50V2")
"""Families with layers that the others lack, or preprocessing inside."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.long) for name in FAMILIES]
)
def test_family_is_taken_and_answers_as_keras_does(tmp_path: Path, name: str) -> None:
    side_px = FAMILIES[name]
    keras.backend.clear_session()
    base = getattr(applications, name)(include_top=False, weights=None, input_shape=(side_px, side_px, 3))
    values = layers.BatchNormalization(epsilon=1e-9)(layers.GlobalAveragePooling2D()(cut(base)))
    network = keras.Model(base.input, layers.Dense(3, activation="softmax")(values))
    pixels = draw(side_px, 12)
    shake(network, pixels)
    expected = infer(network, pixels)
    assert expected.std(0).min() > 0.05, "the pictures must be told apart"
    for suffix in FORMATS:
        network.save(tmp_path / f"model{suffix}")
        loaded = load_network(tmp_path / f"model{suffix}")
        np.testing.assert_allclose(infer(loaded, pixels), expected, atol=1e-5)
    np.testing.assert_allclose(infer_compiled(loaded, pixels), expected, atol=1e-4)
