"""Makes the examples of a model: pictures, and the probabilities that the framework itself gives them."""

import io
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from app.arrays import InputBatch, Probabilities
from app.compiling.compilation import check_difference
from app.compiling.folder_compiler import infer
from app.compiling.picture_metadata import strip_metadata
from app.config.settings import Settings
from app.engines.base import build_reference
from app.engines.conversion import require_framework
from app.engines.process_engine import runs_natively
from app.errors import PicturesError, RequestError, SignatureError
from app.manifest.model_manifest import ModelManifest, read_manifest
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import apply_activation, calibrate, decide
from app.processes.confined_process import run_confined
from app.repository.model_check import EXPECTED_FILE, open_served
from app.repository.model_folder import EXAMPLES_FOLDER, ModelFolder
from app.repository.signing import SIGNATURE_FILE, require_trusted_artifact
from app.repository.staging import stage

STAGING_PATTERN = ".examples-*"
TOLERANCE = 1e-3
"""How far a served probability may stray from the expected one: processors round differently."""
DECIMALS = 6
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg"}


@dataclass(frozen=True)
class Comparison:
    """Both answers to a picture: the class, its two probabilities, and the largest difference of any class."""

    class_name: str
    framework: float
    served: float
    difference: float


def write_examples(folder: ModelFolder, pictures: Sequence[Path], settings: Settings) -> list[Comparison]:
    """Score pictures with the framework and with the served model, and make them the examples of a model version.

    The pictures get new names and lose their metadata, since both may name a patient. Earlier examples are replaced.

    Raises:
        PicturesError: a picture cannot be read.
        SignatureError: the folder is signed, and would no longer be what was signed; or its program is not trusted.
        ModelFolderError: the model cannot be run, or its probabilities differ.
    """
    manifest = folder.read_manifest()
    folder.verify_artifact(manifest)
    require_trusted_artifact(folder, manifest, settings)
    if (folder.path / SIGNATURE_FILE).exists():
        raise SignatureError(
            f"the model is signed, and examples would be more than was signed: remove {SIGNATURE_FILE}, and sign the "
            "model again afterwards"
        )
    require_framework(manifest.framework)
    if not runs_natively(manifest):
        folder.read_report(manifest)
    files, pixels, served = read_and_serve(folder, manifest, pictures, settings)
    expected = score_in_process(folder, manifest, pixels, settings)
    check_difference(served, expected, manifest.framework)
    with stage(folder.path, STAGING_PATTERN, EXAMPLES_FOLDER) as staging:
        for name, content in files.items():
            (staging / EXAMPLES_FOLDER / name).write_bytes(content)
        text = describe_expected(manifest, list(files), expected)
        (staging / EXAMPLES_FOLDER / EXPECTED_FILE).write_text(text, encoding="utf-8")
    return [compare(manifest, *rows) for rows in zip(expected, served, strict=True)]


def read_and_serve(
    folder: ModelFolder, manifest: ModelManifest, pictures: Sequence[Path], settings: Settings
) -> tuple[dict[str, bytes], InputBatch, Probabilities]:
    """Read pictures as requests are read; return files by new name, what the network takes, and the served answers."""
    files: dict[str, bytes] = {}
    pixels, rows = [], []
    with open_served(folder, manifest, settings) as served:
        for number, path in enumerate(pictures, 1):
            try:
                content = path.read_bytes()
                prediction, _ = served.predict(content)
            except (OSError, RequestError) as error:
                raise PicturesError(f"picture {number} cannot be read: {error}") from error
            suffix, content = write_clean(content, prediction.picture.format, manifest, settings)
            files[f"example-{number}{suffix}"] = content
            pixels.append(prediction.picture.pixels)
            rows.append(list(prediction.decision.probabilities.values()))
    return files, np.stack(pixels), np.array(rows)


def write_clean(content: bytes, kind: str, manifest: ModelManifest, settings: Settings) -> tuple[str, bytes]:
    """Return the suffix and the file of a picture, without what may name a patient.

    A PNG or JPEG keeps its compressed pixels. Any other format, and a file of an unusual structure, becomes a PNG in
    the colours that the server reads in it.
    """

    def read(file: bytes) -> Image.Image:
        return decode(file, ImageLimits(settings.max_pixels), follows_metadata=manifest.input.is_turned).pixels

    image, suffix = read(content), SUFFIXES.get(kind)
    if suffix is not None:
        stripped = strip_metadata(content)
        with suppress(RequestError):
            if read(stripped).tobytes() == image.tobytes():
                return suffix, stripped
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG")
    return ".png", buffer.getvalue()


def score_in_process(
    folder: ModelFolder, manifest: ModelManifest, pixels: InputBatch, settings: Settings
) -> Probabilities:
    """Return the framework's own probabilities of pictures at the network's size; its process is confined."""
    with tempfile.TemporaryDirectory() as exchange:
        np.save(Path(exchange) / "pixels.npy", pixels)
        arguments = [folder.path.resolve(), Path(exchange)]
        run_confined(score_here, arguments, settings, settings.compile_timeout_s)
        return apply_activation(np.load(Path(exchange) / "scores.npy"), manifest.output)


def score_here(folder: str, exchange: str) -> None:
    """Show the pictures of `pixels.npy` to a model's own network in this process, and write `scores.npy`."""
    path = Path(folder)
    manifest = read_manifest(path)
    engine = build_reference(manifest.framework, path, manifest)
    engine.load()
    try:
        np.save(Path(exchange) / "scores.npy", infer(engine, np.load(Path(exchange) / "pixels.npy"), manifest))
    finally:
        engine.close()


def describe_expected(manifest: ModelManifest, names: Sequence[str], expected: Probabilities) -> str:
    """Write `expected.json`: each picture's probability of each class."""
    probabilities = {
        name: {label: round(float(value), DECIMALS) for label, value in zip(manifest.output.classes, row, strict=True)}
        for name, row in zip(names, expected, strict=True)
    }
    document = {"framework": manifest.framework, "tolerance": TOLERANCE, "probabilities": probabilities}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def compare(manifest: ModelManifest, framework: Probabilities, served: Probabilities) -> Comparison:
    """Put the two answers to one picture side by side."""
    calibrated = calibrate(framework[np.newaxis], manifest.output)
    decision = decide(calibrated[0], manifest.output)
    index = manifest.output.classes.index(decision.class_name)
    difference = float(np.abs(framework - served).max())
    return Comparison(decision.class_name, float(framework[index]), float(served[index]), difference)
