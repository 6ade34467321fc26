"""Has a candidate answer a share of the pictures beside the default version: no caller waits for it or sees it."""

import logging
import queue
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from app.config.settings import MIB
from app.errors import AnsweredError, UnfitImageError
from app.manifest.model_manifest import ModelManifest
from app.metrics import Metrics
from app.pipeline.patience import LARGE_PIXELS
from app.pipeline.served_model import Prediction, Upload
from app.registry.serving_table import ServingTable

log = logging.getLogger(__name__)

PLACES, MAX_UPLOAD_BYTES = 4, 4 * MIB
"""Pictures that may wait for candidates in a worker; a larger one is dropped, since it would keep memory busy."""
COMPARISONS = AGREES, DIFFERS, REFUSES, DROPPED, FAILS = "agrees", "differs", "refuses", "dropped", "fails"


@dataclass(frozen=True)
class Comparison:
    """A picture that the default version has answered, and the candidate that is to answer it too."""

    model: str
    default: str
    candidate: str
    upload: Upload
    prediction: Prediction


class Shadowing:
    """Asks candidates in a thread of its own, which begins with the first picture.

    Under load the candidate's pictures are the first to go: one is dropped where its queue is full, and where callers
    wait for the default version.

    Thread safety: `offer` may be called from any thread.
    """

    def __init__(self, table: ServingTable, metrics: Metrics) -> None:
        self._table, self._metrics = table, metrics
        self._waiting: queue.Queue[Comparison] = queue.Queue(PLACES)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def offer(
        self,
        manifest: ModelManifest,
        uploads: Sequence[Upload | AnsweredError],
        answers: Sequence[Prediction | AnsweredError],
    ) -> None:
        """Have a candidate answer a share of a request's pictures; `answers` are those of the version that was asked.

        Does nothing if the model has no candidate, or if another version than the default one answered. Pictures that
        do not fit the default version are not offered.
        """
        now = self._table.now
        shadow = now.shadows.get(manifest.name)
        if shadow is None or now.defaults.get(manifest.name) != manifest.version or shadow.version == manifest.version:
            return
        for upload, answer in zip(uploads, answers, strict=True):
            if isinstance(upload, AnsweredError) or not isinstance(answer, Prediction):
                continue
            if answer.fit is not None and not answer.fit.fits:
                continue
            if random.random() < shadow.share:  # noqa: S311  # no secret
                self._put(Comparison(manifest.name, manifest.version, shadow.version, upload, answer))

    def _put(self, task: Comparison) -> None:
        picture = task.prediction.picture
        is_large = picture.width_px * picture.height_px >= LARGE_PIXELS  # callers' large pictures stand in one line
        if is_large or measure_bytes(task.upload) > MAX_UPLOAD_BYTES:
            self._count(task, DROPPED)
            return
        try:
            self._waiting.put_nowait(task)
        except queue.Full:
            self._count(task, DROPPED)
        else:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            task = self._waiting.get()
            try:
                self._count(task, self._compare(task))
            except Exception:  # the thread must outlive a fault of a candidate, which its own state tells
                log.exception("a candidate failed", extra={"model": task.model, "version": task.candidate})
                self._count(task, FAILS)

    def _compare(self, task: Comparison) -> str:
        """Ask the candidate; return how its answer compares."""
        try:
            default = self._table.get(task.model, task.default).served
            if default is not None and default.waiting:
                return DROPPED
            with self._table.lend(task.model, task.candidate) as entry:
                if entry.served is None:
                    return FAILS
                prediction, _ = entry.served.predict(task.upload)
        except UnfitImageError:
            return REFUSES
        except AnsweredError:  # it is gone, or its engine failed
            return FAILS
        positive = entry.served.manifest.output.positive_class
        before, after = task.prediction.decision, prediction.decision
        if positive is not None and positive in before.probabilities:
            change = abs(after.probabilities[positive] - before.probabilities[positive])
            self._metrics.observe_shadow(task.model, task.default, task.candidate, change)
        return AGREES if before.class_name == after.class_name else DIFFERS

    def _count(self, task: Comparison, outcome: str) -> None:
        self._metrics.count_shadow(task.model, task.default, task.candidate, outcome)


def measure_bytes(upload: Upload) -> int:
    """Return how much memory an upload takes."""
    return len(upload) if isinstance(upload, bytes) else upload.nbytes
