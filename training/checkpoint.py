"""Trains a recipe once and keeps the weights, so that writing the model folder can be repeated without it."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from app.engines.pytorch.torch_architectures import ARCHITECTURES
from training.fine_tuning import CLASSES, Recipe, fine_tune


def train_or_load(recipe: Recipe, data: Path, weights: Path) -> nn.Module:
    """Return the trained network: from `weights` if that file exists, else trained now and written there."""
    if weights.exists():
        return load_network(recipe, weights)
    weights.parent.mkdir(parents=True, exist_ok=True)
    network = fine_tune(recipe, data, weights.with_suffix(".checkpoint"))
    write_weights(network, weights)
    return network


def load_network(recipe: Recipe, weights: Path) -> nn.Module:
    """Read a network of the recipe's architecture and two classes."""
    network = ARCHITECTURES[recipe.architecture](CLASSES)
    network.load_state_dict(load_file(weights))
    return network.eval()


def write_weights(network: nn.Module, path: Path) -> None:
    """Write the weights as safetensors, which wants them contiguous."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
