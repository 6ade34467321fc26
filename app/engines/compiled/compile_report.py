"""The compiled model's report: which artifact it was made from, and how far its scores are from the framework's."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from app.errors import CompiledModelError
from app.manifest.model_manifest import ModelManifest
from app.processes.plain_files import hash_files, read_plain, read_plain_text

COMPILED_FOLDER = "compiled"
IR_FILE = "model.xml"
WEIGHTS_FILE = "model.bin"
REPORT_FILE = "report.json"
TOLERANCE = 1e-4
"""Largest allowed difference of a probability between the compiled model and its framework."""


@dataclass(frozen=True)
class CompileReport:
    """How a compiled model was made.

    Attributes:
        artifact_sha256: of the weights it was made from.
        graph_sha256: of the manifest's parts that were folded in (`ModelManifest.graph_sha256`).
        ir_sha256: of `model.xml` and `model.bin`, in this order, as one stream.
        max_probability_difference: largest one seen between the compiled model and the framework.
        framework, converter: name and version of what computed the reference, and of what converted.
        held_sha256: of the manifest that was held against the network (`ModelManifest.held_sha256`); empty: none was.
        note: what was done to find the weights in the artifact; empty where they lie in it plainly.
    """

    artifact_sha256: str
    graph_sha256: str
    ir_sha256: str
    max_probability_difference: float
    tolerance: float
    images: int
    framework: str
    converter: str
    held_sha256: str = ""
    note: str = ""

    def write(self, folder: Path) -> None:
        """Write the report into the folder of a compiled model."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def hash_ir(folder: Path) -> str:
    """Return the SHA-256 of the IR in a folder: of `model.xml` and `model.bin`, as one stream."""
    return hash_files(folder / IR_FILE, folder / WEIGHTS_FILE)


def read_ir(folder: Path, ir_sha256: str = "") -> tuple[bytes, bytes]:
    """Return the content of `model.xml` and `model.bin`; with `ir_sha256`, only the one that has it.

    Raises `CompiledModelError` if a file cannot be read, or was changed since its report was.
    """
    try:
        program, weights = read_plain(folder / IR_FILE), read_plain(folder / WEIGHTS_FILE)
    except OSError as error:
        raise CompiledModelError(f"the compiled model cannot be read: {error.strerror}") from error
    if ir_sha256:
        digest = hashlib.sha256(program)
        digest.update(weights)
        if digest.hexdigest() != ir_sha256:
            raise CompiledModelError("the compiled model was changed since its report was read; it is being read again")
    return program, weights


def read_report(model_folder: Path, manifest: ModelManifest, compiled: str = COMPILED_FOLDER) -> CompileReport:
    """Read the report in the folder `compiled` of a version, and check that it speaks of these very files.

    Raises:
        CompiledModelError: nothing is compiled, or it was made from another artifact or manifest, was changed since,
            or strays further from the framework than allowed.
    """
    folder = model_folder / compiled
    try:
        report = CompileReport(**json.loads(read_plain_text(folder / REPORT_FILE)))
        allowed, seen = min(float(report.tolerance), TOLERANCE), float(report.max_probability_difference)
        ir_sha256 = hash_ir(folder)
    except FileNotFoundError:
        raise CompiledModelError("the model is not compiled") from None
    except (OSError, ValueError, TypeError) as error:
        raise CompiledModelError(f"the compiled model cannot be read: {error}") from error
    if report.artifact_sha256 != manifest.artifact.sha256:
        raise CompiledModelError("the compiled model was made from another artifact")
    if report.graph_sha256 != manifest.graph_sha256:
        raise CompiledModelError("the compiled model was made for another [input] or [output] of the manifest")
    if report.ir_sha256 != ir_sha256:
        raise CompiledModelError("the compiled model was changed after it was made")
    if not seen <= allowed:
        raise CompiledModelError(
            f"the compiled model's probabilities differ from the framework's by {seen}, more than {TOLERANCE}"
        )
    return report
