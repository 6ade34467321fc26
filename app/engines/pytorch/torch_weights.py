"""Reads the weights of a PyTorch model: safetensors, or a state dict by PyTorch's restricted reader."""

import zipfile
from pathlib import Path
from pickle import UnpicklingError  # the error alone; what unpickles is torch's restricted reader
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from app.engines.network_facts import MAX_TEXT
from app.engines.pytorch.torch_architectures import ARCHITECTURES
from app.errors import IntegrityError

TRIED_OUTPUTS = 7
"""Outputs with which an architecture is built to be compared: no layer inside of one is so narrow."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read an artifact's tensors by name; its suffix says how, and there is no second try in another way.

    Raises `IntegrityError` if it is not of that format, or holds more than named tensors of numbers.
    """
    if path.suffix != ".safetensors":
        return _read_state_dict(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path.name} cannot be read as safetensors: {error}") from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError, OSError) as error:
        raise IntegrityError(f"{path.name} is no PyTorch state dict of weights alone") from error
    if not isinstance(weights, dict) or not weights:
        raise IntegrityError(f"{path.name} is no state dict: it does not hold tensors by name")
    for name, tensor in weights.items():
        _check_tensor(path.name, name, tensor)
    return dict(weights)


def _check_tensor(file: str, name: Any, tensor: Any) -> None:
    """Refuse an entry that is not a plain tensor; one of stride 0 may declare a million times what it has."""
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise IntegrityError(f"{file} is no state dict: it holds {str(name)[:80]}, which is not a tensor by its name")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise IntegrityError(f"{file} holds {name[:80]}, which is not a plain tensor of numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise IntegrityError(f"{file} holds {name[:80]}, which declares more numbers than it has")


def read_metadata(path: Path) -> dict[str, str]:
    """Read what is written beside the tensors: safetensors' metadata, or a program's extra files, by their stems."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if "/extra/" in info.filename]
        return {
            Path(info.filename).stem: archive.read(info).decode(errors="replace")
            for info in members
            if info.file_size <= MAX_TEXT
        }


def find_architecture(path: Path) -> tuple[str, int]:
    """Find the listed architecture that weights belong to, and how many outputs it has; nothing is computed.

    Raises `IntegrityError` if they belong to none.
    """
    weights = {name: tuple(tensor.shape) for name, tensor in read_weights(path).items()}
    for name, build in ARCHITECTURES.items():
        with torch.device("meta"):
            wanted = {key: tuple(tensor.shape) for key, tensor in build(TRIED_OUTPUTS).state_dict().items()}
        found = {weights[key][0] for key, shape in wanted.items() if shape[:1] == (TRIED_OUTPUTS,) and key in weights}
        if len(found) == 1 and weights == {
            key: (*found, *shape[1:]) if shape[:1] == (TRIED_OUTPUTS,) else shape for key, shape in wanted.items()
        }:
            return name, found.pop()
    raise IntegrityError(
        f"{path.name} holds the weights of no known architecture ({', '.join(sorted(ARCHITECTURES))}): export the "
        "whole network as ONNX or TorchScript"
    )
