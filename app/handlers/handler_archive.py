"""Reads an unpacked model archive: `MAR-INF/MANIFEST.json` and the configuration that it names."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.config.setting_types import ENVELOPES, NO_ENVELOPE
from app.errors import ManifestError

MANIFEST_PATH = Path("MAR-INF/MANIFEST.json")
ARCHIVE_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""What TorchServe's archiver takes as a model's name."""
HANDLER_PATTERN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\.py)?(?::([A-Za-z_][A-Za-z0-9_]*))?")
FILE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MAX_FILE_BYTES = 1024 * 1024
MAX_YAML_NODES, MAX_YAML_BRACKETS = 10_000, 1_000
MAX_WORKERS, MAX_BATCH_SIZE, MAX_SECONDS = 256, 1024, 86_400
FILE_KEYS = ("serializedFile", "modelFile", "requirementsFile", "configFile")


@dataclass(frozen=True)
class PoolLimits:
    """How many processes run a handler, and how requests are batched; names and defaults are TorchServe's.

    Attributes:
        min_workers, max_workers: there are never fewer, nor more, processes than these.
        batch_size: most requests that are handed over together.
        max_batch_delay_ms: how long a batch waits to be full.
        response_timeout_s: a process that takes longer for a batch is ended.
        startup_timeout_s: the same for loading the model.
        queue_size: requests that may wait; one more is turned away.
    """

    min_workers: int = 1
    max_workers: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    response_timeout_s: float = 120
    startup_timeout_s: float = 120
    queue_size: int = 100


TORCHSERVE_LIMITS = PoolLimits()


