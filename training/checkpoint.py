"""Trains a recipe once and keeps the weights, so that writing the model folder can be repeated without it."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from app.engines.pytorch.torch_architectures import ARCHITECTURES
from training.fine_tuning import Recipe, fine_tune
from training.image_folder import read_split
from training.imagenet import build_pretrained

CLASSES = 2


def train_or_load(recipe: Recipe, data: Path, name: str, checkpoint: Path) -> nn.Module:
    """Return the trained network: from `checkpoint` if that file exists, else trained now and written there."""
    if checkpoint.exists():
        network = ARCHITECTURES[recipe.architecture](CLASSES)
        network.load_state_dict(load_file(checkpoint))
        return network.eval()
    train, val = (read_split(data, name, split, recipe.size_px) for split in ("train", "val"))
    network = fine_tune(build_pretrained(recipe.architecture, CLASSES), recipe, train, val)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_weights(network, checkpoint)
    return network


def write_weights(network: nn.Module, path: Path) -> None:
    """Write the weights as safetensors, which wants them contiguous."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
