"""Makes each network of a recipe once and keeps it, so that writing the model folder can be repeated without it."""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from app.engines.pytorch.torch_architectures import ARCHITECTURES
from training.fine_tuning import CLASSES, Recipe


def make_or_load(recipe: Recipe, weights: Path, make: Callable[[Path], nn.Module]) -> nn.Module:
    """Return a network: from `weights` if that file exists, else made now and written there.

    `make` is given the path of its checkpoint.
    """
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        write_weights(make(weights.with_suffix(".checkpoint")), weights)
    return load_network(recipe, weights)


def load_network(recipe: Recipe, weights: Path) -> nn.Module:
    """Read a network of the recipe's architecture and two classes."""
    network = ARCHITECTURES[recipe.architecture](CLASSES)
    network.load_state_dict(load_file(weights))
    return network.eval()


def write_weights(network: nn.Module, path: Path) -> None:
    """Write the weights as safetensors, which wants them contiguous; a stop in between leaves no half a file."""
    new = path.with_name(f"{path.name}.new")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, new)
    new.replace(path)
