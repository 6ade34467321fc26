"""What a `.keras` file may hold; told by its config, before Keras sees it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.errors import IntegrityError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SHIPPED = PROJECT_ROOT / "models/isic-classification/1.0/model.keras"


def write_archive(path: Path, config: Any, metadata: str = "{}", **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("metadata.json", metadata)
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def layer(module: str | None, name: str, config: Any = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config or {}, "registered_name": None}


def test_shipped_model_is_allowed() -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    read_archive(SHIPPED)


@pytest.mark.parametrize(
    "inner",
    [
        layer("keras.layers", "Lambda"),
        layer("keras.layers", "TFSMLayer"),
        layer("keras.layers", "TorchModuleWrapper"),
        layer("keras.layers", "StringLookup"),
        layer("builtins", "function", "eval"),
        layer("os", "system"),
        layer(None, "Lambda"),
        layer("keras.src.models.functional", "Lambda"),
        layer("keras.layers.evil", "Conv2D"),
        layer("evil", "Conv2D"),
        layer("keras.losses", "MeanSquaredError"),
        {"class_name": "__lambda__", "config": {"value": "code"}},
    ],
    ids=lambda inner: f"{inner.get('module')}.{inner['class_name']}",
)
def test_class_outside_the_lists_is_refused(tmp_path: Path, inner: dict[str, Any]) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    config = layer("keras", "Sequential", {"layers": [layer("keras.layers", "Dense", {"nested": [inner]})]})
    with pytest.raises(IntegrityError, match="not allowed"):
        read_archive(write_archive(tmp_path / "model.keras", config))


def pixels_and(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A functional model of an input and what is called on it."""
    pixels = layer("keras.layers", "InputLayer", {"batch_shape": [None, 8, 8, 3], "name": "pixels"})
    named = [{**node, "name": f"node{n}"} for n, node in enumerate(nodes)]
    ends = {"input_layers": ["pixels", 0, 0], "output_layers": [f"node{len(nodes) - 1}", 0, 0]}
    layers = [{**pixels, "name": "pixels", "inbound_nodes": []}, *named]
    return layer("keras.src.models.functional", "Functional", {"name": "model", "layers": layers, **ends})


TENSOR = {"class_name": "__keras_tensor__", "config": {"shape": [], "dtype": "", "keras_history": ["pixels", 0, 0]}}
FUNCTION = layer("builtins", "function", "eval")
CODE = {"class_name": "__lambda__", "config": {"value": {"code": "", "defaults": None, "closure": None}}}


def called(node: dict[str, Any], *arguments: Any, **keywords: Any) -> dict[str, Any]:
    return {**node, "inbound_nodes": [{"args": [TENSOR, *arguments], "kwargs": keywords}]}


ADD = layer("keras.src.ops.numpy", "Add", {"name": "add"})
HOSTILE_NODES = {
    "module of the attacker": called(layer("evil", "Add"), 1),
    "module of the system": called(layer("os", "system"), "id"),
    "another module of Keras": called(layer("keras.src.utils.file_utils", "Add"), 1),
    "an operation under a layer's module": called(layer("keras.layers", "TrueDivide"), 1),
    "an operation of another module of operations": called(layer("keras.src.ops.image", "Add"), 1),
    "an operation that calls": called(layer("keras.src.ops.core", "Map"), FUNCTION),
    "an operation that calls in a loop": called(layer("keras.src.ops.core", "WhileLoop"), FUNCTION, FUNCTION),
    "an operation that calls each": called(layer("keras.src.ops.core", "VectorizedMap", {"function": FUNCTION})),
    "an operation on a network": called(layer("keras.src.ops.function", "Function")),
    "a class registered under a name": called({**ADD, "registered_name": "evil>Add"}, 1),
    "a layer registered under a name": called({**layer("keras.layers", "ReLU"), "registered_name": "evil>ReLU"}),
    "a function as argument": called(ADD, FUNCTION),
    "a function of Keras as argument": called(ADD, layer("keras.utils", "function", "get_file")),
    "code as keyword": called(ADD, x2=CODE),
    "an object deep in a keyword": called(ADD, x2={"a": [[layer("subprocess", "Popen", {"args": "id"})]]}),
    "an object in a slice": called(ADD, {"class_name": "__slice__", "config": {"start": CODE}}),
    "an object in a tuple": called(ADD, {"class_name": "__tuple__", "items": [CODE]}),
    "a type's description": called(ADD, {"class_name": "__typespec__", "spec_name": "a", "module": "os", "config": []}),
    "text": called(ADD, {"class_name": "__bytes__", "config": {"value": "id"}}),
    "an array of objects": called(ADD, {"class_name": "__numpy__", "config": {"value": ["id"], "dtype": "object"}}),
    "a tensor of texts": called(ADD, {"class_name": "__tensor__", "config": {"value": ["id"], "dtype": "string"}}),
    "a function in a random layer's call": layer("keras.layers", "RandomFlip", {"name": "a"})
    | {"inbound_nodes": [{"args": [FUNCTION], "kwargs": {}}]},
    "code in a random layer's keyword alone": layer("keras.layers", "RandomFlip", {"name": "a"})
    | {"inbound_nodes": [{"args": [], "kwargs": {"data": CODE}}]},
    "Lambda in a pipeline": called(layer("keras.layers", "Pipeline", {"layers": [layer("keras.layers", "Lambda")]})),
    "an application's function": called(layer("keras.src.applications.convnext", "ConvNeXtTiny")),
    "a foreign layer in an application's module": called(layer("keras.src.applications.convnext", "Lambda")),
    "a function as initializer": called(layer("keras.layers", "Dense", {"kernel_initializer": FUNCTION})),
    "a reader as initializer": called(
        layer("keras.layers", "Dense", {"kernel_initializer": layer("keras.initializers", "deserialize")})
    ),
    "a policy of parts": called(layer("keras.layers", "ReLU", {"dtype": layer("keras", "DTypePolicyMap")})),
}


