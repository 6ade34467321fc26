"""Small networks whose manifests are right or wrong, each in the form that somebody would bring."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.repository.model_content import hash_artifact
from tests.engines.programs import quietly

SIDE_PX = 32
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
MANIFEST = """\
name = "tiny-held"
version = "1.0"
framework = "{framework}"
[artifact]
file = "{file}"
[input]
width_px = {width}
height_px = {height}
resize = "bilinear"
mean = {mean}
std = {std}
[output]
classes = {classes}
activation = "{activation}"
scores = "{scores}"
"""
POSITIVE = 'positive_class = "malignant"\nthreshold = 0.5\nthreshold_source = "none was chosen"\n'
Write = Callable[[Path], Path]


def write_manifest(
    folder: Path,
    framework: str,
    artifact: Path,
    *,
    mean: Sequence[float] = (0, 0, 0),
    std: Sequence[float] = (1, 1, 1),
    size: tuple[int, int] = (SIDE_PX, SIDE_PX),
    classes: Sequence[str] = ("benign", "malignant"),
    activation: str = "softmax",
    scores: str = "logits",
) -> None:
    """Write the `model.toml` of an artifact; `size` is width and height."""
    fields = {"mean": list(mean), "std": list(std), "width": size[0], "height": size[1]}
    names = str(list(classes)).replace("'", '"')
    text = MANIFEST.format(
        framework=framework, file=artifact.name, classes=names, activation=activation, scores=scores, **fields
    )
    line = f'file = "{artifact.name}"\n'
    text = text.replace(line, f'{line}sha256 = "{hash_artifact(artifact, framework)}"\n')
    (folder / "model.toml").write_text(text + (POSITIVE if len(classes) == 2 else ""))


class Network(nn.Module):
    """`first`, a convolution, its mean, a layer of `outputs` scores, and `last`; `flat`: no mean, so of one size."""

    def __init__(
        self, first: Any = None, last: Any = None, outputs: int = 2, channels: int = 3, flat: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = first or nn.Identity(), last or nn.Identity()
        self.convolution, self.flat = nn.Conv2d(channels, 8, 3), flat
        self.linear = nn.Linear(8 * (SIDE_PX - 2) ** 2 if flat else 8, outputs)

    def forward(self, pictures: Tensor) -> Any:
        found = torch.relu(self.convolution(self.first(pictures)))
        return self.last(self.linear(found.flatten(1) if self.flat else found.mean((2, 3))))


class Affine(nn.Module):
    """(x / scale - mean) / std, as networks begin that normalize pixels themselves."""

    def __init__(self, scale: float, mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures / self.scale - self.mean) / self.std


class Apply(nn.Module):
    """Any function of the scores."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, scores: Tensor) -> Any:
        return self.function(scores)


def write_traced(network: nn.Module, channels: int = 3, dtype: torch.dtype = torch.float32, labels: str = "") -> Write:
    """TorchScript of a network, traced as it is, with an extra file of labels."""

    def write(folder: Path) -> Path:
        with quietly():
            example = torch.zeros(2, channels, SIDE_PX, SIDE_PX, dtype=dtype)
            traced = torch.jit.trace(network, example, check_trace=False, strict=False)
            torch.jit.save(traced, folder / "network.pt", _extra_files={"labels.json": labels} if labels else None)
        return folder / "network.pt"

    return write


def write_exported(network: nn.Module) -> Write:
    """`.pt2` of a network."""

    def write(folder: Path) -> Path:
        shapes, example = ({0: torch.export.Dim.DYNAMIC},), torch.zeros(2, 3, SIDE_PX, SIDE_PX)
        with quietly():
            torch.export.save(torch.export.export(network.eval(), (example,), dynamic_shapes=shapes), folder / "n.pt2")
        return folder / "n.pt2"

    return write


def write_onnx(network: nn.Module, **metadata: str) -> Write:
    """ONNX of a network, with metadata of its file."""

    def write(folder: Path) -> Path:
        import onnx

        path, example = folder / "network.onnx", torch.zeros(2, 3, SIDE_PX, SIDE_PX)
        with quietly():
            torch.onnx.export(
                network.eval(), (example,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
            )
        model = onnx.load(path)
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, path)
        return path

    return write


def write_keras(
    *first: Any, last: str | None = None, outputs: int = 2, shape: tuple[Any, ...] = (SIDE_PX, SIDE_PX, 3), suffix: str
) -> Write:
    """A Keras model of `first`, a convolution, its mean and a layer with the activation `last`."""

    def write(folder: Path) -> Path:
        import keras

        layers = keras.layers
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [
                keras.Input(shape),
                *(make(keras) for make in first),
                layers.Conv2D(8, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(outputs, activation=last),
            ]
        )
        with quietly():
            if suffix == ".savedmodel":
                network.export(folder / "network.savedmodel", verbose=False)
            else:
                network.save(folder / f"network{suffix}")
        return folder / f"network{suffix}"

    return write


def write_named_output(folder: Path) -> Path:
    """A Keras model that returns its scores in a dict."""
    import keras

    pictures = keras.Input((SIDE_PX, SIDE_PX, 3))
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(pictures))
    keras.Model(pictures, {"malignancy": keras.layers.Dense(2)(means)}).save(folder / "network.keras")
    return folder / "network.keras"
