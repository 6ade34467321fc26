"""Makes model archives as people do, with TorchServe's own archiver, and unpacks them into a model repository."""

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