@pytest.mark.parametrize("name", HOSTILE_NODES)
def test_hostile_node_of_a_functional_model_is_refused(tmp_path: Path, name: str) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    path = write_archive(tmp_path / "model.keras", pixels_and(HOSTILE_NODES[name]))
    with pytest.raises(IntegrityError, match=r"not allowed|not of numbers"):
        read_archive(path)


BROKEN_NODES = {
    "class_name is a list": called({**ADD, "class_name": ["Add"]}, 1),
    "module is a list": called({**ADD, "module": ["os"]}, 1),
    "no config": {key: value for key, value in ADD.items() if key != "config"},
    "config is a text": called({**ADD, "config": "eval"}, 1),
    "a call is a list": layer("keras.layers", "RandomFlip", {"name": "a"}) | {"inbound_nodes": [["pixels", 0, 0]]},
    "a tuple without items": called(ADD, {"class_name": "__tuple__"}),
    "a constant without kind": called(ADD, {"class_name": "__numpy__", "config": {"value": [1]}}),
    "a random layer without name": called(layer("keras.layers", "RandomFlip")),
}


@pytest.mark.parametrize("name", BROKEN_NODES)
def test_broken_node_is_refused_and_not_believed(tmp_path: Path, name: str) -> None:
    from app.engines.tensorflow.keras_engine import load_network

    path = write_archive(tmp_path / "model.keras", pixels_and(BROKEN_NODES[name]), **{"model.weights.h5": b""})
    with pytest.raises(IntegrityError):
        load_network(path)


def test_hostile_training_state_is_passed_over_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    state = {"optimizer": layer("os", "system", {"command": "id"}), "loss": CODE, "metrics": [FUNCTION]}
    dense = {**layer("keras.layers", "Dense", {"units": 2, "name": "a"}), "compile_config": state}
    inner = {**layer("keras", "Sequential", {"layers": [dense], "compile_config": state}), "compile_config": state}
    config = {**pixels_and(called(inner)), "compile_config": state}
    read = json.dumps(read_archive(write_archive(tmp_path / "model.keras", config)))
    for left in ("compile_config", "os", "__lambda__", "eval"):
        assert f'"{left}"' not in read


def test_models_in_models_that_call_each_other_without_end_are_refused(tmp_path: Path) -> None:
    """A short file that calls 2^30 layers."""
    from app.engines.tensorflow.keras_engine import read_archive

    inner = layer("keras.layers", "ReLU", {"name": "relu"})
    for _ in range(30):
        inner = pixels_and(called(inner) | {"inbound_nodes": [{"args": [TENSOR], "kwargs": {}}] * 2})
    with pytest.raises(IntegrityError, match="calls more than 20000 layers"):
        read_archive(write_archive(tmp_path / "model.keras", inner))


@pytest.mark.parametrize("root", [layer("keras.layers", "Dense", {"units": 2}), ADD, layer(None, "__keras_tensor__")])
def test_file_that_holds_no_model_is_refused(tmp_path: Path, root: dict[str, Any]) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    with pytest.raises(IntegrityError, match="and not a model"):
        read_archive(write_archive(tmp_path / "model.keras", root))


def test_keras_file_of_keras_2_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    path = write_archive(tmp_path / "model.keras", {}, metadata='{"keras_version": "2.15.0"}')
    with pytest.raises(IntegrityError, match=r"was written by Keras 2; load it there, and save it as \.h5"):
        read_archive(path)


def test_archive_with_other_members_is_refused(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    path = write_archive(tmp_path / "model.keras", {}, **{"assets/vocabulary.txt": b""})
    with pytest.raises(IntegrityError, match="holds more than"):
        read_archive(path)


@pytest.mark.parametrize("config", ["no json", "[" * 100_000, json.dumps("x" * 9_000_000)])
def test_config_that_is_no_config_is_refused(tmp_path: Path, config: str) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    with pytest.raises(IntegrityError):
        read_archive(write_archive(tmp_path / "model.keras", config))


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    path = tmp_path / "model.keras"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(IntegrityError, match=r"not a \.keras file"):
        read_archive(path)
