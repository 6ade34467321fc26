"""The models in memory: which versions there are, in which state, and the served model of those that are ready."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from app.config import Settings
from app.engines.base import Engine
from app.engines.compile import require_framework
from app.engines.int8_report import INT8_FOLDER, Int8Report
from app.engines.lazy_engine import LazyEngine
from app.engines.openvino_engine import OpenVINOEngine
from app.engines.process_engine import ProcessEngine
from app.engines.report import COMPILED_FOLDER, CompileReport
from app.errors import (
    CompiledModelError,
    ModelFolderError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    ServiceUnavailableError,
)
from app.manifest import ModelManifest
from app.pipeline.decode import ImageLimits
from app.pipeline.served_model import ServedModel
from app.repository.compiler import compile_in_process
from app.repository.model_repository import ModelFolder, find_model_folders, order_version

log = logging.getLogger(__name__)


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
        folder: where it lies.
        state, reason: whether it answers, and if not, why; of a ready one, that it is not in memory yet.
        manifest: None if it cannot be read.
        engine: name of the engine in use; None until one is chosen.
        report: of the compiled model in use, or that the INT8 model in use was made from.
        int8: of the INT8 model in use; None where float32 serves.
        served: the model itself, in state READY only.
        load_s: seconds that loading took; None while it is not loaded.
    """

    folder: ModelFolder
    state: State
    reason: str = ""
    manifest: ModelManifest | None = None
    engine: str | None = None
    report: CompileReport | None = None
    int8: Int8Report | None = None
    served: ServedModel | None = None
    load_s: float | None = None