@dataclass(frozen=True)
class HandlerArchive:
    """An unpacked archive, ready to be run.

    Attributes:
        path: the folder.
        name, version: the model's, as the registry calls it.
        manifest: the document itself, which handlers read.
        module: name of the handler's module, without `.py`.
        function: name of its entry function, if it has that form.
        config: content of `model-config.yaml`, which handlers read.
        limits: what that says of processes and batches.
        identity: tells it from another archive that had, or has, its place.
        envelope: of `ENVELOPES`.
    """

    path: Path
    name: str
    version: str
    manifest: Mapping[str, Any]
    module: str
    function: str
    config: Mapping[str, Any]
    limits: PoolLimits
    identity: str = ""
    envelope: str = NO_ENVELOPE

    @property
    def key(self) -> str:
        """What the manager knows it by: other files in the same place are another archive, with a pool of its own."""
        return f"{self.path} {self.identity} {self.envelope}"

    @property
    def has_envelope(self) -> bool:
        """Whether requests reach the handler through an envelope."""
        return self.envelope != NO_ENVELOPE

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON document, for another process."""
        return asdict(self) | {"path": str(self.path)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "HandlerArchive":
        """Read what `to_json` wrote."""
        limits = PoolLimits(**document["limits"])
        return cls(**{**document, "path": Path(document["path"]), "limits": limits})


def is_archive(folder: Path) -> bool:
    """Whether a folder is an unpacked archive."""
    return (folder / MANIFEST_PATH).is_file()


def read_archive(folder: Path, name: str, version: str, default: PoolLimits = TORCHSERVE_LIMITS) -> HandlerArchive:
    """Read an unpacked archive.

    Args:
        folder: holds `MAR-INF/`.
        name: what the model is called here; the archive's own name may be another.
        version: the same of its version.
        default: limits of which the archive itself says nothing.

    Raises:
        ManifestError: it is malformed; the message says where.
    """
    manifest = read_json(folder / MANIFEST_PATH)
    model = manifest.get("model")
    if not isinstance(model, dict) or not model.get("modelName") or not model.get("modelVersion"):
        raise ManifestError(f"{MANIFEST_PATH} must name modelName and modelVersion in model")
    if not isinstance(model["modelName"], str):
        raise ManifestError(f"{MANIFEST_PATH}: modelName must be a text")
    if not str(manifest.get("runtime", "")).startswith("python"):
        raise ManifestError(f"{MANIFEST_PATH}: runtime must be python")
    found = HANDLER_PATTERN.fullmatch(str(model.get("handler", "")))
    if not found:
        raise ManifestError(f"{MANIFEST_PATH}: handler must be NAME, NAME.py or NAME.py:FUNCTION")
    for key in FILE_KEYS:
        file = model.get(key)
        if file and not (isinstance(file, str) and FILE_PATTERN.fullmatch(file) and (folder / file).exists()):
            raise ManifestError(f"{MANIFEST_PATH}: {key} must be the name of a file in the archive")
    envelope = model.get("envelope") or NO_ENVELOPE
    if envelope not in ENVELOPES:
        raise ManifestError(f"{MANIFEST_PATH}: envelope must be one of {', '.join(ENVELOPES)}")
    config = read_yaml(folder / model["configFile"]) if model.get("configFile") else {}
    module, function, limits = found[1], found[2] or "handle", read_limits(config, default)
    identity = identify(folder / MANIFEST_PATH)
    return HandlerArchive(
        folder.resolve(), name, version, manifest, module, function, config, limits, identity, envelope
    )


def identify(path: Path) -> str:
    """Return what tells a file from another one of its name; raises `ManifestError` if it is gone."""
    try:
        status = path.stat()
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from error
    return f"{status.st_ino} {status.st_mtime_ns}"


def read_text(path: Path) -> str:
    """Read a small text file; raises `ManifestError`."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ManifestError(f"{path.name} is not UTF-8") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `ManifestError`."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise ManifestError(f"{path.name} is not JSON") from None
    if not isinstance(document, dict):
        raise ManifestError(f"{path.name} must hold an object")
    return document


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values: no tags of Python, no aliases; raises `ManifestError`."""
    import yaml  # only archives need it

    text = read_text(path)
    if text.count("[") + text.count("{") > MAX_YAML_BRACKETS:  # each inner one is read through all outer ones
        raise ManifestError(f"{path.name} has over {MAX_YAML_BRACKETS} brackets")
    try:
        events = list(zip(range(MAX_YAML_NODES + 1), yaml.parse(text, yaml.SafeLoader), strict=False))
        if len(events) > MAX_YAML_NODES or any(isinstance(event, yaml.AliasEvent) for _, event in events):
            raise ManifestError(f"{path.name} has aliases, or over {MAX_YAML_NODES} parts")
        document = yaml.safe_load(text)
        json.dumps(document)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError):
        raise ManifestError(f"{path.name} is not YAML of plain values") from None
    if document is not None and not isinstance(document, dict):
        raise ManifestError(f"{path.name} must hold a mapping")
    return document or {}


def read_limits(config: Mapping[str, Any], default: PoolLimits) -> PoolLimits:
    """Read what `model-config.yaml` says of processes and batches; raises `ManifestError`."""

    def whole(key: str, low: int, high: int, fallback: float) -> int:
        value = config.get(key, fallback)
        if type(value) is not int or not low <= value <= high:
            raise ManifestError(f"model-config.yaml: {key} must be a whole number from {low} to {high}")
        return value

    least = whole("minWorkers", 0, MAX_WORKERS, default.min_workers)
    return PoolLimits(
        min_workers=least,
        max_workers=max(least, whole("maxWorkers", 0, MAX_WORKERS, max(least, 1))),
        batch_size=whole("batchSize", 1, MAX_BATCH_SIZE, default.batch_size),
        max_batch_delay_ms=whole("maxBatchDelay", 0, MAX_SECONDS * 1000, default.max_batch_delay_ms),
        response_timeout_s=whole("responseTimeout", 1, MAX_SECONDS, default.response_timeout_s),
        startup_timeout_s=whole("startupTimeout", 1, MAX_SECONDS, default.startup_timeout_s),
        queue_size=whole("jobQueueSize", 1, 1_000_000, default.queue_size),
    )
