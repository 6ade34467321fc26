"""Small networks in the forms that are programs: TorchScript, torch.export's, ONNX and SavedModel."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDE_PX = 32
MANIFEST = """name = "tiny-programs"
version = "1.0"
framework = "{framework}"
[artifact]
file = "{file}"
[input]
width_px = 32
height_px = 32
resize = "bilinear"
mean = [127, 120, 110]
std = [128, 100, 90]
[output]
classes = ["benign", "malignant"]
activation = "softmax"
positive_class = "malignant"
threshold = 0.5
threshold_source = "none was chosen"
"""


class Network(nn.Module):
    """Takes any number of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(128, 2)
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(torch.flatten(self.pool(torch.relu(self.convolution(x))), 1))
        return scores


class LoneNetwork(Network):
    """Loses sight of where one picture ends and the next begins."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.pool(torch.relu(self.convolution(x))).flatten()
        return torch.stack([found[:64].sum(), found[64:].sum()])[None]


def make_network(kind: type[Network] = Network) -> Network:
    torch.manual_seed(0)
    return kind().eval()


def make_input(count: int) -> Tensor:
    return torch.zeros(count, 3, SIDE_PX, SIDE_PX)


@contextlib.contextmanager
def quietly() -> Any:
    """What the exporters deprecate, they still do."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def write_scripted(folder: Path) -> Path:
    with quietly():
        torch.jit.script(make_network()).save(folder / "network.pt")
    return folder / "network.pt"


def write_traced_for_one(folder: Path) -> Path:
    with quietly():
        torch.jit.trace(make_network(LoneNetwork), make_input(1)).save(folder / "network.torchscript")
    return folder / "network.torchscript"


def write_exported(folder: Path) -> Path:
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with quietly():
        torch.export.save(
            torch.export.export(make_network(), (make_input(2),), dynamic_shapes=shapes), folder / "network.pt2"
        )
    return folder / "network.pt2"


def write_exported_for_one(folder: Path) -> Path:
    with quietly():
        torch.export.save(torch.export.export(make_network(LoneNetwork), (make_input(1),)), folder / "network.pt2")
    return folder / "network.pt2"


def write_exported_for_four(folder: Path) -> Path:
    with quietly():
        torch.export.save(torch.export.export(make_network(), (make_input(4),)), folder / "network.pt2")
    return folder / "network.pt2"


def write_onnx(folder: Path, kind: type[Network] = Network, **more: Any) -> Path:
    with quietly():
        torch.onnx.export(
            make_network(kind), (make_input(1),), folder / "network.onnx", dynamo=False, input_names=["x"], **more
        )
    return folder / "network.onnx"


def write_onnx_of_any_batch(folder: Path) -> Path:
    return write_onnx(folder, dynamic_axes={"x": {0: "n"}})


def write_onnx_for_one(folder: Path) -> Path:
    return write_onnx(folder, LoneNetwork)


def write_onnx_with_weights_beside(folder: Path) -> Path:
    """As PyTorch's newer exporter writes it: the weights in a second file."""
    import onnx

    path = write_onnx(folder)
    model = onnx.load(path)
    onnx.save(
        model, path, save_as_external_data=True, location="network.onnx.data", size_threshold=0, convert_attribute=False
    )
    return path


def write_onnx_with_channels_last(folder: Path) -> Path:
    """As converters of TensorFlow's models write it."""
    import onnx
    from onnx import TensorProto, helper

    path = write_onnx(folder)
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Transpose", ["pictures"], ["x"], perm=[0, 3, 1, 2]))
    del model.graph.input[:]
    shape = ["n", SIDE_PX, SIDE_PX, 3]
    model.graph.input.append(helper.make_tensor_value_info("pictures", TensorProto.FLOAT, shape))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, path)
    return path


def write_saved_model(folder: Path) -> Path:
    """As `export` of Keras writes it."""
    import keras

    logging.getLogger("absl").setLevel(logging.ERROR)
    layers = keras.layers
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((SIDE_PX, SIDE_PX, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    with quietly():
        network.export(folder / "network.savedmodel", verbose=False)
    return folder / "network.savedmodel"


def write_saved_model_for_one(folder: Path) -> Path:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([1, SIDE_PX, SIDE_PX, 3], tf.float32)])
        def infer(self, pictures: Any) -> Any:
            return {"scores": tf.reduce_mean(pictures, [1, 2]) @ self.weights}

    module = Module()
    module.weights = tf.Variable([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]])
    tf.saved_model.save(module, os.fspath(folder / "network.savedmodel"), signatures=module.infer)
    return folder / "network.savedmodel"


PROGRAMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "TorchScript": ("torchscript", write_scripted),
    "TorchScript for one picture": ("torchscript", write_traced_for_one),
    "torch.export": ("torch_export", write_exported),
    "torch.export for one picture": ("torch_export", write_exported_for_one),
    "ONNX": ("onnx", write_onnx_of_any_batch),
    "ONNX for one picture": ("onnx", write_onnx_for_one),
    "ONNX with weights beside": ("onnx", write_onnx_with_weights_beside),
    "ONNX, channels last": ("onnx", write_onnx_with_channels_last),
    "SavedModel": ("saved_model", write_saved_model),
    "SavedModel for one picture": ("saved_model", write_saved_model_for_one),
}
"""Framework and writer of each."""


def write_folder(models: Path, framework: str, write: Callable[[Path], Path], version: str = "1.0") -> Path:
    """Write `models/tiny-programs/VERSION` as an operator would put it there."""
    from app.repository.model_content import hash_artifact

    folder = models / "tiny-programs" / version
    folder.mkdir(parents=True)
    artifact = write(folder)
    text = MANIFEST.format(framework=framework, file=artifact.name).replace('"1.0"', f'"{version}"')
    line = f'file = "{artifact.name}"'
    text = text.replace(line, f'{line}\nsha256 = "{hash_artifact(artifact, framework)}"')
    (folder / "model.toml").write_text(text)
    return folder
