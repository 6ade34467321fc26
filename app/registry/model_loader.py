"""Loads a model folder: its compiled model, at once or at the first request, or its framework in a process.

What is not compiled is compiled first.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from app.arrays import InputBatch
from app.compiling.folder_compiler import compile_in_process
from app.config.settings import Settings
from app.engines.base import Engine
from app.engines.compiled.compile_report import COMPILED_FOLDER, CompileReport
from app.engines.compiled.int8_report import INT8_FOLDER, Int8Report
from app.engines.compiled.openvino_engine import OpenVINOEngine
from app.engines.conversion import require_framework
from app.engines.lazy_engine import LazyEngine
from app.engines.process_engine import ProcessEngine, runs_natively
from app.errors import CompiledModelError, ModelFolderError
from app.manifest.model_manifest import MANIFEST_FILE, ModelManifest
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import apply_activation, require_finite, split_distances
from app.pipeline.served_model import ServedModel
from app.registry.model_entry import ModelEntry, State
from app.registry.version_slot import Attempt, SlowRoadError, describe_fault
from app.repository.model_content import hash_part
from app.repository.model_folder import ModelFolder, describe_files
from app.repository.signing import require_trusted_artifact
from app.state.wanted import PlannedVersion

log = logging.getLogger(__name__)

WAITS_FOR_REQUEST = "it is loaded when it is first asked for"
OnLoad = Callable[[Exception | None, float], None]


class ModelLoader:
    """Loads models as the settings say.

    Every method that loads raises `ModelFolderError` with the reason if it cannot, and `InferenceError` if the model is
    loaded and its first inference fails. Only `load` raises `SlowRoadError`.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._compiling = threading.Lock()

    def load(self, attempt: Attempt, on_load: OnLoad | None = None) -> ModelEntry:
        """Load a compiled model; with `on_load` only once it is asked for, see `LazyEngine`.

        Raises `SlowRoadError` if it must be compiled first, or runs natively; the message says what is done.
        """
        folder = attempt.planned.folder
        attempt.planned.wanted.require_sound()
        before = describe_files(folder)
        manifest = folder.read_manifest()
        attempt.draft = replace(attempt.draft, manifest=manifest)
        folder.verify_artifact(manifest)
        if runs_natively(manifest):
            raise SlowRoadError(f"{manifest.framework} is starting")
        try:
            report = folder.read_report(manifest)
        except CompiledModelError as error:
            raise SlowRoadError(f"{error.message}; compiling it now") from error
        entry = self._load_compiled(attempt, manifest, report, on_load)
        if describe_files(folder) != before:
            assert entry.served is not None, "what is loaded is served"
            entry.served.close()
            raise ModelFolderError("its folder changed while it was read")
        return entry

    def load_whole(self, planned: PlannedVersion) -> ModelEntry:
        """Load a version however long it takes: for commands."""
        draft = ModelEntry(planned.folder, planned.wanted, State.LOADING)
        attempt = Attempt(planned, draft, lambda *_: None, is_for_command=True)
        try:
            return self.load(attempt)
        except SlowRoadError:
            return self.load_slowly(attempt)

    def load_slowly(self, attempt: Attempt, on_fault: OnLoad = lambda *_: None) -> ModelEntry:
        """Compile a model and load it, or start its framework; one compilation of a worker at a time.

        For `on_fault` see `ProcessEngine`.
        """
        folder = attempt.planned.folder
        manifest = folder.read_manifest()
        require_framework(manifest.framework)
        if runs_natively(manifest):
            note_content(attempt, manifest, {})
            return self._serve(attempt, manifest, ProcessEngine(folder.path, manifest, self.settings, on_fault))
        with self._compiling:
            if attempt.is_dropped:
                raise ModelFolderError("it is no longer wanted")
            report = compile_in_process(folder.path, self.settings, only_if_invalid=True)
        return self._load_compiled(attempt, manifest, report, None)

    def load_report(
        self, attempt: Attempt, manifest: ModelManifest, report: CompileReport, compiled: str
    ) -> ModelEntry:
        """Load the compiled model of a report that was read, from the folder `compiled` of the version."""
        engine = self._make_engine(attempt, manifest, compiled, report.ir_sha256)
        return replace(self._serve(attempt, manifest, engine), engine="openvino", report=report)

    def describe_idle(self, planned: PlannedVersion) -> ModelEntry:
        """Return the entry of a version that has no workers; nothing of it is in memory."""
        idle = ModelEntry(planned.folder, planned.wanted, State.UNAVAILABLE, "it has no workers")
        try:
            return idle if planned.folder.is_archive else replace(idle, manifest=planned.folder.read_manifest())
        except (ModelFolderError, OSError) as error:
            return replace(idle, reason=describe_fault(error))

    def _load_compiled(
        self, attempt: Attempt, manifest: ModelManifest, report: CompileReport, on_load: OnLoad | None
    ) -> ModelEntry:
        folder = attempt.planned.folder
        require_trusted_artifact(folder, manifest, self.settings)
        int8 = self.find_int8(folder, manifest, report)
        parts = {COMPILED_FOLDER: report.ir_sha256} | ({manifest.fit.file: manifest.fit.sha256} if manifest.fit else {})
        if self.settings.precision == "int8":
            parts[INT8_FOLDER] = int8.ir_sha256 if int8 else hash_part(folder.path / INT8_FOLDER, manifest.framework)
        note_content(attempt, manifest, parts)
        compiled, ir_sha256 = (INT8_FOLDER, int8.ir_sha256) if int8 else (COMPILED_FOLDER, report.ir_sha256)
        engine = self._make_engine(attempt, manifest, compiled, ir_sha256)
        if on_load is None:
            entry = self._serve(attempt, manifest, engine)
        else:
            entry = self._make_entry(attempt, manifest, LazyEngine(engine, on_load))
            entry = replace(entry, reason=WAITS_FOR_REQUEST)
        return replace(entry, engine="openvino", report=report, int8=int8)

    def _make_engine(self, attempt: Attempt, manifest: ModelManifest, compiled: str, ir_sha256: str) -> OpenVINOEngine:
        return OpenVINOEngine(
            attempt.planned.folder.path,
            manifest,
            self.settings.inference_threads,
            compiled,
            ir_sha256,
            manifest.tells_distance,
            warms_up=not attempt.is_for_command,
        )

    def find_int8(self, folder: ModelFolder, manifest: ModelManifest, report: CompileReport) -> Int8Report | None:
        """Return the report of the INT8 model that is to serve; None where float32 serves."""
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

    def _serve(self, attempt: Attempt, manifest: ModelManifest, engine: Engine) -> ModelEntry:
        """Load an engine and have it infer once: a model that loads and cannot infer is not READY."""
        started = time.perf_counter()
        with ExitStack() as on_failure:
            on_failure.callback(engine.close)
            engine.load()
            scores, distances = split_distances(engine.infer(make_noise(manifest)), manifest)
            apply_activation(scores, manifest.output)
            require_finite(distances)
            on_failure.pop_all()
        load_s = time.perf_counter() - started
        return replace(self._make_entry(attempt, manifest, engine), load_s=load_s)

    def _make_entry(self, attempt: Attempt, manifest: ModelManifest, engine: Engine) -> ModelEntry:
        batched = replace(manifest, batch=attempt.planned.wanted.choose_batch(manifest))
        served = ServedModel(batched, engine, ImageLimits(self.settings.max_pixels), self.settings.queue_size)
        ready = replace(attempt.draft, state=State.READY, reason="", manifest=manifest, served=served)
        return replace(ready, engine=manifest.framework)


def make_noise(manifest: ModelManifest) -> InputBatch:
    """One picture, uint8 [1, H, W, 3]: noise, since a network may divide by the spread of a picture's pixels."""
    shape = (1, manifest.input.height_px, manifest.input.width_px, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def note_content(attempt: Attempt, manifest: ModelManifest, parts: Mapping[str, str]) -> None:
    """Note what an attempt has read: manifest, artifact, and the `parts` beside them; see `ModelEntry.content`."""
    path = attempt.planned.folder.path / MANIFEST_FILE
    content = {MANIFEST_FILE: hash_part(path, None), manifest.artifact.file: manifest.artifact.sha256, **parts}
    attempt.draft = replace(attempt.draft, content=content)
