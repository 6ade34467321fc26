"""The INT8 model's report: what it was made from, how it compares with float32, and whether it may be served."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from app.engines.compiled.compile_report import REPORT_FILE, CompileReport, hash_ir
from app.errors import CompiledModelError
from app.manifest.model_manifest import ModelManifest
from app.processes.plain_files import read_plain_text

INT8_FOLDER = "compiled_int8"
"""Beside `compiled/`, which a new compilation replaces as a whole."""
MAX_AUC_DROP = 0.002
MIN_MEASURED_PICTURES = 100
"""Of each class. With fewer, an interval of the drop can be narrow by chance, and is of width 0 where no rank moved."""
MIN_AUC = 0.6
"""Below it the pictures are not this model's, or their classes are mixed up, and a drop means nothing."""


@dataclass(frozen=True)
class Int8Report:
    """How an INT8 model was made, and what it loses.

    Attributes:
        artifact_sha256, graph_sha256: of the model, as in `CompileReport`.
        classes: the manifest's, in the order that the pictures' labels were understood in.
        f32_ir_sha256: of the compiled model that was quantized and compared.
        ir_sha256: of `model.xml` and `model.bin`, in this order, as one stream.
        quantizer: name and version.
        calibration_pictures: how many the ranges were measured on; none of them is in the figures below.
        measured_pictures: how many of each class the figures below rest on.
        auc_f32, auc_int8: of the positive class, or the mean over the classes where there are more than two.
        auc_drop: the first less the second.
        auc_drop_low, auc_drop_high: its 95 % interval.
        decisions_changed: how many pictures are given another class.
        ms_f32, ms_int8: median milliseconds of inference a picture on one core, a few pictures each in turn.
    """

    artifact_sha256: str
    graph_sha256: str
    classes: list[str]
    f32_ir_sha256: str
    ir_sha256: str
    quantizer: str
    calibration_pictures: int
    measured_pictures: dict[str, int]
    auc_f32: float
    auc_int8: float
    auc_drop: float
    auc_drop_low: float
    auc_drop_high: float
    max_probability_change: float
    decisions_changed: int
    ms_f32: float
    ms_int8: float

    @property
    def refusal(self) -> str:
        """Why the model must not be served; empty if it may."""
        fewest = min(self.measured_pictures, key=self.measured_pictures.__getitem__)
        if self.measured_pictures[fewest] < MIN_MEASURED_PICTURES:
            return (
                f"the folder is too small to tell: after calibration {self.measured_pictures[fewest]} pictures of "
                f"{fewest} are left to measure, and {MIN_MEASURED_PICTURES} of each class are needed"
            )
        if not self.auc_f32 >= MIN_AUC:
            return f"the AUC in float32 is only {self.auc_f32:.3f}: are these the right pictures, in the right folders?"
        if not self.auc_drop <= MAX_AUC_DROP:
            return f"the AUC drops by {self.auc_drop:.4f}, and at most {MAX_AUC_DROP} is allowed"
        if not self.auc_drop_high <= MAX_AUC_DROP:
            return (
                f"the folder is too small to tell: the AUC may drop by {self.auc_drop_high:.4f} (upper end of the 95 % "
                f"interval), and at most {MAX_AUC_DROP} is allowed; more pictures make the interval narrower"
            )
        return ""

    def write(self, folder: Path) -> None:
        """Write the report into the folder of an INT8 model, with the verdict for people to read."""
        document = asdict(self) | {"accepted": not self.refusal, "reason": self.refusal}
        (folder / REPORT_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_int8_report(model_folder: Path, manifest: ModelManifest, f32: CompileReport) -> Int8Report:
    """Read the report of a version's INT8 model, and check that it speaks of these very files.

    Whether the INT8 model may be served is another question: see `refusal`, which is worked out anew from the figures.
    `f32` is the valid report of the compiled model.

    Raises:
        CompiledModelError: there is none, it was made from other files than these, or it was changed since.
    """
    folder = model_folder / INT8_FOLDER
    try:
        document = json.loads(read_plain_text(folder / REPORT_FILE))
        for verdict in ("accepted", "reason"):
            del document[verdict]
        report = Int8Report(**document)
        _ = report.refusal  # raises where a figure is not a number
        ir_sha256 = hash_ir(folder)
    except FileNotFoundError:
        raise CompiledModelError("there is no INT8 model") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CompiledModelError(f"the INT8 model cannot be read: {error}") from error
    if report.artifact_sha256 != manifest.artifact.sha256:
        raise CompiledModelError("the INT8 model was made from another artifact")
    if report.graph_sha256 != manifest.graph_sha256 or report.classes != list(manifest.output.classes):
        raise CompiledModelError("the INT8 model was made for another [input] or [output] of the manifest")
    if report.f32_ir_sha256 != f32.ir_sha256:
        raise CompiledModelError("the INT8 model was made from another compiled model")
    if report.ir_sha256 != ir_sha256:
        raise CompiledModelError("the INT8 model was changed after it was made")
    return report
