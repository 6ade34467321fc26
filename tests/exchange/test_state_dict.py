"""A PyTorch state dict or checkpoint is added, served as its weights, and read in a confined process alone."""

import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app import create_app
from app.api.request.services import EXTENSION
from app.compiling.folder_compiler import compile_in_process
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import MIB, Settings
from app.engines.pytorch.torch_weights import read_weights
from app.errors import CompiledModelError, IntegrityError
from app.exchange.model_importer import add_model
from app.processes.plain_files import hash_files
from app.repository.model_check import check_folder
from app.repository.model_folder import ModelFolder

pytestmark = pytest.mark.slow

PCAM = PROJECT_ROOT / "models/pcam-classification/1.0"


def write_source(folder: Path, file: str, sha256: str = "") -> tuple[Path, Path]:
    """The shipped weights as `torch.save` writes them, and the shipped manifest with their name."""
    weights, manifest = folder / "brought", folder / "brought.toml"
    torch.save(load_file(PCAM / "model.safetensors"), weights)
    lines = (PCAM / "model.toml").read_text().splitlines()
    text = "\n".join(sha256 if line.startswith("sha256") else line for line in lines)
    manifest.write_text(text.replace('file = "model.safetensors"', f"file = '{file}'"))
    return weights, manifest


@pytest.fixture
def empty(tmp_path: Path) -> Settings:
    (tmp_path / "models").mkdir()
    return Settings(models=tmp_path / "models", instance=tmp_path / "instance")


def test_state_dict_is_added_and_answers_as_the_shipped_weights(tmp_path: Path, empty: Settings) -> None:
    weights, manifest = write_source(tmp_path, "weights.pt")
    folder = add_model(weights, empty, manifest)
    assert sorted(path.name for path in folder.path.iterdir()) == ["compiled", "model.toml", "weights.pt"]
    assert (folder.path / "weights.pt").read_bytes() == weights.read_bytes()
    shutil.copytree(PCAM / "examples", folder.path / "examples")
    assert check_folder(folder, empty) < 1e-4


def test_state_dict_in_a_folder_that_somebody_puts_there_is_compiled(tmp_path: Path, empty: Settings) -> None:
    folder = ModelFolder(empty.models / "pcam-classification/1.0")
    folder.path.mkdir(parents=True)
    weights, manifest = write_source(tmp_path, "weights.pth")
    text = manifest.read_text().replace("[artifact]", f'[artifact]\nsha256 = "{hash_files(weights)}"')
    weights.rename(folder.path / "weights.pth")
    (folder.path / "model.toml").write_text(text)
    assert compile_in_process(folder.path, empty).max_probability_difference < 1e-4


def test_state_dict_of_another_hash_is_not_read(tmp_path: Path, empty: Settings) -> None:
    weights, manifest = write_source(tmp_path, "weights.pt", f'sha256 = "{"0" * 64}"')
    with pytest.raises(IntegrityError, match=r"^weights\.pt is not the file that the manifest's sha256 names$"):
        add_model(weights, empty, manifest)
    assert list(empty.models.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
def test_state_dict_is_opened_in_a_confined_process(tmp_path: Path, empty: Settings) -> None:
    weights, manifest = write_source(tmp_path, "weights.pt")
    with pytest.raises(CompiledModelError):
        add_model(weights, replace(empty, model_memory_bytes=128 * MIB), manifest)
    assert list(empty.models.iterdir()) == []


def test_checkpoint_is_added_and_the_command_says_what_it_took(
    tmp_path: Path, empty: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights, manifest = write_source(tmp_path, "weights.ckpt")
    state = {f"model.{name}": tensor for name, tensor in torch.load(weights, weights_only=True).items()}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 0.1}, "epoch": 3}, weights)
    app = create_app(empty)
    caplog.set_level(logging.INFO)
    command = ["models", "add", str(weights), "--manifest", str(manifest)]
    done = app.test_cli_runner().invoke(args=command)
    took = "weights.ckpt: took the weights under state_dict with the prefix model."
    assert done.output == f"{took}\nok pcam-classification/1.0: added and tried out\n"
    assert f"pcam-classification/1.0: {took}" in caplog.text
    folder = ModelFolder(empty.models / "pcam-classification/1.0")
    assert folder.read_report(folder.read_manifest()).note == took
    shutil.copytree(PCAM / "examples", folder.path / "examples")
    assert check_folder(folder, empty) < 1e-4
    app.extensions[EXTENSION].follower.close()


def test_tied_and_transposed_weights_are_read_whole(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": weight, "b": weight, "c": weight.T, "d": torch.tensor(3)}, tmp_path / "weights.pt")
    found = read_weights(tmp_path / "weights.pt")
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], weight.T)
    assert found["d"].item() == 3
