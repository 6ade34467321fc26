"""Teaches a network to answer at once what the average over a picture's orientations would answer.

What a patch or a lesion shows does not depend on how it lies, so that this average errs less than one look.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.fine_tuning import CLASSES, Recipe, fine_tune, normalize

ORIENTATIONS = 8  # four quarter turns, each as it is and mirrored


@dataclass(frozen=True)
class Distillation(Recipe):
    """How a network learns from its own average (Beyer et al. 2022, arXiv:2106.05237).

    Teacher and student look at the same changed picture; the picture's label is not asked.

    Attributes:
        teacher_sizes: sides of the square in which the teacher looks at a picture.
        views: orientations that it looks at in each size, drawn at random for each batch.
        blended: share of batches in which every picture is blended with another one, so that the teacher is asked about
            pictures that it has not learned by heart (Zhang et al. 2018, arXiv:1710.09412).
    """

    teacher_sizes: tuple[int, ...] = ()
    views: int = ORIENTATIONS
    blended: float = 0.5


def distil(how: Distillation, data: Path, checkpoint: Path, network: nn.Module) -> nn.Module:
    """Go on training a copy of `network` on what its average answers; return the average of the copy's weights."""
    teacher = network.eval()

    @torch.no_grad()
    def teach(batch: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        if random.random() < how.blended:
            batch = blend(batch, random)
        return batch, answer(teacher, batch, how, random)

    return fine_tune(how, data, checkpoint, network, teach)


def answer(teacher: nn.Module, batch: Tensor, how: Distillation, random: np.random.Generator) -> Tensor:
    """Return the average's probabilities, float32 [N, 2], for float32 [N, 3, H, W], 0 to 255."""
    logits = []
    for size in how.teacher_sizes:
        inputs = normalize(resize(batch, size))
        for number in random.choice(ORIENTATIONS, how.views, replace=False):
            logits.append(teacher(orient(inputs, int(number)))[:, :CLASSES])
    return torch.stack(logits).mean(0).softmax(1)


def blend(batch: Tensor, random: np.random.Generator) -> Tensor:
    """Blend each picture of float32 [N, 3, H, W] with up to as much of the one before it."""
    share = torch.from_numpy(random.uniform(0, 0.5, (len(batch), 1, 1, 1)).astype(np.float32))
    return batch.lerp(batch.roll(1, 0), share)


def orient(batch: Tensor, number: int) -> Tensor:
    """Turn float32 [N, 3, H, W] by quarter turns, and mirror it from the fourth orientation on."""
    turned = torch.rot90(batch, number % 4, (2, 3))
    return turned.flip(3) if number >= 4 else turned


def resize(batch: Tensor, size_px: int) -> Tensor:
    """Bring float32 [N, 3, H, W] to [N, 3, `size_px`, `size_px`]."""
    if batch.shape[-1] == size_px:
        return batch
    return functional.interpolate(batch, size=(size_px, size_px), mode="bilinear", antialias=True)
