"""Fine-tunes an ImageNet network on two classes; seeded, on the CPU, resumable after any stop, with progress."""

import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.augmentation import Augmentation, augment
from training.balance import Balance, count_draws
from training.evaluation import rank_auc
from training.image_folder import LabelledImages, read_split
from training.imagenet import build_pretrained

MEAN = 127.0  # EfficientNet-Lite's own input scale: tensorflow/tpu, lite/efficientnet_lite_builder.py
STD = 128.0
EVALUATION_BATCH = 128
CLASSES = 2
SAVE_STEPS = 100
UNKNOWN = -100  # what cross_entropy ignores

Teach = Callable[[Tensor, np.random.Generator], tuple[Tensor, Tensor]]
"""From a batch, float32 [N, 3, H, W], 0 to 255, to the one to learn from and its probabilities, float32 [N, 2]."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the trained weights are.

    Attributes:
        architecture: key of `app.engines.pytorch.torch_architectures.ARCHITECTURES`.
        sets: data sets to learn from.
        stages: side of the square input and epochs at it, one after the other; the last side is the model's.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule.
        balance: how often an epoch draws each image; None: once.
        diagnoses: what a second output learns beside the two classes, by the manifest's `dx`; thrown away at the end.
        average_decay: decay per step of the running average of the weights, which is what is kept.
        seed: of shuffling, augmentation and dropout.
    """

    architecture: str
    sets: tuple[str, ...]
    stages: tuple[tuple[int, int], ...]
    batch_size: int
    learning_rate: float
    balance: Balance | None = None
    diagnoses: tuple[str, ...] = ()
    diagnosis_weight: float = 0.5
    weight_decay: float = 1e-2
    label_smoothing: float = 0.02
    average_decay: float = 0.998
    seed: int = 20261121
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def size_px(self) -> int:
        """Side of the model's input."""
        return self.stages[-1][0]

    @property
    def epochs(self) -> int:
        """Passes over the training split, in all."""
        return sum(epochs for _, epochs in self.stages)


class Training:
    """A training that can stop between any two steps: what a step does depends on its number alone."""

    def __init__(self, recipe: Recipe, checkpoint: Path, steps: int, start: nn.Module | None = None) -> None:
        self._recipe, self._checkpoint, self.steps = recipe, checkpoint, steps
        self.done = 0
        self.model = (
            deepcopy(start) if start else build_pretrained(recipe.architecture, CLASSES + len(recipe.diagnoses))
        )
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks the keyword
        self.average = deepcopy(self.model).eval()
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, recipe.learning_rate, total_steps=steps * recipe.epochs, pct_start=0.2
        )
        self._parts: tuple[Any, ...] = (self.model, self.average, self._optimizer, self._schedule)
        if checkpoint.exists():
            self._restore(torch.load(checkpoint, weights_only=True))

    def learn(self, batch: Tensor, labels: Tensor, diagnoses: Tensor) -> float:
        """Take one step; return the loss. `labels` are int64 [N], or probabilities, float32 [N, 2]."""
        recipe = self._recipe
        self.model.train()
        outputs = self.model(normalize(batch))
        loss = functional.cross_entropy(outputs[:, :CLASSES], labels, label_smoothing=recipe.label_smoothing)
        if (diagnoses != UNKNOWN).any():
            further = functional.cross_entropy(
                outputs[:, CLASSES:], diagnoses, ignore_index=UNKNOWN, label_smoothing=recipe.label_smoothing
            )
            loss = loss + recipe.diagnosis_weight * further
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships no annotation for it
        self._optimizer.step()
        self._schedule.step()
        update_average(self.average, self.model, min(recipe.average_decay, self.done / 100))
        self.done += 1
        if self.done % SAVE_STEPS == 0:
            self.save()
        return float(loss.item())

    def save(self) -> None:
        """Write the checkpoint; a stop in between leaves the last one."""
        new = self._checkpoint.with_suffix(".new")
        parts = [part.state_dict() for part in self._parts]
        torch.save({"done": self.done, "recipe": repr(self._recipe), "parts": parts}, new)
        new.replace(self._checkpoint)

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["recipe"] != repr(self._recipe):
            raise ValueError(f"{self._checkpoint} is of another recipe: move it away")
        self.done = saved["done"]
        for part, state in zip(self._parts, saved["parts"], strict=True):
            part.load_state_dict(state)


