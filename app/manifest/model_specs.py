"""A model as its manifest describes it: its artifact, its input, its batches, and the meaning of its output."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from app.config.settings import DEFAULT_BATCH_SIZE
from app.manifest.bounds import BATCH_DELAY_MS, BATCH_SIZE, read_number, read_whole
from app.manifest.calibration import Calibration


@dataclass(frozen=True)
class Framework:
    """The artifacts of a framework.

    Attributes:
        formats: suffixes that an artifact's name may have; by suffix the format of its content, a name of
            `app.exchange.model_format.ModelFormat`.
        package: what must be installed to load an artifact.
        is_program: whether loading the artifact can run code, or read and write files; only a trusted one is loaded.
        companions: suffixes of a second file that an artifact may have, after the artifact's whole name.
    """

    formats: Mapping[str, str]
    package: str
    is_program: bool = False
    companions: tuple[str, ...] = ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of artifacts."""
        return tuple(self.formats)


STATE_DICTS = {".safetensors": "SAFETENSORS", **dict.fromkeys((".pt", ".pth", ".ckpt"), "STATE_DICT")}
TORCHSCRIPTS = dict.fromkeys((".pt", ".pth", ".torchscript"), "TORCHSCRIPT")
FRAMEWORKS = {
    "torch": Framework(STATE_DICTS, "torch"),
    "keras": Framework({".keras": "KERAS", ".h5": "HDF5"}, "tensorflow"),
    "torchscript": Framework(TORCHSCRIPTS, "torch", is_program=True),
    "torch_export": Framework({".pt2": "PT2"}, "torch", is_program=True),
    "onnx": Framework({".onnx": "ONNX"}, "onnxruntime", is_program=True, companions=(".data", "_data")),
    "saved_model": Framework({".savedmodel": "SAVED_MODEL"}, "tensorflow", is_program=True),
}
"""By the word in `framework = "…"` of `model.toml`.

A new one needs besides: its engine, a `ReferenceEngine`, in `app.engines.base.ENGINES`; a member of `ModelFormat` and
the row in `app.exchange.model_format` that recognizes its files; its package in the requirements; its word in
`api/openapi.json` and `models/README.md`; and a model in `tests/engines/programs.py`.
"""


@dataclass(frozen=True)
class Artifact:
    """The file of the model itself.

    Attributes:
        file: its name in the model folder; for a SavedModel the name of a folder.
        sha256: as `app.repository.model_content.hash_artifact` computes it.
        architecture: the PyTorch network that the weights belong to; None for an artifact that holds its network.
    """

    file: str
    sha256: str
    architecture: str | None


@dataclass(frozen=True)
class InputSpec:
    """The network's input.

    Attributes:
        width_px, height_px: every picture is resized to this size.
        resize: Pillow filter for it; the one of the training, since it changes the scores.
        mean, std: per channel, in `channel_order`, on the scale 0 to 255; the network sees (pixel - mean) / std.
        um_per_px: micrometres a pixel of the training pictures; None where that has no meaning.
        jpeg_min_scale: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size if the result is at least this many times
            the network's size; None: never.
        short_side_px: the picture's shorter side is resized to this length and the middle is cut out; None: the whole
            picture is squeezed to the network's size.
        is_turned: whether EXIF's orientation and the colour profile are applied.
        channel_order: the order of the channels that the network sees, `RGB` or `BGR`.
    """

    width_px: int
    height_px: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    um_per_px: float | None
    jpeg_min_scale: float | None = None
    short_side_px: int | None = None
    is_turned: bool = True
    channel_order: str = "RGB"

    @property
    def jpeg_min_size(self) -> tuple[int, int] | None:
        """Least width and height of a JPEG that is decoded smaller than it is; None: JPEGs are decoded at full size."""
        if self.jpeg_min_scale is None:
            return None
        return math.ceil(self.width_px * self.jpeg_min_scale), math.ceil(self.height_px * self.jpeg_min_scale)


@dataclass(frozen=True)
class BatchSpec:
    """How pictures that arrive together are inferred together.

    Attributes:
        max_size: most pictures in a batch.
        max_delay_ms: how long a batch waits for more pictures under load; a lone caller's picture never waits.

    Raises `OutOfBoundsError`, so that no batch of billions can be made in any way.
    """

    max_size: int = DEFAULT_BATCH_SIZE
    max_delay_ms: float = 5.0

    def __post_init__(self) -> None:
        read_whole("max_size", self.max_size, BATCH_SIZE)
        read_number("max_delay_ms", self.max_delay_ms, BATCH_DELAY_MS)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that an engine sees, from large to small: all up to 8, then multiples of 8, and the largest.

        With 1, 2, 4 and 8 alone, eight connections took 13 % more of the processor.
        """
        large = {self.max_size, *range(8, self.max_size, 8)} - set(range(8))
        return (*sorted(large, reverse=True), *range(min(self.max_size, 7), 0, -1))


@dataclass(frozen=True)
class OutputSpec:
    """The meaning of the network's output.

    Attributes:
        classes: in output order.
        activation: `softmax` over one output a class, or `sigmoid` of a single output.
        scores: `logits` if the activation is still to be applied, `probabilities` if the network applies it.
        positive_class: the class that the threshold decides for; None for models of more than two classes.
        threshold: smallest probability of the positive class that is called positive.
        threshold_source: where the operating point comes from.
        labels: names of an archive's classes in its answers, where two may be alike; None for other models.
        calibration: corrects the probabilities, and says which classes are possible; None: nothing was fitted.
    """

    classes: tuple[str, ...]
    activation: str
    positive_class: str | None
    threshold: float | None
    threshold_source: str | None
    scores: str = "logits"
    labels: tuple[str, ...] | None = None
    calibration: Calibration | None = None

    @property
    def outputs(self) -> int:
        """Count of numbers that the network returns for one picture."""
        return 1 if self.activation == "sigmoid" else len(self.classes)

    def explain_count(self, found: int) -> str:
        """Say how many outputs the network has, how many this describes, and what to change in `[output]`."""
        count = len(self.classes)
        if found == 1:
            change = 'say activation = "sigmoid" in [output], and name two classes, the positive one last'
        elif self.activation == "sigmoid" and found == count:
            change = 'say activation = "softmax" in [output]'
        else:
            change = f"name {found} classes in [output], in the order of the outputs"
            change += ', and say activation = "softmax"' if self.activation == "sigmoid" else ""
        return (
            f"the network returns {found} score{'s' * (found > 1)} for each picture, and the manifest wants "
            f'{self.outputs}, for activation = "{self.activation}" and {count} classes; {change}'
        )
