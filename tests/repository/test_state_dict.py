"""A PyTorch state dict is read by the restricted reader, kept as safetensors, and refused where it holds more."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.config import MIB, Settings
from app.errors import IntegrityError, ManifestError
from app.repository.model_importer import add_model
from app.repository.weights_converter import rename_in_manifest
from app.setting_types import PROJECT_ROOT

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


def test_state_dict_is_added_and_kept_as_safetensors(tmp_path: Path, empty: Settings) -> None:
    folder = add_model(*write_source(tmp_path, "weights.pt")[:1], empty, tmp_path / "brought.toml")
    assert sorted(path.name for path in folder.path.iterdir()) == ["compiled", "model.toml", "weights.safetensors"]
    manifest = folder.read_manifest()
    assert manifest.artifact.file == "weights.safetensors"
    folder.verify_artifact(manifest)
    kept, shipped = load_file(folder.path / "weights.safetensors"), load_file(PCAM / "model.safetensors")
    assert kept.keys() == shipped.keys()
    assert all(torch.equal(kept[name], shipped[name]) for name in shipped)


def test_state_dict_of_another_hash_is_not_read(tmp_path: Path, empty: Settings) -> None:
    weights, manifest = write_source(tmp_path, "weights.pt", f'sha256 = "{"0" * 64}"')
    with pytest.raises(IntegrityError, match=r"^weights\.pt is not the file that the manifest's sha256 names$"):
        add_model(weights, empty, manifest)
    assert list(empty.models.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
def test_state_dict_is_opened_in_a_confined_process(tmp_path: Path, empty: Settings) -> None:
    weights, manifest = write_source(tmp_path, "weights.pt")
    with pytest.raises(IntegrityError):  # of the conversion, before anything is compiled
        add_model(weights, replace(empty, compile_memory_bytes=128 * MIB), manifest)
    assert list(empty.models.iterdir()) == []


def convert(tmp_path: Path, content: Any) -> dict[str, Any]:
    from app.engines.torch_weights import convert_state_dict

    torch.save(content, tmp_path / "weights.pt")
    convert_state_dict(tmp_path / "weights.pt", tmp_path / "weights.safetensors")
    return dict(load_file(tmp_path / "weights.safetensors"))


def test_tied_and_transposed_weights_are_written_whole(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    found = convert(tmp_path, {"a": weight, "b": weight, "c": weight.T, "d": torch.tensor(3)})
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], weight.T)
    assert found["d"].item() == 3


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a module": (lambda: torch.nn.Linear(2, 2), "no PyTorch state dict of weights alone"),
    "a path": (lambda: {"a": Path("secret")}, "no PyTorch state dict of weights alone"),
    "a list": (lambda: [torch.zeros(1)], "does not hold tensors by name"),
    "nothing": (dict, "does not hold tensors by name"),
    "a number": (lambda: {"epoch": 3}, "holds epoch, which is not a tensor"),
    "a checkpoint": (lambda: {"state_dict": {"a": torch.zeros(1)}}, "holds state_dict, which is not a tensor"),
    "a key that is no name": (lambda: {1: torch.zeros(1)}, "holds 1, which is not a tensor by its name"),
    "a tensor of stride 0": (lambda: {"a": torch.zeros(1).expand(1 << 40)}, "declares more numbers than it has"),
    "a sparse tensor": (lambda: {"a": torch.eye(2).to_sparse()}, "not a plain tensor|of weights alone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_weights_is_refused(tmp_path: Path, name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(IntegrityError, match=reason):
        convert(tmp_path, make())
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize(
    "line",
    [
        'artifact = { file = "weights.pt" }',
        'artifact.file = "weights.pt"',
        'description = """\nfile = "weights.pt"\n"""\nartifact = { file = "weights.pt" }',
    ],
    ids=["inline", "dotted", "in a text"],
)
def test_manifest_written_in_another_way_is_refused_by_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "model.toml").write_text(f"{line}\n")
    with pytest.raises(ManifestError, match=r'as file = "weights\.pt"$'):
        rename_in_manifest(tmp_path / "model.toml", "weights.pt", "weights.safetensors")
