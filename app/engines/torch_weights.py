"""Turns a PyTorch state dict into safetensors, so that what a model folder keeps is data whoever loads it."""

from pathlib import Path
from pickle import UnpicklingError  # the error alone; what unpickles is torch's restricted reader
from typing import Any

import torch
from safetensors.torch import save_file

from app.errors import IntegrityError


def convert_state_dict(source: Path, target: Path) -> None:
    """Read a state dict by PyTorch's restricted reader, and write its tensors to `target`.

    Raises:
        IntegrityError: it holds more than named tensors, or a tensor that declares more than it has.
        OSError: it cannot be read, or the target not written.
    """
    try:
        weights = torch.load(source, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"{source.name} is no PyTorch state dict of weights alone") from error
    if not isinstance(weights, dict) or not weights:
        raise IntegrityError(f"{source.name} is no state dict: it does not hold tensors by name")
    for name, tensor in weights.items():
        check_tensor(source.name, name, tensor)
    # Clones: tensors that share memory, as tied weights do, are refused by safetensors.
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}, target)


def check_tensor(file: str, name: Any, tensor: Any) -> None:
    """Refuse an entry that is not a plain tensor; one of stride 0 may declare a million times what it has."""
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise IntegrityError(f"{file} is no state dict: it holds {str(name)[:80]}, which is not a tensor by its name")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise IntegrityError(f"{file} holds {name[:80]}, which is not a plain tensor of numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise IntegrityError(f"{file} holds {name[:80]}, which declares more numbers than it has")
