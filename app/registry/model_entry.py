"""What is known of one model version in this worker."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from app.config.settings import Settings
from app.engines.compiled.compile_report import CompileReport
from app.engines.compiled.int8_report import Int8Report
from app.errors import ModelFolderError
from app.handlers.client.explainer import Explainer
from app.handlers.client.handler_model import HandlerModel
from app.handlers.handler_archive import TORCHSERVE_LIMITS, HandlerArchive, PoolLimits
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import BatchSpec
from app.pipeline.served_model import ServedModel
from app.repository.model_folder import ModelFolder
from app.state.wanted import Key, WantedVersion


class State(StrEnum):
    """The state of a model version in this worker."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True)
class ModelEntry:
    """What the registry knows of one model version; replaced as a whole when anything changes.

    Attributes:
        reason: why it does not answer, or how far its loading is; of a ready one, that it is not in memory yet,
            that its files were changed, or why it could not be scaled.
        manifest: None if it cannot be read.
        engine: name of the engine in use; None until one is chosen.
        report: of the compiled model in use, or that the INT8 model in use was made from.
        int8: of the INT8 model in use; None where float32 serves.
        served: the model itself, in state READY only.
        load_s: seconds that loading took; None while it is not loaded.
        archive: of a model archive, which has no `model.toml`.
        handler: its program, instead of `manifest` and `served`, where it is not compiled.
        obstacle: why it is not compiled.
        explainer: of a compiled archive, what explains its answers.
        content: SHA-256 of what was loaded, by name in the folder: files, the artifact, the IR of a compiled folder.
    """

    folder: ModelFolder
    wanted: WantedVersion
    state: State
    reason: str = ""
    manifest: ModelManifest | None = None
    engine: str | None = None
    report: CompileReport | None = None
    int8: Int8Report | None = None
    served: ServedModel | None = None
    load_s: float | None = None
    archive: HandlerArchive | None = None
    handler: HandlerModel | None = None
    obstacle: str = ""
    explainer: Explainer | None = None
    content: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.wanted.key

    @property
    def holds(self) -> ServedModel | HandlerModel | None:
        """What answers: a served model, or the handler of an archive."""
        return self.served or self.handler

    @property
    def framework(self) -> str | None:
        """The framework of its artifact; None for an archive, which has none that stands apart."""
        return self.manifest.framework if self.manifest is not None and self.archive is None else None

    @cached_property
    def content_digest(self) -> str:
        """See `digest`; every poll asks for it."""
        return digest(self.content)

    @property
    def is_in_memory(self) -> bool:
        """Whether it has been loaded: a READY one may be waiting for its first request."""
        return self.handler is not None or (self.served is not None and self.load_s is not None)


def digest(content: Mapping[str, str]) -> str:
    """Return a short text that two contents have in common only if they are the same; see `ModelEntry.content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def find_limits(entry: ModelEntry, settings: Settings) -> PoolLimits:
    """Find workers, batches and times: the running archive's, else the registration's, manifest's or settings'."""
    if entry.archive is not None:
        return entry.archive.limits
    wanted = entry.wanted
    if entry.folder.is_archive:
        limits = PoolLimits(response_timeout_s=settings.response_timeout_s)
        with suppress(ModelFolderError):  # an archive that cannot be read has the settings' limits
            limits = entry.folder.read_archive(limits).limits
        return replace(limits, **wanted.list_pool_limits())  # type: ignore[arg-type]  # by name
    batch = wanted.choose_batch(entry.manifest) if entry.manifest else BatchSpec(1, 0.0)
    return PoolLimits(
        wanted.min_workers,
        wanted.max_workers,
        batch.max_size,
        round(batch.max_delay_ms),
        wanted.response_timeout_s or settings.response_timeout_s,
        wanted.startup_timeout_s or TORCHSERVE_LIMITS.startup_timeout_s,
        settings.queue_size,
    )
