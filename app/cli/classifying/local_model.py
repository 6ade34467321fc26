"""Answers pictures on this machine without a server: a copy of the model for each core."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from app.api.predict.answers import make_item
from app.cli.classifying.answer_table import Asked
from app.config.settings import Settings
from app.errors import AnsweredError, InferenceError, PicturesError, UnfitImageError
from app.evaluation.version_evaluation import read_file
from app.pipeline.served_model import Prediction, ServedModel, Upload
from app.registry.model_loader import ModelLoader
from app.state.wanted import PlannedVersion


class LocalModel:
    """One version, loaded `jobs` times, each on one core; a model that runs in its framework is loaded once.

    Raises `ModelFolderError` if it cannot be served, and `PicturesError` for an archive.
    Thread safety: `jobs` threads may call `ask` at a time.
    """

    def __init__(self, planned: PlannedVersion, settings: Settings, jobs: int, takes_unfit: bool) -> None:
        if planned.folder.is_archive:
            raise PicturesError(f"{planned.folder.label} is a model archive, whose answers need not be classes")
        self._max_bytes = settings.max_body_bytes
        loader = ModelLoader(replace(settings, inference_threads=settings.inference_threads or 1))
        first = loader.load_whole(planned)
        self.jobs = jobs if first.engine == "openvino" else 1
        others = [loader.load_whole(planned) for _ in range(self.jobs - 1)]
        self._copies = [entry.served for entry in (first, *others) if entry.served is not None]
        self._idle: SimpleQueue[ServedModel] = SimpleQueue()
        for served in self._copies:
            self._idle.put(served)
        self._manifest = manifest = self._copies[0].manifest
        self.group = manifest.batch.max_size
        self.asked = Asked(manifest.name, manifest.version, manifest.output.threshold, takes_unfit)

    def ask(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """Answer a group as one batch, each picture as the service does; raises `ServiceError` if the model failed.

        Where it failed for some pictures of the group alone, these get the error.
        """
        served = self._idle.get()
        try:
            uploads = [read_file(Path(path), self._max_bytes) for path in paths]
            try:
                answers, _ = served.predict_many(uploads, takes_unfit=self.asked.takes_unfit)
            except InferenceError:
                answers = self._ask_each(served, uploads)
        finally:
            self._idle.put(served)
        return [make_item(answer, self._manifest, "") for answer in answers]

    def _ask_each(
        self, served: ServedModel, uploads: Sequence[Upload | AnsweredError]
    ) -> list[Prediction | AnsweredError]:
        """Answer one picture after the other; raises the last `InferenceError` if the model answered none of them.

        It has answered a picture that is refused as one of another kind.
        """
        answers: list[Prediction | AnsweredError] = []
        last: InferenceError | None = None
        for upload in uploads:
            try:
                answers += served.predict_many([upload], takes_unfit=self.asked.takes_unfit)[0]
            except InferenceError as error:
                answers.append(error)
                last = error
        if last is not None and not any(isinstance(answer, Prediction | UnfitImageError) for answer in answers):
            raise last
        return answers

    def close(self) -> None:
        """Let the copies go."""
        for served in self._copies:
            served.close()
