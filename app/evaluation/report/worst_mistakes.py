"""The mistakes that a version was most sure of, as small pictures that a page can hold."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from app.evaluation.labelled_folder import read_image
from app.evaluation.version_evaluation import Answer
from app.manifest.model_specs import InputSpec, OutputSpec
from app.pipeline.decoding.limits import ImageLimits

MOST = 6
"""Of each class."""
SIDE_PX = 160
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Mistake:
    """A picture that got another class than its own.

    Attributes:
        number: of the picture, as in `pictures.csv`.
        truth, answer: its class, and the one that was answered.
        of_truth, of_answer: the probabilities of these two classes.
        fits: whether it is of the model's kind; None where nothing is known of that.
    """

    number: int
    truth: str
    answer: str
    of_truth: float
    of_answer: float
    fits: bool | None


def find_worst(answers: Sequence[tuple[int, Answer]], spec: OutputSpec) -> list[Mistake]:
    """Find the mistakes that give the true class the least probability, six of each class; pictures have numbers."""
    worst: list[Mistake] = []
    for truth in spec.classes:
        of_class = [
            describe_mistake(number, answer, truth)
            for number, answer in answers
            if spec.classes[answer.picture.label] == truth != answer.decision.class_name
        ]
        worst += sorted(of_class, key=lambda mistake: (mistake.of_truth, mistake.number))[:MOST]
    return worst


def describe_mistake(number: int, answer: Answer, truth: str) -> Mistake:
    """Describe a picture that was not answered with its class, the truth."""
    decision, fits = answer.decision, None if answer.fit is None else answer.fit.fits
    return Mistake(number, truth, decision.class_name, decision.probabilities[truth], decision.confidence, fits)


def embed_picture(path: Path, spec: InputSpec, limits: ImageLimits) -> str:
    """Return a picture as a `data:` URI: a JPEG of at most 160 pixels a side, made anew from the pixels alone, since
    comments and other metadata of the file may name a patient. Raises `PicturesError` if it can no longer be read.
    """
    image = Image.fromarray(np.asarray(read_image(path, spec, limits)))
    image.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
