"""`models add --propose`: what a file says is filled in, and what is filled in after it makes a manifest that holds."""

import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.compiling.folder_compiler import hold_model
from app.compiling.proposal import propose_here
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import ManifestError, ModelFolderError, ModelFormatError
from app.exchange.model_importer import propose
from app.manifest.model_manifest import parse_manifest
from app.repository.model_content import hash_artifact
from tests.compiling.networks import (
    SIDE_PX,
    Affine,
    Apply,
    Network,
    Write,
    write_exported,
    write_keras,
    write_onnx,
    write_traced,
)
from tests.engines.programs import write_scripted
from tests.test_cli import flask

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
BLANKS = {
    "name": '"tiny-held"',
    "width_px": str(SIDE_PX),
    "height_px": str(SIDE_PX),
    "mean": "[0, 0, 0]",
    "std": "[255, 255, 255]",
    "classes": '["benign", "malignant"]',
    "positive_class": '"malignant"',
    "threshold": "0.5",
    "threshold_source": '"none was chosen"',
}
"""What a person fills in, by key."""


def fill_in(text: str, values: Mapping[str, str] = BLANKS) -> tuple[str, set[str]]:
    """Fill in the blanks of a proposal; return it and the keys that were blank."""
    blank = set(re.findall(r'^(\w+) = (?:""|\[(?:"", )*(?:"")?\])  # fill in: .+$', text, re.MULTILINE))
    for key in blank:
        text = re.sub(rf"^{key} = .*$", f"{key} = {values[key]}", text, flags=re.MULTILINE)
    return text, blank


def rescaling(keras: Any) -> Any:
    return keras.layers.Rescaling(1 / 255)


HALF_MEAN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNKNOWN = {"name", "classes", "positive_class", "threshold", "threshold_source"}
PIXELS, SIZE = {"mean", "std"}, {"width_px", "height_px"}
PROPOSED: dict[str, tuple[str, Write, dict[str, Any], set[str]]] = {
    "Keras that scales": (
        "keras",
        write_keras(rescaling, last="sigmoid", outputs=1, shape=(24, 40, 3), suffix=".keras"),
        {
            "input": {"width_px": 40, "height_px": 24, "mean": [0, 0, 0], "std": [1, 1, 1]},
            "output": {"activation": "sigmoid", "scores": "probabilities"},
        },
        UNKNOWN,
    ),
    "HDF5": (
        "keras",
        write_keras(last="softmax", suffix=".h5"),
        {"input": {"width_px": 32}, "output": {"activation": "softmax", "scores": "probabilities"}},
        UNKNOWN | PIXELS,
    ),
    "Keras, any size": ("keras", write_keras(shape=(None, None, 3), suffix=".keras"), {}, UNKNOWN | PIXELS | SIZE),
    "SavedModel": (
        "saved_model",
        write_keras(rescaling, suffix=".savedmodel"),
        {"input": {"std": [1, 1, 1]}, "output": {"scores": "logits"}},
        UNKNOWN,
    ),
    "TorchScript": ("torchscript", write_scripted, {"output": {"scores": "logits"}}, UNKNOWN | PIXELS | SIZE),
    "TorchScript, one size": (
        "torchscript",
        write_traced(Network(last=nn.Sigmoid(), outputs=1, flat=True).eval()),
        {"input": {"width_px": 32, "height_px": 32}, "output": {"activation": "sigmoid", "scores": "probabilities"}},
        UNKNOWN | PIXELS,
    ),
    "pt2 that normalizes shares": (
        "torch_export",
        write_exported(Network(Affine(1, *HALF_MEAN))),
        {"input": {"height_px": 32, "mean": [0, 0, 0], "std": [255, 255, 255]}},
        UNKNOWN,
    ),
    "ONNX with names": (
        "onnx",
        write_onnx(Network(), names="{0: 'benign', 1: 'malignant'}"),
        {"input": {"width_px": 32}, "output": {"classes": ["benign", "malignant"]}},
        (UNKNOWN | PIXELS) - {"classes"},
    ),
}