class ModelRegistry:
    """Loads every model folder and hands out the served models by name and version.

    A folder that cannot be served is kept with its reason; it never stops the others.

    Args:
        settings: folders, limits and engines.
        on_change: called with every new entry, e.g. to keep a metric.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, settings: Settings, on_change: Callable[[ModelEntry], None]) -> None:
        self._settings = settings
        self._on_change = on_change
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, ModelEntry]] = {}
        self._at_start: set[tuple[str, str]] = set()

    def load_all(self) -> None:
        """Load what is ready to load, then what must first be compiled or started, in a thread of its own."""
        try:
            folders = find_model_folders(self._settings.models)
        except ModelFolderError as error:
            log.error("no models", extra={"reason": error.message})
            return
        defaults = {folder.name: folder.version for folder in folders}  # of each name the last, which is the newest
        self._at_start = set(list(defaults.items())[: self._settings.loaded_at_start])
        slow = [folder for folder in folders if not self._load_at_once(folder)]
        if slow:
            threading.Thread(target=self._load_slowly, args=(slow,), name="load-models", daemon=True).start()

    def get(self, name: str, version: str | None = None) -> ModelEntry:
        """Return the entry of a version, or of the default version.

        Raises:
            ModelNotFoundError: no such model.
            ModelVersionNotFoundError: no such version of it.
        """
        versions = self._entries.get(name)
        if not versions:
            raise ModelNotFoundError(f"Model not found: {name}")
        if version is None:
            return versions[choose_default(versions)]
        if version not in versions:
            raise ModelVersionNotFoundError(f"Model version: {version} does not exist for model: {name}")
        return versions[version]

    def get_served(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model that is ready to answer.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: as `get`.
            ServiceUnavailableError: it is not ready; its reason stands in `/models/<name>`.
        """
        entry = self.get(name, version)
        if entry.served is None:
            raise ServiceUnavailableError(
                f'Model "{name}" is {entry.state} and cannot answer; see /models/{name}/{entry.folder.version}.'
            )
        return entry.served

    def entries(self) -> list[ModelEntry]:
        """Every version of every model, by name, versions from old to new."""
        return [entry for _, versions in sorted(self._entries.items()) for entry in sort_versions(versions)]

    def defaults(self) -> list[ModelEntry]:
        """The default version of every model, by name."""
        return [versions[choose_default(versions)] for _, versions in sorted(self._entries.items())]

    def versions(self, name: str) -> list[str]:
        """The versions of a model, from old to new; the last is the default."""
        return [entry.folder.version for entry in sort_versions(self._entries[name])]

    def is_known(self, name: str, version: str) -> bool:
        """Whether a version of a model is registered."""
        return version in self._entries.get(name, {})

    def close(self) -> None:
        """Let every engine go."""
        for entry in self.entries():
            if entry.served is not None:
                self._set(ModelEntry(entry.folder, State.UNLOADING, "the server stops", entry.manifest))
                entry.served.close()

    def _set(self, entry: ModelEntry) -> None:
        with self._lock:
            versions = {**self._entries.get(entry.folder.name, {}), entry.folder.version: entry}
            self._entries = {**self._entries, entry.folder.name: versions}
        self._on_change(entry)
        if entry.state is State.UNAVAILABLE:
            extra = {"model": entry.folder.name, "version": entry.folder.version, "reason": entry.reason}
            log.error("model unavailable", extra=extra)

    def _load_at_once(self, folder: ModelFolder) -> bool:
        """Load a compiled model; return False if the folder is sound but needs the slow way first."""
        manifest = None
        try:
            manifest = folder.read_manifest()
            folder.verify_artifact(manifest)
            if self._runs_natively(manifest):
                self._set(ModelEntry(folder, State.LOADING, f"{manifest.framework} is starting", manifest))
                return False
            self._serve_compiled(folder, manifest)
        except CompiledModelError as error:
            self._set(ModelEntry(folder, State.LOADING, f"{error.message}; compiling it now", manifest))
            return False
        except ModelFolderError as error:
            self._set(ModelEntry(folder, State.UNAVAILABLE, error.message, manifest))
        return True

    def _load_slowly(self, folders: list[ModelFolder]) -> None:
        """Compile, or start the framework, one folder after the other."""
        for folder in folders:
            manifest = None
            try:
                manifest = folder.read_manifest()
                require_framework(manifest)
                if self._runs_natively(manifest):
                    engine = ProcessEngine(folder.path, manifest, self._settings)
                    self._serve(ModelEntry(folder, State.READY, "", manifest, manifest.framework), manifest, engine)
                else:
                    compile_in_process(folder.path, self._settings, only_if_invalid=True)
                    self._serve_compiled(folder, manifest)
            except ModelFolderError as error:
                self._set(ModelEntry(folder, State.UNAVAILABLE, error.message, manifest))

    def _runs_natively(self, manifest: ModelManifest) -> bool:
        return self._settings.engine == "native" or manifest.engine == "native"

    def _serve_compiled(self, folder: ModelFolder, manifest: ModelManifest) -> None:
        report = folder.read_report(manifest)
        int8 = self._find_int8(folder, manifest, report)
        compiled = INT8_FOLDER if int8 else COMPILED_FOLDER
        engine: Engine = OpenVINOEngine(folder.path, manifest, self._settings.inference_threads, compiled)
        entry = ModelEntry(folder, State.READY, "", manifest, "openvino", report, int8)
        if (folder.name, folder.version) not in self._at_start:
            engine = LazyEngine(
                engine,
                lambda: check_int8(entry),
                lambda fault, load_s: self._note_load(folder, fault, load_s),
            )
            entry = replace(entry, reason="it is loaded when it is first asked for")
        self._serve(entry, manifest, engine)

    def _find_int8(self, folder: ModelFolder, manifest: ModelManifest, report: CompileReport) -> Int8Report | None:
        """The report of the INT8 model that shall serve; None where float32 shall."""
        if self._settings.precision != "int8":
            return None
        try:
            int8 = folder.read_int8_report(manifest, report)
            reason = int8.refusal
        except CompiledModelError as error:
            reason = error.message
        if not reason:
            return int8
        extra = {"model": folder.name, "version": folder.version, "reason": reason}
        log.warning("model served in float32", extra=extra)
        return None

    def _note_load(self, folder: ModelFolder, fault: str | None, load_s: float) -> None:
        """Bring the entry of a model that loads when first used up to date."""
        entry = self.get(folder.name, folder.version)
        state = State.READY if fault is None else State.UNAVAILABLE
        served = entry.served if fault is None else None
        self._set(replace(entry, state=state, reason=fault or "", served=served, load_s=load_s if served else None))

    def _serve(self, entry: ModelEntry, manifest: ModelManifest, engine: Engine) -> None:
        started = time.perf_counter()
        engine.load()
        load_s = None if isinstance(engine, LazyEngine) else time.perf_counter() - started
        limits = ImageLimits(self._settings.max_pixels, self._settings.max_side_px)
        served = ServedModel(manifest, engine, limits, self._settings.queue_size)
        self._set(replace(entry, served=served, load_s=load_s))


def check_int8(entry: ModelEntry) -> None:
    """Raise `CompiledModelError` if the entry's INT8 model is not the one that was accepted when it was chosen."""
    if entry.int8 is None:
        return
    assert entry.manifest is not None, "a model that is served has a manifest"
    assert entry.report is not None, "an INT8 model is made from a compiled one"
    if entry.folder.read_int8_report(entry.manifest, entry.report) != entry.int8:
        raise CompiledModelError("the INT8 model was made anew since the server started; restart it")


def choose_default(versions: dict[str, ModelEntry]) -> str:
    """The default version: the newest."""
    return max(versions, key=order_version)


def sort_versions(versions: dict[str, ModelEntry]) -> list[ModelEntry]:
    """The entries of a model from old to new."""
    return [versions[version] for version in sorted(versions, key=order_version)]
