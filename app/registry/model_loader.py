"""Makes a served model of a model folder: compiled, compiled and loaded later, or in its own framework."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.compiling.folder_compiler import compile_in_process
from app.config.settings import Settings
from app.engines.base import Engine
from app.engines.compile_report import COMPILED_FOLDER, CompileReport
from app.engines.conversion import require_framework
from app.engines.int8_report import INT8_FOLDER, Int8Report
from app.engines.lazy_engine import LazyEngine
from app.engines.openvino_engine import OpenVINOEngine
from app.engines.process_engine import ProcessEngine, runs_natively
from app.errors import CompiledModelError
from app.manifest.model_manifest import ModelManifest
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.served_model import ServedModel
from app.registry.model_entry import ModelEntry
from app.repository.model_folder import ModelFolder
from app.repository.trust import require_trusted_artifact
from app.state.wanted import PlannedVersion

log = logging.getLogger(__name__)

LAZY_REASON = "it is loaded when it is first asked for"


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to answer, and how it came to be; see `ModelEntry`."""

    manifest: ModelManifest
    engine: str
    served: ServedModel
    report: CompileReport | None = None
    int8: Int8Report | None = None
    reason: str = ""
    load_s: float | None = None

    def fill(self, entry: ModelEntry) -> ModelEntry:
        """Return an entry that says so."""
        return replace(
            entry,
            reason=self.reason,
            manifest=self.manifest,
            engine=self.engine,
            report=self.report,
            int8=self.int8,
            served=self.served,
            load_s=self.load_s,
        )


class ModelLoader:
    """Loads models as the settings say; every method raises `ModelFolderError` with the reason if it cannot."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load_compiled(
        self, planned: PlannedVersion, manifest: ModelManifest, on_load: Callable[[str | None, float], None] | None
    ) -> LoadedModel:
        """Load the compiled model; with `on_load` only once it is asked for, see `LazyEngine`.

        Raises:
            CompiledModelError: it must be compiled first.
            SignatureError: it was made of a program that is not trusted.
        """
        folder = planned.folder
        require_trusted_artifact(folder, manifest, self.settings)
        report = folder.read_report(manifest)
        int8 = self.find_int8(folder, manifest, report)
        compiled = INT8_FOLDER if int8 else COMPILED_FOLDER
        engine: Engine = OpenVINOEngine(folder.path, manifest, self.settings.inference_threads, compiled)
        if on_load is not None:
            engine = LazyEngine(engine, lambda: check_int8(folder, manifest, report, int8), on_load)
        served, load_s = self._serve(planned, manifest, engine)
        if on_load is not None:
            return LoadedModel(manifest, "openvino", served, report, int8, LAZY_REASON)
        return LoadedModel(manifest, "openvino", served, report, int8, load_s=load_s)

    def load_report(
        self, planned: PlannedVersion, manifest: ModelManifest, report: CompileReport, compiled: str
    ) -> LoadedModel:
        """Load the compiled model of a report that was read, from the folder `compiled` of the version."""
        engine = OpenVINOEngine(planned.folder.path, manifest, self.settings.inference_threads, compiled)
        served, load_s = self._serve(planned, manifest, engine)
        return LoadedModel(manifest, "openvino", served, report, load_s=load_s)

    def load_slowly(self, planned: PlannedVersion) -> LoadedModel:
        """Compile the model and load it, or start its framework."""
        folder = planned.folder
        manifest = folder.read_manifest()
        require_framework(manifest.framework)
        if runs_natively(manifest):
            engine = ProcessEngine(folder.path, manifest, self.settings)
            served, load_s = self._serve(planned, manifest, engine)
            return LoadedModel(manifest, manifest.framework, served, load_s=load_s)
        compile_in_process(folder.path, self.settings, only_if_invalid=True)
        return self.load_compiled(planned, manifest, None)

    def find_int8(self, folder: ModelFolder, manifest: ModelManifest, report: CompileReport) -> Int8Report | None:
        """The report of the INT8 model that shall serve; None where float32 shall."""
        if self.settings.precision != "int8":
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

    def _serve(self, planned: PlannedVersion, manifest: ModelManifest, engine: Engine) -> tuple[ServedModel, float]:
        started = time.perf_counter()
        engine.load()
        load_s = time.perf_counter() - started
        limits = ImageLimits(self.settings.max_pixels)
        batched = replace(manifest, batch=planned.wanted.choose_batch(manifest))
        return ServedModel(batched, engine, limits, self.settings.queue_size), load_s


def check_int8(folder: ModelFolder, manifest: ModelManifest, report: CompileReport, int8: Int8Report | None) -> None:
    """Raise `CompiledModelError` if the INT8 model is not the one that was accepted when it was chosen."""
    if int8 is not None and folder.read_int8_report(manifest, report) != int8:
        raise CompiledModelError("the INT8 model was made anew since the server started; restart it")
