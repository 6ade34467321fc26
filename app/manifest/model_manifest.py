"""Reads `model.toml` into a typed and checked `ModelManifest`; `models/README.md` explains every key."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from app.errors import ManifestError
from app.manifest import bounds
from app.manifest.calibration import parse_calibration
from app.manifest.fit_spec import LOOKS, FitSpec, parse_fit
from app.manifest.model_specs import FRAMEWORKS, Artifact, BatchSpec, InputSpec, OutputSpec
from app.manifest.reference_spec import ReferenceSpec, parse_reference
from app.manifest.toml_table import Table, TextRule
from app.processes.plain_files import read_plain_text

MANIFEST_FILE = "model.toml"
MODEL_NAME_PATTERN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,31}")
FILE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")
NAME_RULE = TextRule(
    MODEL_NAME_PATTERN,
    'two or more words of small letters and digits, joined by dashes, such as "lesions-classification"',
)
VERSION_RULE = TextRule(
    VERSION_PATTERN,
    'at most 32 letters, digits, dots, dashes and underscores, a letter or digit first, such as "1.0"',
)
FILE_RULE = TextRule(
    FILE_PATTERN, 'a file name of letters, digits, dots, dashes and underscores, without a folder, such as "model.onnx"'
)
SHA256_RULE = TextRule(
    SHA256_PATTERN,
    "64 digits and letters from a to f, as sha256sum prints them; models add fills it in if it is left out",
)
TABLES = {
    "artifact": ("file", "sha256", "architecture"),
    "input": (
        *("width_px", "height_px", "resize", "mean", "std"),
        *("um_per_px", "jpeg_min_scale", "colour", "channel_order"),
    ),
    "output": ("classes", "activation", "scores", "positive_class", "threshold", "threshold_source"),
    "batch": ("max_size", "max_delay_ms"),
    "calibration": ("temperature", "offsets", "coverage", "possible_from"),
    "fit": ("least_side_px", "longest_shape", *LOOKS),
    "reference": ("scores", "distances"),
}
PLACES = {key: f"[{table}]" for table, keys in TABLES.items() for key in keys}
"""In which table each key belongs."""
UNKNOWN_LICENCE, INTENDED_USE = "not stated", "Research use only. Not for diagnosis."
MAX_NAME_LENGTH, MAX_MANIFEST_BYTES = 63, 64 * 1024  # such a name fits a metric's label and a path
HELD_RULES = 1
"""Version of the rules by which a manifest is held against its network."""


@dataclass(frozen=True)
class Metric:
    """A measured quality, its 95 % interval from `low` to `high`, and the number `n` of pictures measured."""

    value: float
    low: float
    high: float
    n: int
    data: str

    def to_json(self) -> dict[str, Any]:
        """Return the figure for an answer; `data` is said beside it."""
        return {"value": self.value, "interval_95": [self.low, self.high], "n": self.n}


@dataclass(frozen=True)
class ModelManifest:
    """One version of one model, as its folder describes it."""

    name: str
    version: str
    title: str
    description: str
    framework: str
    engine: str
    licence: str
    intended_use: str
    artifact: Artifact
    input: InputSpec
    output: OutputSpec
    metrics: Mapping[str, Metric]
    batch: BatchSpec = BatchSpec()
    fit: FitSpec | None = None
    reference: ReferenceSpec | None = None

    @cached_property
    def operating_point(self) -> dict[str, Any] | None:
        """How often the decision at the threshold is right, for answers; None without such figures."""
        sensitivity, specificity = (self.metrics.get(name) for name in ("sensitivity", "specificity"))
        if sensitivity is None or specificity is None or self.output.threshold is None:
            return None
        if sensitivity.data != specificity.data:
            return None
        return {
            "rule": self.output.threshold_source,
            "data": sensitivity.data,
            "sensitivity": sensitivity.to_json(),
            "specificity": specificity.to_json(),
        }

    @property
    def tells_distance(self) -> bool:
        """Whether the engine adds a picture's distance to the training pictures to its scores."""
        return self.fit is not None and self.engine == "compiled"

    @property
    def is_program(self) -> bool:
        """Whether loading the artifact can run code, or read and write files."""
        return FRAMEWORKS[self.framework].is_program

    @property
    def graph_sha256(self) -> str:
        """SHA-256 of everything besides the artifact that decides the compiled model's numbers."""
        unhashed = {"jpeg_min_scale", "short_side_px", "is_turned"}  # newer than the hashes, and no part of the network
        graph_input = {name: value for name, value in self._describe_input().items() if name not in unhashed}
        parts: dict[str, Any] = {"framework": self.framework, "architecture": self.artifact.architecture}
        parts |= {"input": graph_input, "outputs": self.output.outputs}
        if self.output.scores != "logits":  # models older than this choice keep their hash
            parts |= {"scores": self.output.scores}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def network_sha256(self) -> str:
        """SHA-256 of the artifact's and of `graph_sha256`: another network has another one."""
        return hashlib.sha256(f"{self.artifact.sha256} {self.graph_sha256}".encode()).hexdigest()

    @cached_property
    def network_digest(self) -> bytes:
        """8 bytes that tell this network and its classes from earlier ones of the same name and version."""
        return hashlib.sha256(repr((self.network_sha256, self.output.classes)).encode()).digest()[:8]

    def _describe_input(self) -> dict[str, Any]:
        """Return the input for a hash; models older than the choice of an order keep theirs."""
        return {name: value for name, value in asdict(self.input).items() if (name, value) != ("channel_order", "RGB")}

    @property
    def held_sha256(self) -> str:
        """SHA-256 of everything that is held against the network; under another one it is to be held again."""
        output = {name: value for name, value in asdict(self.output).items() if name != "calibration"}
        parts = (HELD_RULES, self.framework, asdict(self.artifact), self._describe_input(), output)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> ModelManifest:
    """Read and check `model.toml` of the model folder `<name>/<version>`; raises `ManifestError`."""
    manifest = parse_manifest(read_document(folder / MANIFEST_FILE))
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise ManifestError(
            f"{MANIFEST_FILE} is of {manifest.name}/{manifest.version}, but its folder is "
            f"{folder.parent.name}/{folder.name}"
        )
    return manifest


