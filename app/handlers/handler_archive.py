"""Reads an unpacked model archive: `MAR-INF/MANIFEST.json` and the configuration that it names."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from app.config.setting_types import ENVELOPES, NO_ENVELOPE
from app.errors import ManifestError
from app.manifest.bounds import POOL_BOUNDS, read_whole
from app.processes.plain_files import read_plain_text

MANIFEST_PATH = Path("MAR-INF/MANIFEST.json")
ARCHIVE_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""What TorchServe's archiver takes as a model's name."""
HANDLER_PATTERN = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}/){0,8}([A-Za-z_][A-Za-z0-9_]{0,249})(?:\.py)?(?::([A-Za-z_][A-Za-z0-9_]{0,127}))?"
)
"""The folders of a path are passed over, as in TorchServe: all files of an archive lie at its top."""
HANDLER_RULE = "NAME, NAME.py or NAME.py:FUNCTION"
FILE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
"""Longer names are no files: the system would refuse to look them up."""
MAX_FILE_BYTES = 1024 * 1024
MAX_YAML_NODES, MAX_YAML_BRACKETS = 10_000, 1_000
LIMIT_KEYS = {  # by field of `PoolLimits`: the key in `model-config.yaml`
    "min_workers": "minWorkers",
    "max_workers": "maxWorkers",
    "batch_size": "batchSize",
    "max_batch_delay_ms": "maxBatchDelay",
    "response_timeout_s": "responseTimeout",
    "startup_timeout_s": "startupTimeout",
    "queue_size": "jobQueueSize",
}


@dataclass(frozen=True)
class PoolLimits:
    """The processes of a handler, and how requests are batched; names and defaults are TorchServe's.

    A process gets at most `batch_size` requests together. It is ended if it takes longer than `startup_timeout_s` to
    load the model, or than `response_timeout_s` for a batch. When `queue_size` requests wait, one more is refused.
    """

    min_workers: int = 1
    max_workers: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    response_timeout_s: float = 120
    startup_timeout_s: float = 120
    queue_size: int = 100

    def check(self) -> None:
        """Raise `OutOfBoundsError` if a number is out of its bounds."""
        for name, bound in POOL_BOUNDS.items():
            read_whole(name, getattr(self, name), bound)


TORCHSERVE_LIMITS = PoolLimits()


@dataclass(frozen=True)
class HandlerArchive:
    """An unpacked archive, ready to be run.

    Attributes:
        name, version: the registry's, which may differ from the archive's own.
        manifest, config: content of `MAR-INF/MANIFEST.json` and `model-config.yaml`, which handlers read.
        module: name of the handler's module, without `.py`.
        function: name of the module's entry function; `handle` if the archive names none.
        identity: differs between two archives that lie, one after the other, in one place.
        envelope: one of `ENVELOPES`.
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
        """The manager's key of its pool: other files in the same place are another archive, with another pool."""
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
    """Whether a folder is an unpacked archive; one that cannot be looked at is none."""
    with suppress(OSError):
        return (folder / MANIFEST_PATH).is_file()
    return False


def read_archive(folder: Path, name: str, version: str, default: PoolLimits = TORCHSERVE_LIMITS) -> HandlerArchive:
    """Read an unpacked archive; `default` holds where it sets no limits. Raises `ManifestError` if it is malformed."""
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
        raise ManifestError(f"{MANIFEST_PATH}: handler must be {HANDLER_RULE}")
    for key in ("serializedFile", "modelFile", "requirementsFile", "configFile"):
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


def change_handler(folder: Path, handler: str) -> None:
    """Name another handler in the manifest of an unpacked archive; raises `ManifestError` if it cannot be read."""
    path = folder / MANIFEST_PATH
    manifest = read_json(path)
    model = manifest.get("model")
    if isinstance(model, dict):  # else `read_archive` says what is wrong
        path.write_text(json.dumps(manifest | {"model": model | {"handler": handler}}, indent=2), encoding="utf-8")


def identify(path: Path) -> str:
    """Return a text that differs between two files of one name; raises `ManifestError` if the file is gone."""
    try:
        status = path.stat()
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from error
    return f"{status.st_ino}"


def read_text(path: Path) -> str:
    """Read a small text file; raises `ManifestError`."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
        return read_plain_text(path)
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
    """Read the limits in `model-config.yaml`; `default` fills what it leaves out. Raises `OutOfBoundsError`."""
    given = {
        field: read_whole(f"model-config.yaml: {key}", config[key], POOL_BOUNDS[field])
        for field, key in LIMIT_KEYS.items()
        if key in config
    }
    given["max_workers"] = max(given.get("min_workers", default.min_workers), given.get("max_workers", 1))
    return replace(default, **given)
