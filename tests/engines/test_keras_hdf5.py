"""`.h5` files of Keras 2 and 3 give what their Keras gave; what is no plain data in them is refused before Keras."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from app.errors import IntegrityError
from tests.engines.legacy_keras import make_weights, nest, vgg_like, write_keras_2

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SIDE_PX, FILTERS, HIDDEN = 16, (4, 6), 8
WEIGHTS = make_weights(SIDE_PX, FILTERS, HIDDEN)
LAYERS = vgg_like(SIDE_PX, FILTERS, HIDDEN)
PIXELS = np.random.default_rng(6).random((5, SIDE_PX, SIDE_PX, 3), dtype=np.float32)


def write(folder: Path) -> Path:
    return write_keras_2(folder / "model.h5", LAYERS, WEIGHTS)


def build_with_keras_3() -> Any:
    """The same network with the same weights, built by Keras 3."""
    import keras

    layers: list[Any] = [keras.layers.Input((SIDE_PX, SIDE_PX, 3))]
    for count in FILTERS:
        layers += [keras.layers.Conv2D(count, 3, padding="same", activation="relu"), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dense(HIDDEN, activation="relu"), keras.layers.Dropout(0.5)]
    network = keras.Sequential([*layers, keras.layers.Dense(2, activation="softmax")])
    network.set_weights([values for pair in WEIGHTS.values() for values in pair])
    return network


def infer(network: Any) -> np.ndarray[Any, Any]:
    scores: np.ndarray[Any, Any] = network(PIXELS, training=False).numpy()
    return scores


def test_file_of_keras_2_gives_what_the_same_network_of_keras_3_gives(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import load_network

    expected = infer(build_with_keras_3())
    assert expected[:, 1].std() > 0.01, "the pictures must be told apart"
    np.testing.assert_allclose(infer(load_network(write(tmp_path))), expected, atol=1e-6)


def test_base_inside_a_model_of_keras_2_is_understood(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import load_network

    path = write_keras_2(tmp_path / "model.h5", nest(LAYERS, 5), WEIGHTS, base=("conv0", "conv1"))
    before = path.read_bytes()
    np.testing.assert_allclose(infer(load_network(path)), infer(build_with_keras_3()), atol=1e-6)
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_models_in_models_of_keras_3_give_the_same_again(tmp_path: Path, suffix: str) -> None:
    import keras

    from app.engines.tensorflow.keras_engine import load_network

    inner = keras.layers.Input((SIDE_PX, SIDE_PX, 3))
    hidden = keras.layers.BatchNormalization()(keras.layers.SeparableConv2D(4, 3)(inner))
    base = keras.Model(inner, keras.layers.DepthwiseConv2D(3)(hidden), name="base")
    pool, head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax")
    pixels = keras.layers.Input((SIDE_PX, SIDE_PX, 3))
    stem = keras.Sequential([keras.layers.Rescaling(2.0), base], name="stem")
    for network in (keras.Sequential([pixels, base, pool, head]), keras.Model(pixels, head(pool(stem(pixels))))):
        path = tmp_path / f"model{suffix}"
        network.save(path)
        np.testing.assert_array_equal(infer(load_network(path)), infer(network))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_files_of_keras_3_give_the_same_again(tmp_path: Path) -> None:
    import keras

    from app.engines.tensorflow.keras_engine import load_network

    plain = build_with_keras_3()
    pixels = keras.layers.Input((SIDE_PX, SIDE_PX, 3))
    hidden = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, kernel_constraint="non_neg")(pixels))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([hidden, keras.layers.ReLU()(hidden)]))
    branched = keras.Model(pixels, keras.layers.Dense(1, activation="sigmoid", kernel_regularizer="l2")(hidden))
    for network in (plain, branched):
        network.compile("adam", "mse")
        network.save(tmp_path / "model.h5")
        np.testing.assert_array_equal(infer(load_network(tmp_path / "model.h5")), infer(network))


def test_network_of_two_outputs_is_refused(tmp_path: Path) -> None:
    import keras

    from app.engines.tensorflow.keras_engine import load_network

    pixels = keras.layers.Input((8, 8, 3))
    keras.Model(pixels, [keras.layers.Flatten()(pixels), pixels]).save(tmp_path / "model.keras")
    with pytest.raises(IntegrityError, match=r"has 2 outputs.*the manifest describes one output"):
        load_network(tmp_path / "model.keras")


def refuse(path: Path, reason: str) -> None:
    from app.engines.tensorflow.keras_hdf5 import check_hdf5

    with pytest.raises(IntegrityError, match=reason):
        check_hdf5(path)


@pytest.mark.parametrize(
    "inner",
    [
        {"class_name": "Lambda", "config": {"function": ["code", None, None], "function_type": "lambda"}},
        {"class_name": "TFSMLayer", "config": {"filepath": "somewhere"}},
        {"class_name": "MyLayer", "config": {}},
        {"class_name": "Custom>MyLayer", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "code"}},
        {"class_name": "__tuple__", "items": [{"class_name": "__lambda__", "config": {}}]},
        {"class_name": "Map", "config": {"name": "map"}},
        {"class_name": "TrueDivide", "config": {"name": "divide"}, "module": "os"},
        {"module": "keras.layers", "class_name": "Lambda", "config": {}},
        {"module": "builtins", "class_name": "function", "config": "eval"},
        {"module": "evil.engine.functional", "class_name": "Functional", "config": {}},
        {"module": "keras.engine.functional", "class_name": "Lambda", "config": {}},
    ],
    ids=lambda inner: f"{inner.get('module')}.{inner['class_name']}",
)
@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_class_outside_the_lists_is_refused_wherever_it_stands(
    tmp_path: Path, inner: dict[str, Any], version: str
) -> None:
    dense = {"class_name": "Dense", "config": {"name": "a", "kernel_initializer": inner}}
    path = write(tmp_path)
    for layers in ([*LAYERS, inner], [*LAYERS, dense]):
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
            file.attrs["keras_version"] = version
        refuse(path, "which is not allowed")


def replace_kernel(change: Callable[[h5py.Group], None]) -> Callable[[h5py.File], None]:
    """A change that puts something else where a kernel was."""

    def apply(file: h5py.File) -> None:
        group = file["model_weights/scores/scores"]
        del group["kernel:0"]
        change(group)

    return apply


def make_virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout((HIDDEN, 2), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "weights", (HIDDEN, 2), "f4")
    group.create_virtual_dataset("kernel:0", layout)


def put_attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


OUTSIDE = [("secret", 0, h5py.h5f.UNLIMITED)]
CHANGES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "link out": (replace_kernel(lambda g: g.__setitem__("kernel:0", h5py.ExternalLink("secret.h5", "a"))), "a link"),
    "link inside": (replace_kernel(lambda g: g.__setitem__("kernel:0", h5py.SoftLink("/a"))), "holds a link"),
    "link out of no use": (lambda f: f.__setitem__("more", h5py.ExternalLink("secret.h5", "/")), "holds a link, more"),
    "data outside": (
        replace_kernel(lambda g: g.create_dataset("kernel:0", (HIDDEN, 2), "f4", external=OUTSIDE)),
        "data lie in another file",
    ),
    "virtual data": (replace_kernel(make_virtual), "data lie in another file"),
    "shape bomb": (
        replace_kernel(lambda g: g.create_dataset("kernel:0", (1 << 20, 1 << 20), "f4", chunks=(64, 64))),
        "declares 4398046511104 bytes and has far fewer",
    ),
    "zipped bomb": (
        replace_kernel(lambda g: g.create_dataset("kernel:0", data=np.zeros((1 << 10, 1 << 10)), compression="gzip")),
        "declares 8388608 bytes and has far fewer",
    ),
    "other filter": (
        replace_kernel(lambda g: g.create_dataset("kernel:0", data=np.zeros((8, 2)), compression="lzf")),
        "packed by a filter",
    ),
    "committed type": (lambda f: f.__setitem__("type", np.dtype("f4")), "neither a group nor a dataset"),
    "large config": (put_attribute("model_config", json.dumps("x" * (9 << 20))), "larger than 8388608 bytes"),
    "no JSON": (put_attribute("model_config", "{"), "not an HDF5 file of Keras"),
    "number as config": (put_attribute("model_config", 3), "not an HDF5 file of Keras"),
    "deep config": (put_attribute("model_config", "[" * 100_000), "not an HDF5 file of Keras"),
    "weights alone": (lambda f: f.attrs.__delitem__("model_config"), "holds no whole model"),
    "Keras 1": (put_attribute("keras_version", "1.2.2"), "written by Keras 1.2.2; load and save it with Keras 2"),
    "no version": (lambda f: f.attrs.__delitem__("keras_version"), "written by Keras 1;"),
    "Theano": (put_attribute("backend", b"theano"), "written on theano"),
    "config alone": (lambda f: f.__delitem__("model_weights"), "holds no whole model"),
    "group that holds itself": (lambda f: f.__setitem__("model_weights/again", f["model_weights"]), "under two names"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_plain_data_is_refused(tmp_path: Path, name: str) -> None:
    change, reason = CHANGES[name]
    path = write(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    refuse(path, reason)


def test_file_that_is_cut_short_or_no_hdf5_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    refuse(path, "not an HDF5 file of Keras")
    path.write_bytes(b"PK\x03\x04")
    refuse(path, "not an HDF5 file of Keras")
    refuse(tmp_path / "absent.h5", "not an HDF5 file of Keras")