def read_document(path: Path) -> dict[str, Any]:
    """Read a manifest's TOML and check nothing else; raises `ManifestError` if that fails."""
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{MANIFEST_FILE} is larger than {MAX_MANIFEST_BYTES} bytes")
        return tomllib.loads(read_plain_text(path))
    except FileNotFoundError:
        raise ManifestError(f"{MANIFEST_FILE} is missing") from None
    except OSError as error:
        raise ManifestError(f"{MANIFEST_FILE} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOML's own errors, other encodings, numbers of over 4,300 digits
        raise ManifestError(f"{MANIFEST_FILE} is not TOML: {error}") from error


def parse_manifest(document: Mapping[str, Any]) -> ModelManifest:
    """Turn the parsed TOML into a manifest, or raise `ManifestError`."""
    table = Table(document, f"{MANIFEST_FILE}: ", PLACES)
    framework = table.choice("framework", *FRAMEWORKS)
    name: str = table.text("name", NAME_RULE)
    if len(name) > MAX_NAME_LENGTH:
        raise table.fail("name", f"must have at most {MAX_NAME_LENGTH} characters")
    engine = table.choice("engine", "compiled", "native", default="compiled")
    if engine == "native" and FRAMEWORKS[framework].is_program:
        raise table.fail("engine", f"must be compiled for {framework}: a program is loaded only to compile it")
    tables = {key: table.table(key) for key in ("artifact", "input", "output")}
    tables |= {key: table.table(key, {}) for key in ("metrics", "batch", "calibration", "fit", "reference")}
    version: str = table.text("version", VERSION_RULE)
    title: str = table.text("title", default=name)
    description: str = table.text("description", default="")
    licence: str = table.text("licence", default=UNKNOWN_LICENCE)
    intended_use: str = table.text("intended_use", default=INTENDED_USE)
    table.end()
    output = parse_output(tables["output"])
    if "calibration" in document:
        output = replace(output, calibration=parse_calibration(tables["calibration"], output.classes))
    return ModelManifest(
        name=name,
        version=version,
        title=title,
        description=description,
        framework=framework,
        engine=engine,
        licence=licence,
        intended_use=intended_use,
        artifact=parse_artifact(tables["artifact"], framework),
        input=parse_input(tables["input"]),
        output=output,
        metrics=parse_metrics(tables["metrics"]),
        batch=parse_batch(tables["batch"]),
        fit=parse_fit(tables["fit"]) if "fit" in document else None,
        reference=parse_reference(tables["reference"]) if "reference" in document else None,
    )


def parse_artifact(table: Table, framework: str) -> Artifact:
    """Read `[artifact]`; raises `ManifestError` if it breaks a rule."""
    file = table.text("file", FILE_RULE)
    suffixes = FRAMEWORKS[framework].suffixes
    if not file.endswith(suffixes):
        rule = f"must end in {' or '.join(suffixes)} for {framework}"
        raise table.fail("file", f'{rule}; it is "{file}"; the file that you add gets this name, whatever its own is')
    architecture = table.text("architecture") if framework == "torch" else None
    artifact = Artifact(file, table.text("sha256", SHA256_RULE), architecture)
    table.end()
    return artifact


def parse_input(table: Table) -> InputSpec:
    """Read `[input]`."""
    spec = InputSpec(
        width_px=table.whole("width_px", bounds.SIDE_PX),
        height_px=table.whole("height_px", bounds.SIDE_PX),
        resize=table.choice("resize", "nearest", "bilinear", "bicubic", "lanczos"),
        mean=read_channels(table, "mean", bounds.SAMPLE),
        std=read_channels(table, "std", bounds.STD),
        um_per_px=table.number("um_per_px", bounds.UM_PER_PX, default=None),
        jpeg_min_scale=table.number("jpeg_min_scale", bounds.JPEG_MIN_SCALE, default=None),
        channel_order=table.choice("channel_order", "RGB", "BGR", default="RGB"),
    )
    table.choice("colour", "RGB", default="RGB")
    table.end()
    return spec


def read_channels(table: Table, key: str, bound: bounds.Bound) -> tuple[float, float, float]:
    """Read three numbers, one a channel."""
    red, green, blue = table.numbers(key, bound, 3)
    return red, green, blue


def parse_batch(table: Table) -> BatchSpec:
    """Read `[batch]`; every key has a default."""
    spec = BatchSpec(
        table.whole("max_size", bounds.BATCH_SIZE, default=BatchSpec.max_size),
        table.number("max_delay_ms", bounds.BATCH_DELAY_MS, default=BatchSpec.max_delay_ms),
    )
    table.end()
    return spec


def parse_output(table: Table) -> OutputSpec:
    """Read `[output]`; two classes need a threshold and its source."""
    classes = table.texts("classes")
    if len(classes) < 2:
        raise table.fail("classes", "must be at least two")
    activation = table.choice("activation", "softmax", "sigmoid")
    scores = table.choice("scores", "logits", "probabilities", default="logits")
    positive = table.text("positive_class", default=None)
    threshold = table.number("threshold", bounds.SHARE, default=None)
    source = table.text("threshold_source", default=None)
    table.end()  # before the keys are held against each other: a misspelt one is no missing one
    if activation == "sigmoid" and (len(classes) != 2 or positive != classes[1]):
        raise table.fail("activation", "sigmoid needs two classes, the positive one last, as positive_class names it")
    if len(classes) == 2 and None in (positive, threshold, source):
        given = {"positive_class": positive, "threshold": threshold, "threshold_source": source}
        missing = " and ".join(key for key, value in given.items() if value is None)
        raise table.fail("classes", f"of two need positive_class, threshold and threshold_source; add {missing}")
    if len(classes) > 2 and (positive, threshold, source) != (None, None, None):
        raise table.fail("threshold", "has a meaning for two classes only")
    if positive is not None and positive not in classes:
        raise table.fail("positive_class", "must be one of classes")
    return OutputSpec(classes, activation, positive, threshold, source, scores=scores)


def parse_metrics(table: Table) -> dict[str, Metric]:
    """Read `[metrics.*]`."""
    metrics = {}
    for name in table.names():
        entry = table.table(name)
        value, low, high = (entry.number(key, bounds.SHARE) for key in ("value", "low", "high"))
        if not low <= value <= high:
            raise entry.fail("value", "must be from low to high")
        metrics[name] = Metric(value, low, high, entry.whole("n", bounds.COUNT), entry.text("data"))
        entry.end()
    return metrics
