"""A network's weights are found in what trainers save, if there are no two; else a sentence says what was found."""

import argparse
import collections
import datetime
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from app.engines.pytorch.checkpoints import find_weights
from app.engines.pytorch.torch_architectures import ARCHITECTURES
from app.engines.pytorch.torch_weights import find_architecture, read_weights
from app.errors import IntegrityError
from app.exchange.model_format import ModelFormat, identify


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)


torch.manual_seed(0)
NETWORK = Network()
WEIGHTS = dict(NETWORK.state_dict())
OTHERS = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
STEPS = {"epoch": 3, "global_step": 40, "best": np.float64(0.9)}


def prefixed(*prefixes: str, weights: dict[str, Any] = WEIGHTS) -> dict[str, Any]:
    return {prefix + name: tensor for prefix in prefixes for name, tensor in weights.items()}


def with_head(*prefixes: str) -> dict[str, Any]:
    """The weights with other layers at their end, as transfer learning leaves them."""
    body = {name: tensor for name, tensor in WEIGHTS.items() if not name.startswith("head.")}
    return body | prefixed(*prefixes, weights={"weight": torch.ones(2, 4), "bias": torch.ones(2)})


def train() -> dict[str, Any]:
    """The state of an optimizer that has made a step: tensors, numbered by parameter."""
    optimizer = torch.optim.AdamW(NETWORK.parameters())
    sum(parameter.sum() for parameter in NETWORK.parameters()).backward()
    optimizer.step()
    return optimizer.state_dict()


def make_lightning() -> dict[str, Any]:
    """What Lightning writes, options in a class of its own included."""
    module = types.ModuleType("lightning_fabric.utilities.data")
    kind = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.AttributeDict = kind  # type: ignore[attr-defined]
    for name in ("lightning_fabric", "lightning_fabric.utilities"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    callbacks = {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9), "best_k_models": {"a": torch.tensor(0.9)}}}
    state = {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.1.0", "callbacks": callbacks}
    return state | {"hyper_parameters": kind(lr=1e-3, classes=["a"]), "optimizer_states": [train()], **STEPS}


def read(tmp_path: Path, content: Any) -> tuple[dict[str, Any], str]:
    torch.save(content, tmp_path / "weights.pt")
    assert identify(tmp_path / "weights.pt") is ModelFormat.STATE_DICT
    return find_weights("weights.pt", read_weights(tmp_path / "weights.pt"), "resnet18", WEIGHTS)


TAKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "plain": (NETWORK.state_dict, ""),
    "DataParallel": (lambda: prefixed("module."), "took the weights of the file with the prefix module."),
    "compiled": (lambda: prefixed("_orig_mod."), "took the weights of the file with the prefix _orig_mod."),
    "both": (lambda: prefixed("module._orig_mod."), "took the weights of the file with the prefix module._orig_mod."),
    "of a name of the trainer's": (lambda: prefixed("my_net."), "took the weights of the file with the prefix my_net."),
    "Lightning": (make_lightning, "took the weights under state_dict with the prefix model."),
    "timm": (
        lambda: {"arch": "resnet18", "state_dict": WEIGHTS, "args": argparse.Namespace(lr=1), **STEPS},
        "took the weights under state_dict",
    ),
    "model": (lambda: {"model": prefixed("module."), "optimizer": train(), **STEPS}, "under model with the prefix mod"),
    "model_state_dict": (
        lambda: {"model_state_dict": WEIGHTS, "optimizer_state_dict": train(), "loss": torch.tensor(0.3)},
        "took the weights under model_state_dict",
    ),
    "ema": (lambda: {"ema": {"module": WEIGHTS, "decay": 0.99}, **STEPS}, "took the weights under ema.module"),
    "objects of training": (
        lambda: {
            "weights": WEIGHTS,
            "day": datetime.date(2026, 1, 2),
            "log": collections.defaultdict(list, a=[Path("a"), np.arange(3)]),
            "criterion": nn.CrossEntropyLoss(torch.ones(2)),
            "random": (torch.get_rng_state(), np.random.default_rng(0).bit_generator.state),
        },
        "took the weights under weights",
    ),
    "weighted loss": (
        lambda: {"state_dict": {**prefixed("net."), "criterion.weight": torch.ones(2)}},
        "took the weights under state_dict with the prefix net.; left out criterion.weight",
    ),
    "average of epochs": (
        lambda: {**prefixed("module."), "n_averaged": torch.tensor(3)},
        "took the weights of the file with the prefix module.; left out n_averaged",
    ),
    "of an old version": (lambda: {name: tensor for name, tensor in WEIGHTS.items() if "batches" not in name}, ""),
}