@pytest.mark.parametrize("name", PROPOSED)
def test_proposal_says_what_the_file_says_and_holds_once_it_is_filled_in(tmp_path: Path, name: str) -> None:
    framework, write, told, unknown = PROPOSED[name]
    folder = tmp_path / "tiny-held/1.0"
    folder.mkdir(parents=True)
    artifact = write(folder)
    sha256 = hash_artifact(artifact, framework)
    propose_here(str(artifact), framework, artifact.name, sha256, str(folder / "model.toml"))
    proposal = (folder / "model.toml").read_text()
    document = tomllib.loads(proposal)
    assert document["artifact"] == {"file": artifact.name, "sha256": sha256}
    assert all(document[table].items() >= values.items() for table, values in told.items()), proposal
    filled, blank = fill_in(proposal)
    assert blank == unknown
    with pytest.raises(ManifestError):
        parse_manifest(document)
    (folder / "model.toml").write_text(filled)
    hold_model(folder)


def test_proposal_without_blanks_is_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "skin-lesions/1.0"
    folder.mkdir(parents=True)
    names = "['nv', 'mel', 'bcc']"
    artifact = write_onnx(Network(Affine(127.5, (1, 1, 1)), outputs=3), names=names)(folder)
    artifact = artifact.rename(folder / "skin-lesions.onnx")
    propose_here(str(artifact), "onnx", artifact.name, hash_artifact(artifact, "onnx"), str(folder / "model.toml"))
    proposal = (folder / "model.toml").read_text()
    assert fill_in(proposal) == (proposal, set())
    hold_model(folder)


REFUSED: dict[str, tuple[str, Write, str]] = {
    "two outputs": ("torchscript", write_traced(Network(last=Apply(lambda s: (s, s))).eval()), "has 2 outputs"),
    "grey": ("keras", write_keras(shape=(32, 32, 1), suffix=".keras"), "the server gives R, G and B"),
    "sigmoid of two": ("keras", write_keras(last="sigmoid", suffix=".keras"), "a sigmoid for each of 2 outputs"),
    "sigmoid of two behind a scale": (
        "keras",
        write_keras(rescaling, last="sigmoid", suffix=".keras"),
        "a sigmoid for each of 2 outputs",
    ),
    "decisions": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: scores.argmax(1, keepdim=True))).eval()),
        "the network returns decisions",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_network_that_no_manifest_describes_is_refused(tmp_path: Path, name: str) -> None:
    framework, write, reason = REFUSED[name]
    artifact = write(tmp_path)
    with pytest.raises(ModelFolderError, match=reason):
        propose_here(str(artifact), framework, artifact.name, "", str(tmp_path / "model.toml"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models").mkdir()
    return Settings(models=tmp_path / "models", instance=tmp_path / "instance")


def test_state_dict_under_any_name_is_read_in_a_process_of_its_own(tmp_path: Path, settings: Settings) -> None:
    source = tmp_path / "my weights"
    shutil.copy(PROJECT_ROOT / "models/pcam-classification/1.0/model.safetensors", source)
    done = flask("models", "add", str(source), "--propose", models=str(settings.models))
    assert (done.returncode, done.stderr) == (0, "")
    document = tomllib.loads(done.stdout)
    assert document["artifact"]["architecture"] == "efficientnet_lite0"
    assert document["artifact"]["file"] == "model.safetensors"
    assert (document["input"]["width_px"], document["output"]["activation"]) == ("", "softmax")
    assert list(settings.models.iterdir()) == []
    done = flask("models", "add", str(source), "--propose", "--manifest", str(source), models=str(settings.models))
    assert (done.returncode, "leave --manifest out" in done.stderr) == (2, True)


def write_unknown_weights(folder: Path) -> Path:
    torch.save(Network().state_dict(), folder / "network.pth")
    return folder / "network.pth"


@pytest.mark.parametrize(
    "write, error, reason",
    [
        (write_traced(Network().eval()), ModelFormatError, "SCANCER_PROGRAMS=all trusts every program"),
        (write_unknown_weights, ModelFolderError, r"no known architecture \(densenet121, .*: export the whole network"),
    ],
    ids=["a program", "weights of another network"],
)
def test_file_that_would_not_be_added_is_not_read(
    tmp_path: Path, settings: Settings, write: Callable[[Path], Path], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        propose(write(tmp_path), settings)
