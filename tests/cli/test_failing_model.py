"""A model that has no answer to some pictures costs these alone."""

import csv
import io
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops
from PIL import Image

from app.cli.classifying.answer_table import Asked
from app.cli.classifying.local_model import LocalModel
from app.errors import AnsweredError, InferenceError, UnfitImageError
from tests.evaluation.tiny_model import SIDE_PX, write_tiny_model
from tests.test_cli import flask


def make_network() -> openvino.Model:
    """The second score is the logarithm of how far a picture's brightness is below 180: no number beyond that."""
    pixels = ops.parameter([-1, SIDE_PX, SIDE_PX, 3], np.uint8, name="pixels")
    brightness = ops.reduce_mean(ops.convert(pixels, np.float32), np.array([1, 2, 3]), keep_dims=False)
    distance = ops.subtract(np.array([[180.0]], np.float32), ops.reshape(brightness, np.array([-1, 1]), False))
    scores = ops.matmul(ops.log(distance), np.array([[0.0, 1.0]], np.float32), False, False)
    return openvino.Model([ops.result(scores)], [pixels], "fails")


def write_pictures(folder: Path, *levels: int) -> Path:
    folder.mkdir()
    for index, level in enumerate(levels):
        Image.new("RGB", (SIDE_PX, SIDE_PX), (level, level, level + 1)).save(folder / f"{index}.png")
    return folder


def classify(place: Path, pictures: Path) -> tuple[int, list[dict[str, str]], str]:
    write_tiny_model(place / "models", network=make_network())
    where = {"models": str(place / "models"), "instance": str(place / "instance")}
    done = flask("classify", "tiny-brightness", str(pictures), "--jobs", "1", **where)
    return done.returncode, list(csv.DictReader(io.StringIO(done.stdout))), done.stderr


def test_a_picture_that_the_model_fails_on_is_a_row_beside_the_others(tmp_path: Path) -> None:
    status, rows, _ = classify(tmp_path, write_pictures(tmp_path / "pictures", 30, 220, 40))
    assert status == 1
    assert [bool(row["class"]) for row in rows] == [True, False, True]
    assert rows[1]["error"] == "The model returned no valid scores."


def test_pictures_of_another_kind_are_answers_beside_one_on_which_the_model_fails() -> None:
    class Served:
        def predict_many(self, uploads: list[str], takes_unfit: bool) -> tuple[list[AnsweredError], None]:
            if "fails" in uploads:
                raise InferenceError("The model returned no valid scores.")
            return [UnfitImageError("not of the kind") for _ in uploads], None

    model = LocalModel.__new__(LocalModel)
    model.asked = Asked("m", "1", 0.5, takes_unfit=False)
    answers = model._ask_each(Served(), ["fails", "unfit"])  # type: ignore[arg-type, list-item]
    assert [type(answer) for answer in answers] == [InferenceError, UnfitImageError]
    assert [type(answer) for answer in model._ask_each(Served(), ["unfit"])] == [UnfitImageError]  # type: ignore[arg-type, list-item]


def test_a_model_that_fails_on_every_picture_ends_the_run(tmp_path: Path) -> None:
    status, rows, told = classify(tmp_path, write_pictures(tmp_path / "pictures", 220, 230))
    assert (status, rows) == (1, [])
    assert "The model returned no valid scores." in told
