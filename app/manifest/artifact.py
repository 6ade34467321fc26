"""The files that may be a model's artifact: which ones each framework loads, and whether loading can run code."""

import re
from dataclasses import dataclass

from app.manifest.toml_table import Table

FILE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Framework:
    """The artifacts of a framework.

    Attributes:
        suffixes: an artifact's name ends in one of them.
        is_program: whether loading the artifact can run code, or read and write files; only a trusted one is loaded.
        companion: suffix of a second file that an artifact may have, after the artifact's whole name.
    """

    suffixes: tuple[str, ...]
    is_program: bool = False
    companion: str | None = None


FRAMEWORKS = {
    "torch": Framework((".safetensors", ".pt", ".pth")),
    "keras": Framework((".keras", ".h5")),
    "torchscript": Framework((".pt", ".pth", ".torchscript"), is_program=True),
    "torch_export": Framework((".pt2",), is_program=True),
    "onnx": Framework((".onnx",), is_program=True, companion=".data"),
    "saved_model": Framework((".savedmodel",), is_program=True),
}
"""By the word in `framework = "…"` of `model.toml`; `app.engines.base.ENGINES` has the engine of each."""


@dataclass(frozen=True)
class Artifact:
    """The file of the model itself.

    Attributes:
        file: its name in the model folder; for a SavedModel the name of a folder.
        sha256: as `app.repository.artifact_files.hash_artifact` computes it.
        architecture: the PyTorch network that the weights belong to; None for an artifact that holds its network.
    """

    file: str
    sha256: str
    architecture: str | None


def parse_artifact(table: Table, framework: str) -> Artifact:
    """Read `[artifact]`; raises `ManifestError` if it breaks a rule."""
    file = table.text("file", FILE_PATTERN)
    suffixes = FRAMEWORKS[framework].suffixes
    if not file.endswith(suffixes):
        raise table.fail("file", f"must end in {' or '.join(suffixes)} for {framework}")
    architecture = table.text("architecture") if framework == "torch" else None
    artifact = Artifact(file, table.text("sha256", SHA256_PATTERN), architecture)
    table.end()
    return artifact
