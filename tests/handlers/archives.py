"""Makes model archives as people do, with TorchServe's own archiver, and unpacks them into a model repository."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

DENSENET_MODEL = """
from torchvision.models.densenet import DenseNet


class ImageClassifier(DenseNet):
    def __init__(self):
        super().__init__(48, (6, 12, 36, 24), 96)
"""

TINY_MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 9, stride=5)
        self.last = torch.nn.Linear(8, {classes})

    def forward(self, x):
        return self.last(torch.relu(self.convolution(x)).amax(dim=(2, 3)))
"""


def make_archive(models: Path, name: str, handler: str, files: dict[str, str | bytes], **options: str) -> Path:
    """Write files, have `torch-model-archiver` pack them, and unpack the result as `<models>/<name>/1.0`.

    `options` are those of the archiver that name one file, e.g. `serialized_file="model.pt"`; all other files, but for
    the handler's own, are handed over as extra files.
    """
    source = models.parent / f"source-{name}"
    source.mkdir(parents=True)
    for file, content in files.items():
        (source / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    named = {**options, "handler": handler}
    packed = {*named.values(), handler.partition(":")[0] + ".py"}
    extra = [file for file in files if file not in packed]
    command = [str(Path(sys.executable).with_name("torch-model-archiver"))]
    command += ["--model-name", name, "--version", "1.0", "--export-path", str(source)]
    for option, value in named.items():
        command += [f"--{option.replace('_', '-')}", value]
    if extra:
        command += ["--extra-files", ",".join(extra)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    folder = models / name / "1.0"
    with zipfile.ZipFile(source / f"{name}.mar") as archive:
        archive.extractall(folder)
    return folder


def make_config(**values: int) -> str:
    """Write a `model-config.yaml`."""
    return "".join(f"{key}: {value}\n" for key, value in values.items())


def make_tiny_weights(classes: int) -> bytes:
    """Weights that tell pictures apart by far."""
    import torch

    random = torch.Generator().manual_seed(1)
    shapes = {
        "convolution.weight": (8, 3, 9, 9),
        "convolution.bias": (8,),
        "last.weight": (classes, 8),
        "last.bias": (classes,),
    }
    weights = {name: torch.randn(shape, generator=random) / 4 for name, shape in shapes.items()}
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


def make_tiny(models: Path, name: str, classes: int = 3, **more: str | bytes) -> Path:
    """Make an archive of a small classifier with the default handler; `more` are its other files."""
    files = {"model.py": TINY_MODEL.format(classes=classes), "weights.pth": make_tiny_weights(classes), **more}
    return make_archive(models, name, "image_classifier", files, model_file="model.py", serialized_file="weights.pth")
