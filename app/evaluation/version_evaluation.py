"""How good a model version is on a folder of labelled pictures, which it is shown as the service shows them to it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities
from app.config.settings import Settings
from app.engines.process_engine import runs_natively
from app.errors import AnsweredError, BadRequestError, BodyTooLargeError, PicturesError
from app.evaluation.estimates import Estimate, choose_classes, estimate_auc, estimate_share
from app.evaluation.evaluation_report import Evaluation
from app.evaluation.labelled_folder import LabelledPicture
from app.evaluation.operating_points import measure_point
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import OutputSpec
from app.pipeline.fit import Fit
from app.pipeline.postprocess import Decision
from app.pipeline.served_model import ServedModel, Upload
from app.registry.model_entry import ModelEntry
from app.registry.model_loader import ModelLoader
from app.repository.model_folder import ModelFolder
from app.state.wanted import PlannedVersion

MIN_READABLE_PICTURES = 2
"""Of each class: what a variance needs."""


@dataclass(frozen=True)
class Answer:
    """What the model said of one picture.

    Attributes:
        picture: its file and class.
        sha256: of its content.
        decision: what the service answers.
        fit: whether the picture is of the model's kind; None where nothing is known of that.
    """

    picture: LabelledPicture
    sha256: str
    decision: Decision
    fit: Fit | None

    @property
    def probabilities(self) -> list[float]:
        """Of each class, in the manifest's order."""
        return list(self.decision.probabilities.values())


@dataclass(frozen=True)
class Unreadable:
    """A picture without an answer, and why it has none."""

    picture: LabelledPicture
    reason: str


@dataclass(frozen=True)
class Measured:
    """An evaluation, and what came of each picture, in the order in which they were shown."""

    evaluation: Evaluation
    answers: list[Answer | Unreadable]

    @property
    def read(self) -> list[Answer]:
        """The answers."""
        return [each for each in self.answers if isinstance(each, Answer)]

    @property
    def lost(self) -> list[Unreadable]:
        """The pictures without an answer."""
        return [each for each in self.answers if isinstance(each, Unreadable)]


def evaluate_version(
    planned: PlannedVersion, pictures: Sequence[LabelledPicture], settings: Settings, advance: Callable[[int], None]
) -> Measured:
    """Show the pictures to one version, as many at a time as it batches, and work out its figures.

    The version is compiled first if need be, as a server would. `advance` is told how many pictures were done. Raises
    `ModelFolderError` if the model cannot be served, `ServiceError` if it failed, and `PicturesError` if too few
    pictures of a class can be read.
    """
    loader = ModelLoader(settings)
    loaded = loader.load_whole(planned)
    served = loaded.served
    assert served is not None, "what is loaded is served"
    try:
        model_sha256 = identify_model(planned.folder, served.manifest, loader)
        answers = ask(served, pictures, settings.max_body_bytes, advance)
    finally:
        served.close()
    return Measured(make_evaluation(loaded, served.manifest.output, model_sha256, answers), answers)


def make_evaluation(
    loaded: ModelEntry, spec: OutputSpec, model_sha256: str, shown: Sequence[Answer | Unreadable]
) -> Evaluation:
    """Work out the figures; raises `PicturesError` if too few pictures of a class were answered."""
    read = [answer for answer in shown if isinstance(answer, Answer)]
    answers = sorted(read, key=lambda answer: (answer.sha256, answer.picture.label))
    labels = np.array([answer.picture.label for answer in answers], dtype=np.int64)
    counts = {name: int((labels == index).sum()) for index, name in enumerate(spec.classes)}
    fewest = min(counts, key=counts.__getitem__)
    if counts[fewest] < MIN_READABLE_PICTURES:
        raise PicturesError(f"only {counts[fewest]} of the pictures of {fewest} can be read: too few")
    return Evaluation(
        model=loaded.wanted.name,
        version=loaded.wanted.version,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        model_sha256=model_sha256,
        precision="int8" if loaded.int8 else "float32",
        data_sha256=identify_data(answers, spec.classes),
        pictures=counts,
        unreadable=len(shown) - len(answers),
        positive_class=spec.positive_class,
        threshold=spec.threshold,
        metrics=work_out(answers, labels, spec),
        labels=labels.tolist(),
        probabilities=[answer.probabilities for answer in answers],
    )


def ask(
    served: ServedModel, pictures: Sequence[LabelledPicture], max_bytes: int, advance: Callable[[int], None]
) -> list[Answer | Unreadable]:
    """Have every picture answered, whatever its kind; return what came of each, in their order."""
    size = served.manifest.batch.max_size
    answers: list[Answer | Unreadable] = []
    for start in range(0, len(pictures), size):
        group = pictures[start : start + size]
        uploads = [read_file(picture.path, max_bytes) for picture in group]
        predictions, _ = served.predict_many(uploads, takes_unfit=True)
        for picture, upload, prediction in zip(group, uploads, predictions, strict=True):
            if isinstance(prediction, AnsweredError):
                answers.append(Unreadable(picture, prediction.message))
                continue
            assert isinstance(upload, bytes), "what was not read is not predicted"
            sha256 = hashlib.sha256(upload).hexdigest()
            answers.append(Answer(picture, sha256, prediction.decision, prediction.fit))
        advance(len(group))
    return answers


def read_file(path: Path, max_bytes: int) -> Upload | AnsweredError:
    """Read a picture's file, or say why not."""
    try:
        if path.stat().st_size > max_bytes:
            return BodyTooLargeError(f"The file is larger than {max_bytes} bytes (SCANCER_MAX_BODY_BYTES).")
        return path.read_bytes()
    except OSError as error:
        return BadRequestError(f"The file cannot be read: {error.strerror}.")


def work_out(answers: Sequence[Answer], labels: NDArray[np.int64], spec: OutputSpec) -> dict[str, Estimate]:
    """AUC, and sensitivity and specificity at the threshold; of more than two classes the mean AUC, and accuracy."""
    probabilities: Probabilities = np.array([answer.probabilities for answer in answers])
    auc = estimate_auc(probabilities, labels, choose_classes(spec.classes, spec.positive_class))
    if spec.positive_class is None or spec.threshold is None:
        return {
            "auc": auc,
            "accuracy": estimate_share(int((probabilities.argmax(axis=1) == labels).sum()), len(labels)),
        }
    index = spec.classes.index(spec.positive_class)
    point = measure_point(spec.threshold, probabilities[:, index], labels == index)
    return {"auc": auc, "sensitivity": point.sensitivity, "specificity": point.specificity}


def identify_data(answers: Sequence[Answer], classes: Sequence[str]) -> str:
    """SHA-256 of the pictures' contents and classes; of no names, and the same in any order."""
    lines = [json.dumps(list(classes)), *sorted(f"{answer.sha256} {answer.picture.label}" for answer in answers)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def identify_model(folder: ModelFolder, manifest: ModelManifest, loader: ModelLoader) -> str:
    """SHA-256 of all that decides a version's answers: artifact, compiled model, and what the manifest says of them.

    Raises `ModelFolderError` if the artifact or the compiled model is not the one that its hash names.
    """
    folder.verify_artifact(manifest)
    output = manifest.output
    parts: list[Any] = [
        manifest.artifact.sha256,
        manifest.graph_sha256,
        manifest.input.jpeg_min_scale,
        [output.classes, output.activation, output.positive_class, output.threshold],
    ]
    if output.calibration is not None:  # reports older than this keep their hash
        parts.append(asdict(output.calibration))
    if not runs_natively(manifest):
        report = folder.read_report(manifest)
        parts.append((loader.find_int8(folder, manifest, report) or report).ir_sha256)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
