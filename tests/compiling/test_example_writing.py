"""`models examples`: the framework's scores beside the server's, kept where `models check` reads them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.compiling.example_writing import write_examples
from app.config.settings import Settings
from app.errors import IntegrityError, PicturesError, SignatureError
from app.repository.model_check import check_folder
from app.repository.model_folder import ModelFolder
from app.repository.signing import sign_folder
from tests.repository.test_signing import make_key
from tests.test_cli import flask_process


@pytest.fixture
def settings(models: Path, tmp_path: Path) -> Settings:
    return Settings(models=models, instance=tmp_path / "instance")


def test_scores_are_printed_side_by_side_and_kept_for_the_check(pcam: Path, tmp_path: Path, settings: Settings) -> None:
    pictures = [tmp_path / "A. Patient.png", tmp_path / "b.tiff", tmp_path / "c.jpg"]
    shutil.copy(pcam / "examples/synthetic-metastatic.png", pictures[0])
    shutil.copy(pcam / "examples/synthetic-metastatic-2.jpg", pictures[2])
    Image.open(pcam / "examples/synthetic-normal.png").save(pictures[1])
    where = {"models": str(settings.models), "instance": str(settings.instance)}
    done = flask_process("models", "examples", "pcam-classification", *map(str, pictures), **where)
    assert done.returncode == 0, done.stderr
    header, *rows, last = done.stdout.splitlines()
    assert header.split() == ["picture", "class", "framework", "served", "difference"]
    for number, row in enumerate(rows, 1):
        assert re.fullmatch(rf"{number} +metastatic +0\.\d{{6}} +0\.\d{{6}} +\d\.\de[-+]\d\d", row), row
    assert last == "ok pcam-classification/1.0: 3 pictures in examples"
    folder = ModelFolder(pcam)
    assert folder.find_examples() == ("example-1.png", "example-2.png", "example-3.jpg")
    expected = json.loads((pcam / "examples/expected.json").read_text())
    assert (expected["framework"], expected["tolerance"]) == ("torch", 0.001)
    assert expected["probabilities"]["example-2.png"]["normal"] == pytest.approx(0.538226, abs=1e-4)
    assert (pcam / "examples/example-1.png").read_bytes() == pictures[0].read_bytes()
    with Image.open(pcam / "examples/example-2.png") as kept, Image.open(pictures[1]) as brought:
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(brought))
    difference = check_folder(folder, settings)
    assert difference is not None
    assert difference < 1e-4
    assert "Patient" not in done.stdout


def test_picture_that_cannot_be_read_is_named_by_its_number_and_changes_nothing(
    pcam: Path, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    before = sorted((pcam / "examples").iterdir())
    with pytest.raises(PicturesError, match=r"^picture 2 cannot be read: The body is text, not a PNG"):
        write_examples(ModelFolder(pcam), [before[-1], tmp_path / "broken.png"], settings)
    assert sorted((pcam / "examples").iterdir()) == before


def test_signed_model_is_left_as_it_was_signed(pcam: Path, tmp_path: Path, settings: Settings) -> None:
    picture = pcam / "examples/synthetic-normal.png"
    sign_folder(ModelFolder(pcam), make_key(tmp_path, "publisher")[0])
    with pytest.raises(SignatureError, match=r"remove signature\.json, and sign the model again afterwards"):
        write_examples(ModelFolder(pcam), [picture], settings)


def test_other_weights_are_not_given_examples(pcam: Path, settings: Settings) -> None:
    with (pcam / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError, match="is not the file"):
        write_examples(ModelFolder(pcam), [pcam / "examples/synthetic-normal.png"], settings)
