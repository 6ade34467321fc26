"""Averages the weights of two networks that were trained from the same start: one network that errs less than both."""

from pathlib import Path

import torch
from torch import nn

from training.fine_tuning import EVALUATION_BATCH, Recipe, normalize
from training.image_folder import read_split

STATISTICS_IMAGES = 8192


def average_networks(trained: nn.Module, earlier: nn.Module, share: float, recipe: Recipe, data: Path) -> nn.Module:
    """Move a trained network towards an earlier one (Wortsman et al. 2022, arXiv:2203.05482).

    Both began with the same ImageNet weights, so that what lies between them is a network that works too. Its batch
    normalizations are measured anew, over images of the training split as they are.

    Args:
        trained: the network, changed in place.
        earlier: of the same layers.
        share: of the earlier one in each weight.
        recipe: of the trained one.
        data: holds the recipe's data sets.
    """
    state, other = trained.state_dict(), earlier.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.dtype.is_floating_point:
                tensor.lerp_(other[name], share)
    measure_statistics(trained, recipe, data)
    return trained.eval()


@torch.no_grad()
def measure_statistics(network: nn.Module, recipe: Recipe, data: Path) -> None:
    """Set the mean and variance of every batch normalization to the average over training images."""
    images = read_split(data, recipe.sets, "train", recipe.size_px).images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed))[
        :STATISTICS_IMAGES
    ].numpy()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average over all batches
    network.train()
    for start in range(0, len(order), EVALUATION_BATCH):
        batch = torch.from_numpy(images[order[start : start + EVALUATION_BATCH]]).permute(0, 3, 1, 2).float()
        network(normalize(batch))
