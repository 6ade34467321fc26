"""Fine-tunes an ImageNet network on two classes; seeded, on the CPU, with progress on the terminal."""

import sys
import time
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.augmentation import Augmentation, augment
from training.evaluation import rank_auc
from training.image_folder import LabelledImages

MEAN = 127.0  # EfficientNet-Lite's own input scale: tensorflow/tpu, lite/efficientnet_lite_builder.py
STD = 128.0
EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the trained weights are.

    Attributes:
        architecture: key of `app.engines.pytorch.torch_architectures.ARCHITECTURES`.
        size_px: side of the square input.
        epochs: passes over the training split.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule.
        positive_draws: how often an epoch draws each positive image.
        average_decay: decay per step of the running average of the weights, which is what is kept.
        seed: of shuffling, augmentation and dropout.
    """

    architecture: str
    size_px: int
    epochs: int
    batch_size: int
    learning_rate: float
    positive_draws: int = 1
    weight_decay: float = 1e-2
    label_smoothing: float = 0.02
    average_decay: float = 0.998
    seed: int = 20261121
    augmentation: Augmentation = field(default_factory=Augmentation)


def fine_tune(model: nn.Module, recipe: Recipe, train: LabelledImages, val: LabelledImages) -> nn.Module:
    """Train `model` and return the running average of its weights.

    The validation split is only printed here: nothing is chosen by it but, later, the threshold.
    """
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    model = model.to(memory_format=torch.channels_last).train()
    average = deepcopy(model).eval()
    draws = np.repeat(np.arange(len(train.labels)), np.where(train.labels == 1, recipe.positive_draws, 1))
    steps = len(draws) // recipe.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=steps * recipe.epochs, pct_start=0.2
    )
    started = time.monotonic()
    for epoch in range(recipe.epochs):
        order = random.permutation(draws)
        for step in range(steps):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            batch = augment(train.images[rows], recipe.augmentation, random)
            loss = functional.cross_entropy(
                model(normalize(batch)), torch.from_numpy(train.labels[rows]), label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships no annotation for it
            optimizer.step()
            schedule.step()
            update_average(average, model, min(recipe.average_decay, (1 + epoch * steps + step) / 100))
            if step % 20 == 0:
                show_progress(epoch, step, steps, loss.item(), time.monotonic() - started)
        auc = rank_auc(val.labels, score(average, val.images))
        print(f"\nepoch {epoch + 1} of {recipe.epochs}: validation AUC {auc:.4f}", flush=True)
    return average


def normalize(batch: Tensor) -> Tensor:
    """Bring float32 [N, 3, H, W] from 0..255 to the network's scale."""
    return (batch - MEAN) / STD


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the running average a step towards the model; integer buffers are copied."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


@torch.inference_mode()
def score(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the probability of class 1, float64 [N], for uint8 images [N, H, W, 3]."""
    model.eval()
    parts = []
    for start in range(0, len(images), EVALUATION_BATCH):
        batch = torch.from_numpy(images[start : start + EVALUATION_BATCH]).permute(0, 3, 1, 2).float()
        parts.append(model(normalize(batch)).softmax(1)[:, 1].double().numpy())
    return np.concatenate(parts)


def show_progress(epoch: int, step: int, steps: int, loss: float, elapsed_s: float) -> None:
    """Write one progress line: over the last one on a terminal, below it elsewhere."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"epoch {epoch + 1} step {step}/{steps} loss {loss:.3f} {elapsed_s:.0f} s", end=end, file=sys.stderr)
