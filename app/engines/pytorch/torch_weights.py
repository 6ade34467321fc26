"""Reads what a PyTorch file holds: safetensors, or a state dict or checkpoint by PyTorch's restricted reader."""

import zipfile
from pathlib import Path
from pickle import UnpicklingError  # the error alone; what unpickles is torch's restricted reader
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from app.engines.network_facts import MAX_TEXT
from app.engines.pytorch.checkpoint_classes import is_training_class
from app.engines.pytorch.checkpoints import Tensors, find_nearest, find_weights, list_found, refuse_several
from app.engines.pytorch.torch_architectures import ARCHITECTURES
from app.errors import IntegrityError

READING_ERRORS = (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError)
TRIED_OUTPUTS = 7
"""Outputs with which an architecture is built to be compared: no layer inside of one is so narrow."""


class Blank:
    """What stands in the place of an object that only training needs. It keeps and does nothing."""

    def __new__(cls, *_: object) -> "Blank":
        """Take whatever the object was made of."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Take whatever the object knew."""


def make_dict(*_: object) -> dict[Any, Any]:
    """Stand in the place of `defaultdict`, whose entries follow."""
    return {}


STAND_INS = {"AttributeDict": dict, "defaultdict": make_dict}
"""For classes whose entries PyTorch's reader fills in, by their last name; `Blank` stands for all others."""


def read_weights(path: Path) -> Any:
    """Read an artifact; its suffix says how, and there is no second try in another way.

    Returns tensors by name, or what else `torch.save` wrote; see `find_weights`. Raises `IntegrityError` if the file is
    not of that format, or names a class that has no place in a checkpoint.
    """
    if path.suffix != ".safetensors":
        return _read_checkpoint(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path.name} cannot be read as safetensors: {error}") from error


def _read_checkpoint(path: Path) -> Any:
    """Read with `weights_only`. Where a trainer's own objects stand, nothing of theirs is imported, made or called."""
    try:
        named = sorted(get_unsafe_globals_in_checkpoint(path))
        foreign = [name for name in named if not is_training_class(name)]
        if not foreign:
            stand_ins = [(STAND_INS.get(name.rpartition(".")[2], Blank), name) for name in named]
            with safe_globals(stand_ins):  # type: ignore[arg-type]  # it takes pairs, too
                return torch.load(path, map_location="cpu", weights_only=True)
    except READING_ERRORS as error:
        raise IntegrityError(f"{path.name} is no PyTorch file of weights, or is damaged") from error
    raise IntegrityError(
        f"{path.name} holds {', '.join(foreign[:3])}, and not only weights; "
        "save network.state_dict() with torch.save, and add that file"
    )


def read_metadata(path: Path) -> dict[str, str]:
    """Read what is written beside the tensors: safetensors' metadata, or a program's extra files, by their stems."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if "/extra/" in info.filename]
        return {
            Path(info.filename).stem: archive.read(info).decode(errors="replace")
            for info in members
            if info.file_size <= MAX_TEXT
        }


def find_architecture(path: Path) -> tuple[str, int]:
    """Find the listed architecture that weights belong to, and how many outputs it has; nothing is computed.

    Raises `IntegrityError` if they belong to none, or if there are several sets of them.
    """
    content, tried = read_weights(path), {}
    for name, build in ARCHITECTURES.items():
        with torch.device("meta"):
            needed = tried[name] = build(TRIED_OUTPUTS).state_dict()
        found = [each for each in list_found(content, needed) if not each.more]
        outputs = {count for each in found if (count := _count_outputs(each.weights, needed)) is not None}
        if outputs and len(found) > 1:
            raise refuse_several(path.name, name, found)
        if outputs:
            return name, outputs.pop()
    if (nearest := find_nearest(content, tried)) is not None:
        find_weights(path.name, content, nearest, tried[nearest])  # says why the file does not hold them
    raise IntegrityError(
        f"{path.name} holds the weights of no known architecture ({', '.join(sorted(ARCHITECTURES))}): export the "
        "whole network as ONNX or TorchScript"
    )


def _count_outputs(weights: Tensors, needed: Tensors) -> int | None:
    """Return how many outputs weights have, if all else of them is as an architecture of `TRIED_OUTPUTS` needs it."""
    pairs = [(tuple(tensor.shape), tuple(needed[name].shape)) for name, tensor in weights.items()]
    found = {shape[:1] for shape, wanted in pairs if wanted[:1] == (TRIED_OUTPUTS,)}
    if len(found) != 1:
        return None
    (outputs,) = found
    is_same = all(
        shape == (outputs + wanted[1:] if wanted[:1] == (TRIED_OUTPUTS,) else wanted) for shape, wanted in pairs
    )
    return outputs[0] if is_same and outputs else None