@pytest.mark.parametrize("name", TAKEN)
def test_weights_are_found_and_it_is_said_where(tmp_path: Path, name: str) -> None:
    make, said = TAKEN[name]
    weights, note = read(tmp_path, make())
    assert note == f"weights.pt: {said}" if said.startswith("took") else said in note
    Network().load_state_dict(weights)
    for key, tensor in weights.items():
        assert torch.equal(tensor, WEIGHTS[key]), key


def test_prefix_is_taken_off_in_safetensors_too(tmp_path: Path) -> None:
    save_file(prefixed("backbone."), tmp_path / "weights.safetensors")
    weights, note = find_weights("a", read_weights(tmp_path / "weights.safetensors"), "resnet18", WEIGHTS)
    assert weights.keys() == WEIGHTS.keys()
    assert note == "a: took the weights of the file with the prefix backbone."


SHAPED = {**WEIGHTS, "head.weight": torch.zeros(1000, 4), "head.bias": torch.zeros(1000)}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: {"epochs": [WEIGHTS]}, "holds epochs alone, and no tensors by name; save network"),
    "nothing": (dict, "it holds no dict, and no tensors by name"),
    "numbers": (lambda: dict(STEPS), "it holds epoch and 2 more alone, and no tensors by name"),
    "a whole network": (lambda: {"model": nn.Linear(2, 2)}, "it holds model alone, and no tensors by name"),
    "keys that are no names": (lambda: dict(enumerate(WEIGHTS.values())), "it holds 0 and 8 more alone"),
    "two networks": (
        lambda: {"model": WEIGHTS, "ema": OTHERS},
        r"holds the weights of resnet18 under model and under ema; save with torch\.save those alone that",
    ),
    "teacher and student": (
        lambda: {"state_dict": prefixed("teacher.", "student.")},
        r"under state_dict with the prefix teacher\. and under state_dict with the prefix student\.; save",
    ),
    "a longer network": (
        lambda: {**prefixed("backbone."), "head2.weight": torch.ones(2)},
        "holds head2.weight, for which resnet18 has no place; export the network as a whole instead",
    ),
    "another network": (
        lambda: {"state_dict": {f"layer{n}.weight": torch.ones(1) for n in range(60)}},
        r"not hold the weights of resnet18 under state_dict: it lacks conv\.weight and 7 more, and holds layer",
    ),
    "a part": (
        lambda: prefixed("module.", weights=dict(list(WEIGHTS.items())[:3])),
        r"it lacks conv\.weight and 7 more, and holds module\.conv\.bias and 2 more; name the architecture",
    ),
    "several prefixes": (
        lambda: {("a." if "head" in name else "b.") + name: tensor for name, tensor in WEIGHTS.items()},
        r"with the prefix b\.: it lacks head\.weight and 1 more, and holds a\.head\.bias and 1 more; its last layers",
    ),
    "another head": (
        lambda: {"model": prefixed("module.", weights=with_head("head.1.", "head.4."))},
        r"resnet18 under model with the prefix module\.: it lacks head\.weight and 1 more, and holds module\.head"
        r"\.1\.bias and 3 more; its last layers were replaced: export the network as a whole \(ONNX, TorchScript\)$",
    ),
    "other classes": (
        lambda: SHAPED,
        r"head\.weight is \[1000, 4\], and resnet18 with the manifest's classes needs \[2, 4\]; name 1000 classes",
    ),
    "one output": (
        lambda: {**WEIGHTS, "head.weight": WEIGHTS["head.weight"][:1]},
        r'needs \[2, 4\]; name 2 classes in \[output\], and say activation = "sigmoid"$',
    ),
    "grey pictures": (
        lambda: {**WEIGHTS, "conv.weight": WEIGHTS["conv.weight"][:, :1]},
        r"; it takes 1 channels, and the server gives R, G and B",
    ),
    "a tensor of stride 0": (
        lambda: {**WEIGHTS, "conv.bias": torch.zeros(1).expand(4)},
        r"holds conv\.bias, which declares more numbers than it has",
    ),
    "a sparse tensor": (
        lambda: {**WEIGHTS, "head.weight": torch.zeros(2, 4).to_sparse()},
        r"head\.weight, which is not a plain tensor|holds torch",
    ),
    "complex numbers": (
        lambda: {**WEIGHTS, "conv.bias": torch.zeros(4, dtype=torch.complex64)},
        r"conv\.bias, which is not a plain tensor",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_or_no_such_weights_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    make, reason = REFUSED[name]
    torch.save(make(), tmp_path / "weights.pt")
    with pytest.raises(IntegrityError, match=reason) as failure:
        find_weights("weights.pt", read_weights(tmp_path / "weights.pt"), "resnet18", WEIGHTS)
    assert len(failure.value.message) < 250


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "a shell": lambda canary: Call(os.system, f"touch {canary}"),
    "a process": lambda canary: Call(subprocess.run, ["touch", str(canary)]),
    "code": lambda canary: Call(exec, f"open({str(canary)!r}, 'w')"),
    "a method": lambda canary: Call(Path.touch, canary),
    "a file": lambda canary: Call(open, str(canary), "w"),
    "a path's own": lambda canary: Call(getattr, canary, "touch"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", [("extra",), ("state_dict", "weight"), ("hyper_parameters", "a", "b")])
def test_hostile_object_beside_weights_is_refused_before_anything_runs(
    tmp_path: Path, name: str, place: tuple[str, ...]
) -> None:
    canary = tmp_path / "canary"
    content: Any = HOSTILE[name](canary)
    for key in reversed(place):
        content = {key: content}
    torch.save({"model": WEIGHTS, **content}, tmp_path / "weights.pt")
    assert identify(tmp_path / "weights.pt") is ModelFormat.TORCH_PICKLE
    with pytest.raises(IntegrityError, match=r"and not only weights; save network|is damaged"):
        read_weights(tmp_path / "weights.pt")
    assert not canary.exists()


def test_functions_of_listed_packages_are_neither_looked_for_nor_called(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    calls = [Call(np.save, str(canary), 1), Call(torch.save, 1, str(canary)), Call(collections.namedtuple, "a", "b")]
    torch.save({"model": WEIGHTS, "calls": calls}, tmp_path / "weights.pt")
    content = read_weights(tmp_path / "weights.pt")
    assert {type(each).__name__ for each in content["calls"]} == {"Blank"}
    assert list(tmp_path.iterdir()) == [tmp_path / "weights.pt"]


def test_whole_network_is_refused_by_its_format(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "weights.pt")
    assert identify(tmp_path / "weights.pt") is ModelFormat.TORCH_PICKLE


def make_state(outputs: int) -> dict[str, Any]:
    """Names and shapes of a listed network, with numbers that take no space."""
    with torch.device("meta"):
        state = ARCHITECTURES["mobilenet_v3_small"](outputs).state_dict()
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}


def test_architecture_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.ckpt", make_state(3)
    torch.save({"state_dict": prefixed("model.", weights=state), "epoch": 3}, path)
    assert find_architecture(path) == ("mobilenet_v3_small", 3)
    torch.save({"model": state, "ema": state}, path)
    with pytest.raises(IntegrityError, match="of mobilenet_v3_small under model and under ema; save with"):
        find_architecture(path)
    torch.save({"model": state, "head.weight": torch.zeros(2)}, path)
    assert find_architecture(path) == ("mobilenet_v3_small", 3)
    torch.save({**state, "head.weight": torch.zeros(2)}, path)
    with pytest.raises(IntegrityError, match=r"holds head\.weight, for which mobilenet_v3_small has no place; export"):
        find_architecture(path)
    changed = {name.replace("classifier.3.", "classifier.4."): tensor for name, tensor in state.items()}
    torch.save({"net": prefixed("module.", weights=changed)}, path)
    with pytest.raises(IntegrityError, match=r"lacks classifier\.3\.weight and 1 more.*its last layers were replaced"):
        find_architecture(path)
    torch.save(prefixed("model.", weights=WEIGHTS), path)
    with pytest.raises(IntegrityError, match="of no known architecture"):
        find_architecture(path)
    torch.save({"model": nn.Linear(2, 2), "epoch": 3}, path)
    with pytest.raises(
        IntegrityError, match=r"holds model and 1 more alone, and no tensors by name; save network\.state"
    ):
        find_architecture(path)
