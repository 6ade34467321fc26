"""Checks a model folder as a whole: hashes, manifest, compiled model, and the scores of its examples."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np

from app.config.settings import Settings
from app.engines.base import Engine, build_engine
from app.engines.compiled.compile_report import COMPILED_FOLDER
from app.engines.compiled.int8_report import INT8_FOLDER
from app.engines.compiled.openvino_engine import OpenVINOEngine
from app.engines.process_engine import ProcessEngine, runs_natively
from app.errors import (
    AnsweredError,
    CompiledModelError,
    InferenceError,
    IntegrityError,
    OutOfBoundsError,
)
from app.manifest.bounds import SHARE, read_number
from app.manifest.model_manifest import ModelManifest
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import require_finite, split_distances
from app.pipeline.served_model import ServedModel
from app.processes.plain_files import read_plain_text
from app.repository.model_folder import EXAMPLES_FOLDER, ModelFolder
from app.repository.signing import require_trusted_artifact

EXPECTED_FILE = "expected.json"


def check_folder(folder: ModelFolder, settings: Settings) -> float | None:
    """Check one model version; return the largest difference of an example's probability from the expected one.

    Without examples there is none, and the model is asked about a grey picture. Of an INT8 model report and hashes
    alone are checked, for its scores are meant to differ. Raises `ModelFolderError`.
    """
    manifest = folder.read_manifest()
    folder.verify_artifact(manifest)
    require_trusted_artifact(folder, manifest, settings)
    if not runs_natively(manifest):
        report = folder.read_report(manifest)
        if (folder.path / INT8_FOLDER).exists():
            folder.read_int8_report(manifest, report)
        check_fit(folder, manifest, settings)
    with open_served(folder, manifest, settings) as served:
        if folder.has_examples:
            return compare_examples(folder, manifest, served)
        see_answer(manifest, served)
        return None


def check_fit(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> None:
    """Raise `CompiledModelError` unless every compiled model of a version with a fit tells a distance.

    Raises `IntegrityError` for an example that the service would refuse as a picture of another kind.
    """
    grey = np.full((1, manifest.input.height_px, manifest.input.width_px, 3), 128, np.uint8)
    for compiled in (COMPILED_FOLDER, INT8_FOLDER):
        if manifest.tells_distance and (folder.path / compiled).exists():
            with closing(OpenVINOEngine(folder.path, manifest, 1, compiled, tells_distance=True)) as engine:
                engine.load()
                try:
                    require_finite(split_distances(engine.infer(grey), manifest)[1])
                except InferenceError as error:
                    raise CompiledModelError(f"{compiled}: {error.message}") from error
                with closing(make_served(manifest, engine, settings)) as served:
                    require_fitting_examples(folder, served)


@contextmanager
def open_served(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> Iterator[ServedModel]:
    """Load a version as it is served, by OpenVINO or in its own framework's process, and close it afterwards.

    Its probabilities are not calibrated, as those of its framework are not, and it refuses no kind of picture. Raises
    `ModelFolderError`.
    """
    plain = replace(manifest, output=replace(manifest.output, calibration=None), fit=None)
    if runs_natively(manifest):
        engine: Engine = ProcessEngine(folder.path, manifest, settings)
    else:
        engine = build_engine("openvino", folder.path, manifest, settings.inference_threads)
    with closing(engine):
        engine.load()
        with closing(make_served(plain, engine, settings)) as served:
            yield served


def make_served(manifest: ModelManifest, engine: Engine, settings: Settings) -> ServedModel:
    """Make a served model of an engine that was loaded."""
    return ServedModel(manifest, engine, ImageLimits(settings.max_pixels), settings.queue_size)


def require_fitting_examples(folder: ModelFolder, served: ServedModel) -> None:
    """Raise `IntegrityError` if the service would refuse an example as a picture of another kind."""
    for name, content in folder.read_examples().items() if folder.has_examples else ():
        try:
            fit = served.predict(content, takes_unfit=True)[0].fit
        except AnsweredError as error:
            raise IntegrityError(f"{EXAMPLES_FOLDER}/{name}: {error.message}") from error
        if fit is not None and not fit.fits:
            raise IntegrityError(
                f"{EXAMPLES_FOLDER}/{name} is not of the kind that the model was made for: {'; '.join(fit.reasons)}. "
                "Take another example, or run models fit with such pictures."
            )


def see_answer(manifest: ModelManifest, served: ServedModel) -> None:
    """Raise `IntegrityError` unless the model answers a grey picture."""
    grey = np.full((manifest.input.height_px, manifest.input.width_px, 3), 128, np.uint8)
    try:
        served.predict(grey)
    except AnsweredError as error:
        raise IntegrityError(f"the model does not answer: {error.message}") from error


def compare_examples(folder: ModelFolder, manifest: ModelManifest, served: ServedModel) -> float:
    """Predict every example; return the largest difference from `expected.json`, or raise `IntegrityError`."""
    expected, tolerance = read_expected(folder)
    largest = 0.0
    for name, content in folder.read_examples().items():
        try:
            prediction, _ = served.predict(content)
        except AnsweredError as error:
            raise IntegrityError(f"{EXAMPLES_FOLDER}/{name}: {error.message}") from error
        actual = prediction.decision.probabilities
        if set(expected[name]) != set(manifest.output.classes):
            raise IntegrityError(f"{EXAMPLES_FOLDER}/{EXPECTED_FILE} names other classes for {name}")
        difference = max(abs(actual[label] - expected[name][label]) for label in actual)
        if not difference <= tolerance:
            raise IntegrityError(
                f"{EXAMPLES_FOLDER}/{name}: a probability strays by {difference:.1e} from the expected"
            )
        largest = max(largest, difference)
    return largest


def read_expected(folder: ModelFolder) -> tuple[dict[str, dict[str, float]], float]:
    """Read the expected probabilities of the examples, and how far they may stray; raises `IntegrityError`."""
    try:
        document = json.loads(read_plain_text(folder.path / EXAMPLES_FOLDER / EXPECTED_FILE))
        tolerance = read_number("tolerance", document["tolerance"], SHARE)
        expected = {
            picture: {label: read_number(label, value, SHARE) for label, value in probabilities.items()}
            for picture, probabilities in document["probabilities"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OutOfBoundsError) as error:
        raise IntegrityError(f"{EXAMPLES_FOLDER}/{EXPECTED_FILE} cannot be read: {error}") from error
    if set(expected) != set(folder.find_examples()) or not expected:
        raise IntegrityError(f"{EXAMPLES_FOLDER}/{EXPECTED_FILE} does not name the pictures that are there")
    return expected, tolerance
