"""Checks a model folder as a whole: hashes, manifest, compiled model, and the scores of its examples."""

import json

from app.config.settings import Settings
from app.engines.base import Engine, build_engine
from app.engines.int8_report import INT8_FOLDER
from app.engines.process_engine import ProcessEngine, runs_natively
from app.errors import AnsweredError, IntegrityError
from app.manifest.model_manifest import ModelManifest
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.served_model import ServedModel
from app.repository.model_folder import EXAMPLES_FOLDER, ModelFolder
from app.repository.trust import require_trusted_artifact

EXPECTED_FILE = "expected.json"


def check_folder(folder: ModelFolder, settings: Settings) -> float:
    """Check one model version; of an INT8 model the report and hashes alone, for its scores are meant to differ.

    Returns:
        The largest difference of an example's probability from the expected one.

    Raises:
        ModelFolderError: the first thing found wrong.
    """
    manifest = folder.read_manifest()
    folder.verify_artifact(manifest)
    require_trusted_artifact(folder, manifest, settings)
    if runs_natively(manifest):
        engine: Engine = ProcessEngine(folder.path, manifest, settings)
    else:
        report = folder.read_report(manifest)
        if (folder.path / INT8_FOLDER).exists():
            folder.read_int8_report(manifest, report)
        engine = build_engine("openvino", folder.path, manifest, settings.inference_threads)
    engine.load()
    limits = ImageLimits(settings.max_pixels)
    served = ServedModel(manifest, engine, limits, settings.queue_size)
    try:
        return compare_examples(folder, manifest, served)
    finally:
        served.close()


def compare_examples(folder: ModelFolder, manifest: ModelManifest, served: ServedModel) -> float:
    """Predict every example and compare with `expected.json`.

    Raises:
        IntegrityError: an example cannot be read, has no expected scores, or strays from them.
    """
    examples, largest = folder.path / EXAMPLES_FOLDER, 0.0
    expected, tolerance = read_expected(folder)
    for name in folder.find_examples():
        try:
            prediction, _ = served.predict((examples / name).read_bytes())
        except AnsweredError as error:
            raise IntegrityError(f"{EXAMPLES_FOLDER}/{name}: {error.message}") from error
        actual = prediction.decision.probabilities
        if set(expected[name]) != set(manifest.output.classes):
            raise IntegrityError(f"{EXAMPLES_FOLDER}/{EXPECTED_FILE} names other classes for {name}")
        difference = max(abs(actual[label] - float(expected[name][label])) for label in actual)
        if not difference <= tolerance:
            raise IntegrityError(
                f"{EXAMPLES_FOLDER}/{name}: a probability strays by {difference:.1e} from the expected"
            )
        largest = max(largest, difference)
    return largest


def read_expected(folder: ModelFolder) -> tuple[dict[str, dict[str, float]], float]:
    """Read the expected probabilities of the examples, and how far they may stray.

    Raises:
        IntegrityError: the file cannot be read, or is of other pictures.
    """
    try:
        document = json.loads((folder.path / EXAMPLES_FOLDER / EXPECTED_FILE).read_text(encoding="utf-8"))
        expected, tolerance = dict(document["probabilities"]), float(document["tolerance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{EXAMPLES_FOLDER}/{EXPECTED_FILE} cannot be read: {error}") from error
    if set(expected) != set(folder.find_examples()) or not expected:
        raise IntegrityError(f"{EXAMPLES_FOLDER}/{EXPECTED_FILE} does not name the pictures that are there")
    return expected, tolerance