def fine_tune(
    recipe: Recipe, data: Path, checkpoint: Path, start: nn.Module | None = None, teach: Teach | None = None
) -> nn.Module:
    """Train a network, from `checkpoint` on if that file is there, and return the average of its weights.

    The validation split is only printed here: nothing is chosen by it but, later, calibration and threshold.

    Args:
        recipe: what decides the weights.
        data: holds the recipe's data sets.
        checkpoint: is written as the training goes on.
        start: the network to begin with; None: one with ImageNet weights.
        teach: says what to learn from a batch; None: its labels.
    """
    size_px = -1
    for epoch, wanted_px in enumerate(size for size, epochs in recipe.stages for _ in range(epochs)):
        if wanted_px != size_px:
            size_px = wanted_px
            train, val = (read_split(data, recipe.sets, split, size_px) for split in ("train", "val"))
        if epoch == 0:
            steps = len(list_draws(recipe, train, 0)) // recipe.batch_size
            training = Training(recipe, checkpoint, steps, start)
        if training.done >= (epoch + 1) * steps:
            continue
        started = time.monotonic()
        for step, rows in iterate_batches(recipe, train, epoch, training):
            random = np.random.default_rng((recipe.seed, epoch, step))
            torch.manual_seed(int(random.integers(2**31)))
            batch = augment(train.images[rows], recipe.augmentation, random)
            labels = torch.from_numpy(train.labels[rows])
            if teach:
                batch, labels = teach(batch, random)
            diagnoses = [number_of(recipe.diagnoses, name) for name in train.diagnoses[rows]]
            loss = training.learn(batch, labels, torch.tensor(diagnoses))
            if step % 20 == 0:
                show_progress(epoch, step, steps, loss, time.monotonic() - started)
        training.save()
        auc = rank_auc(val.labels, score(training.average, val.images))
        print(f"\nepoch {epoch + 1} of {recipe.epochs}, {size_px} px: validation AUC {auc:.4f}", flush=True)
    return keep_classes(training.average)


def iterate_batches(
    recipe: Recipe, train: LabelledImages, epoch: int, training: Training
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the steps of an epoch that were not done, each with its images' rows."""
    order = list_draws(recipe, train, epoch)
    for step in range(training.done - epoch * training.steps, training.steps):
        yield step, order[step * recipe.batch_size : (step + 1) * recipe.batch_size]


def list_draws(recipe: Recipe, train: LabelledImages, epoch: int) -> NDArray[np.int64]:
    """Return the rows of an epoch's images, in its order."""
    random = np.random.default_rng((recipe.seed, epoch))
    counts = count_draws(recipe.balance, train, random) if recipe.balance else np.ones(len(train.labels), np.int64)
    return random.permutation(np.repeat(np.arange(len(counts)), counts))


def number_of(names: tuple[str, ...], name: str) -> int:
    """Return the place of `name` among `names`, or `UNKNOWN`."""
    return names.index(name) if name in names else UNKNOWN


def keep_classes(network: nn.Module) -> nn.Module:
    """Cut the second output off the classifier."""
    whole = network.classifier
    assert isinstance(whole, nn.Linear)
    network.classifier = nn.Linear(whole.in_features, CLASSES)
    with torch.no_grad():
        network.classifier.weight.copy_(whole.weight[:CLASSES])
        network.classifier.bias.copy_(whole.bias[:CLASSES])
    return network.eval()


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
    """Return the probability of class 1 of the first two, float64 [N], for uint8 images [N, H, W, 3]."""
    model.eval()
    parts = []
    for start in range(0, len(images), EVALUATION_BATCH):
        batch = torch.from_numpy(images[start : start + EVALUATION_BATCH]).permute(0, 3, 1, 2).float()
        parts.append(model(normalize(batch))[:, :CLASSES].softmax(1)[:, 1].double().numpy())
    return np.concatenate(parts)


def show_progress(epoch: int, step: int, steps: int, loss: float, elapsed_s: float) -> None:
    """Write one progress line: over the last one on a terminal, below it elsewhere."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"epoch {epoch + 1} step {step}/{steps} loss {loss:.3f} {elapsed_s:.0f} s", end=end, file=sys.stderr)
