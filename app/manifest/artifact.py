"""What a model's artifact may be: which files each framework takes, and whether loading them can run code."""

import re
from dataclasses import dataclass

from app.manifest.toml_table import Table

FILE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Framework:
    """What a framework takes.

    Attributes:
        suffixes: how its artifact may be called.
        is_program: loading it can run code, or read and write files: it is trusted by name, or not loaded at all.
        companion: suffix, put after the artifact's name, of a second file that it may have.
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
"""What `framework = "…"` in `model.toml` may name; each has its engine in `app.engines.base.ENGINES`."""


@dataclass(frozen=True)
class Artifact:
    """The file of the model itself: its name in the model folder, its SHA-256, and of weights the architecture.

    Attributes:
        file: of a SavedModel the name of its folder.
        sha256: as `app.repository.artifact_files.hash_artifact` counts it.
        architecture: which PyTorch network the weights fill; None for what says itself how to compute.
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
