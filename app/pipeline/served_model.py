"""The whole way from bytes to answer. Start reading here."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.arrays import InputBatch, RGBImage, Scores
from app.engines.base import Engine
from app.errors import AnsweredError, RequestError, ServiceUnavailableError, UnfitImageError
from app.manifest.model_manifest import ModelManifest
from app.pipeline.batch import BatchRunner
from app.pipeline.decoding.limits import ImageLimits, PixelSum
from app.pipeline.decoding.raw_pixels import wrap_pixels
from app.pipeline.fit import Fit, judge, measure_looks
from app.pipeline.occlusion import HeatMap, map_importance
from app.pipeline.occupancy import Occupancy
from app.pipeline.patience import ENDLESS, PRESENCE_S, Patience, Turn
from app.pipeline.postprocess import Decision, decide, require_finite, split_distances, to_probabilities
from app.pipeline.preprocess import preprocess, read_file

ONE_COLOUR = "The picture shows a single colour; the answer means nothing."
Upload: TypeAlias = bytes | RGBImage
"""One picture as it came: a PNG, JPEG, TIFF, BMP or WebP file, or bare pixels of any size."""


class Timing(NamedTuple):
    """Where the time of a request went, in seconds; several pictures of a request are summed.

    The stages followed each other; inference ended at `inferred`, by `time.perf_counter`. `batch_size` counts the
    pictures that were inferred together; None where a handler did. `explain_s` is what a heat map took after that.
    """

    decode_s: float
    queue_s: float
    inference_s: float
    inferred: float
    batch_size: int | None
    explain_s: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A picture, ready for the engine. `pixels` are uint8, [H, W, 3], at the model's size; width and height are the
    upright size before that. `format` and `mode` are the file's; `conversions` led to `pixels`, in order.
    """

    pixels: RGBImage
    width_px: int
    height_px: int
    format: str
    mode: str
    conversions: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture; `fit` is None where nothing is known of the pictures that fit."""

    decision: Decision
    picture: Picture
    fit: Fit | None = None


def is_one_colour(pixels: RGBImage) -> bool:
    """Whether every pixel is the same; compared as bytes, the first row first, since nearly always that is enough."""
    colour, (height, width, _) = pixels[0, 0].tobytes(), pixels.shape
    return bool(pixels[0].tobytes() == colour * width and pixels.tobytes() == colour * (width * height))


def find_misfit(answer: Prediction | AnsweredError, manifest: ModelManifest) -> UnfitImageError | None:
    """Return the error for a picture that is not of the kind that the model was made for; None for another answer."""
    if isinstance(answer, AnsweredError) or answer.fit is None or answer.fit.fits:
        return None
    reasons = "; ".join(answer.fit.reasons)
    error = UnfitImageError(
        f"The picture is not of the kind that {manifest.name} was made for: {reasons}. "
        "For an answer all the same, add ?unfit=answer to the address."
    )
    error.fit = answer.fit
    return error


class ServedModel(Occupancy):
    """One version of a model; `places` are a full batch and `queue_size` for the next ones.

    Thread safety: `predict` and `predict_many` may be called from any thread.
    """

    def __init__(self, manifest: ModelManifest, engine: Engine, limits: ImageLimits, queue_size: int) -> None:
        super().__init__()
        self.manifest = manifest
        self._size = manifest.input.width_px, manifest.input.height_px
        self._limits = limits
        self.places = queue_size + manifest.batch.max_size
        self._runner = BatchRunner(engine, self.places, manifest.batch)

    def predict(
        self, upload: Upload, patience: Patience = ENDLESS, takes_unfit: bool = False
    ) -> tuple[Prediction, Timing]:
        """Classify one picture; raises `RequestError` as `decode`, `UnfitImageError` for one of another kind, unless
        `takes_unfit`, and `ServiceError` for a full queue or failed engine.
        """
        with self._runner.arrival() as announcement:
            started = time.perf_counter()
            picture = self.understand(upload, patience)
            decode_s = time.perf_counter() - started
            scores, run = self._runner.infer(picture.pixels[np.newaxis], patience, announcement)
        (prediction,) = self._read_scores(scores, [picture])
        if not takes_unfit and (misfit := find_misfit(prediction, self.manifest)):
            misfit.timing = Timing(decode_s, *run)
            raise misfit
        return prediction, Timing(decode_s, *run)

    def _read_scores(self, scores: Scores, pictures: Sequence[Picture]) -> Iterator[Prediction]:
        """Yield what the model says of each picture; raises `InferenceError` for scores that are none."""
        (scores, distances), output = split_distances(scores, self.manifest), self.manifest.output
        require_finite(distances)
        for row, distance, picture in zip(to_probabilities(scores, output), distances, pictures, strict=True):
            size, spec = (picture.width_px, picture.height_px), self.manifest.fit
            fit = None if spec is None else judge(measure_looks(picture.pixels), size, self._size, distance, spec)
            yield Prediction(decide(row, output), picture, fit)

    def understand(self, upload: Upload, patience: Patience = ENDLESS, pixel_sum: PixelSum | None = None) -> Picture:
        """Decode one picture and bring it to the model's size; raises as `decode` and `PixelSum.add` do."""
        spec = self.manifest.input
        with Turn(patience) if pixel_sum is None else Turn(patience, pixel_sum.add) as turn:
            if isinstance(upload, bytes):
                image, pixels = read_file(upload, spec, self._limits, turn)
            else:
                image = wrap_pixels(upload, self._limits, turn)
                pixels = preprocess(image.pixels, spec)
            image.pixels.close()  # before the next one's turn, since a large one takes 100 MB
        (width, height), conversions = image.size, image.conversions
        if pixels.shape[:2] != (height, width):
            side = spec.short_side_px
            way = "resized" if side is None else f"resized to a shorter side of {side} and cut"
            conversions += (f"{way} from {width}x{height} to {pixels.shape[1]}x{pixels.shape[0]}",)
        warnings = image.warnings + ((ONE_COLOUR,) if is_one_colour(pixels) else ())
        return Picture(pixels, width, height, image.format, image.mode, conversions, warnings)

    def predict_many(
        self,
        uploads: Sequence[Upload | AnsweredError],
        patience: Patience = ENDLESS,
        pixel_sum: PixelSum | None = None,
        takes_unfit: bool = False,
    ) -> tuple[list[Prediction | AnsweredError], Timing]:
        """Classify pictures as one batch; one that cannot be taken, now or when read, gets its own error in its place,
        as do those beyond `pixel_sum` (None: any pixels are taken), and, unless `takes_unfit`, those of another kind.
        Raises `ServiceError` if the queue is full, the deadline passed, the caller left, or the engine failed.
        """
        with self._runner.arrival() as announcement:
            started = time.perf_counter()
            pictures = list(self._understand_all(uploads, patience, pixel_sum))
            decode_s = time.perf_counter() - started
            read = [picture for picture in pictures if isinstance(picture, Picture)]
            if not read:
                timing = Timing(decode_s, 0, 0, started + decode_s, 0)
                return [picture for picture in pictures if isinstance(picture, AnsweredError)], timing
            batch = np.stack([picture.pixels for picture in read])
            scores, run = self._runner.infer(batch, patience, announcement)
        predictions = self._read_scores(scores, read)
        answers = [next(predictions) if isinstance(picture, Picture) else picture for picture in pictures]
        if not takes_unfit:
            answers = [find_misfit(answer, self.manifest) or answer for answer in answers]
        return answers, Timing(decode_s, *run)

    def _understand_all(
        self, uploads: Sequence[Upload | AnsweredError], patience: Patience, pixel_sum: PixelSum | None
    ) -> Iterator[Picture | AnsweredError]:
        """Yield each picture, or its error, while the caller waits."""
        asked = time.perf_counter()
        for upload in uploads:
            patience.check()
            if time.perf_counter() - asked > PRESENCE_S:
                patience.check_presence()
                asked = time.perf_counter()
            try:
                yield upload if isinstance(upload, AnsweredError) else self.understand(upload, patience, pixel_sum)
            except RequestError as error:
                yield copy(error)  # without its traceback, which keeps the pixels

    def explain(
        self, upload: Upload, class_name: str | None = None, patience: Patience = ENDLESS, takes_unfit: bool = False
    ) -> tuple[Prediction, HeatMap, Timing]:
        """Classify one picture, and map what the probability of a class rests on; None: the positive class, or of more
        than two the one decided for. Raises as `predict` does.
        """
        prediction, timing = self.predict(upload, patience, takes_unfit)
        decision, pixels = prediction.decision, prediction.picture.pixels
        name = class_name or self.manifest.output.positive_class or decision.class_name
        index, score = self.manifest.output.classes.index(name), decision.probabilities[name]

        def ask(batch: InputBatch) -> NDArray[np.float64]:
            patience.check()
            patience.check_presence()
            scores, _ = split_distances(self._runner.infer_between(batch, patience)[0], self.manifest)
            return to_probabilities(scores, self.manifest.output)[:, index]

        heat_map = HeatMap(name, score, map_importance(pixels, score, ask), pixels)
        return prediction, heat_map, timing._replace(explain_s=time.perf_counter() - timing.inferred)

    @property
    def waiting(self) -> int:
        """How many callers wait for the next batch."""
        return self._runner.waiting

    def load(self) -> None:
        """Infer one picture, unless the queue is full, so that a lazy model is loaded; raises `InferenceError`."""
        spec = self.manifest.input
        with suppress(ServiceUnavailableError):
            self._runner.infer(np.zeros((1, spec.height_px, spec.width_px, 3), dtype=np.uint8))

    def retire(self, timeout_s: float) -> None:
        """Let nobody enter any more, wait for those who have, then close."""
        super().retire(timeout_s)
        self.close()

    def close(self) -> None:
        """Let the engine go, after the batch it is running."""
        self._runner.close()
