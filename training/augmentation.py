"""Random changes of a training batch: what differs between scanners and cameras but not between classes."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""How haematoxylin, eosin and the rest (DAB's direction) absorb red, green and blue (Ruifrok and Johnston 2001)."""
STAIN_SHIFT = 0.2  # in units of optical density, a share of the bound


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed.

    Attributes:
        zoom: largest factor in or out.
        aspect: largest factor by which an image is stretched one way; wants `any_angle`.
        any_angle: rotate by any angle; otherwise by quarter turns alone, which resample nothing.
        brightness: largest shift and contrast change, as a share of the full range.
        colour: largest change of each channel's gain (lamp, white balance).
        stain: largest change of the amount of haematoxylin, eosin and rest, as a share; 0 for pictures of no stain.
        jpeg: share of images that are compressed again, at quality 40 to 95.
        blur: share of images smoothed by a 3x3 binomial kernel.
    """

    zoom: float = 1.0
    aspect: float = 1.0
    any_angle: bool = False
    brightness: float = 0.1
    colour: float = 0.05
    stain: float = 0.0
    jpeg: float = 0.2
    blur: float = 0.2


def augment(images: NDArray[np.uint8], how: Augmentation, random: np.random.Generator) -> Tensor:
    """Change a batch at random.

    Args:
        images: uint8, [N, H, W, 3], square.
        how: the bounds.
        random: source of every choice, so that a seed repeats the run.

    Returns:
        float32, [N, 3, H, W], 0 to 255, channels-last in memory.
    """
    count = len(images)
    images = np.stack([recompress(im, random) if random.random() < how.jpeg else im for im in images])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    batch = move(batch, how, random)
    if how.stain:
        batch = restain(batch, how.stain, random)
    gain = 1 + uniform(random, (count, 3, 1, 1), how.colour)
    contrast = 1 + uniform(random, (count, 1, 1, 1), how.brightness)
    shift = 255 * uniform(random, (count, 1, 1, 1), how.brightness)
    mean = batch.mean((2, 3), keepdim=True)
    batch = ((batch - mean) * contrast + mean) * gain + shift
    blurred = torch.from_numpy(random.random(count) < how.blur)
    if blurred.any():
        batch[blurred] = smooth(batch[blurred])
    return batch.clamp(0, 255).contiguous(memory_format=torch.channels_last)


def uniform(random: np.random.Generator, shape: tuple[int, ...], bound: float) -> Tensor:
    """Draw float32 numbers between -bound and bound."""
    return torch.from_numpy(random.uniform(-bound, bound, shape).astype(np.float32))


def recompress(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Send one image, uint8 [H, W, 3], through JPEG at a random quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(random.integers(40, 96)))
    return np.asarray(Image.open(buffer))


def restain(batch: Tensor, bound: float, random: np.random.Generator) -> Tensor:
    """Change how much of each stain float32 [N, 3, H, W] holds (Tellez et al. 2018, doi:10.1109/TMI.2018.2820199).

    Light is absorbed in proportion to the stains (Beer and Lambert), so a picture's logarithm is a sum of them.
    """
    count, _, height, width = batch.shape
    stains = torch.tensor(STAINS)
    stains = stains / stains.norm(dim=1, keepdim=True)
    amount = torch.linalg.solve(stains.T, -torch.log((batch.flatten(2) + 1) / 256))
    amount = amount * (1 + uniform(random, (count, 3, 1), bound)) + uniform(random, (count, 3, 1), bound * STAIN_SHIFT)
    return (256 * torch.exp(-(stains.T @ amount)) - 1).reshape(count, 3, height, width)


def move(batch: Tensor, how: Augmentation, random: np.random.Generator) -> Tensor:
    """Flip, turn and zoom each image of float32 [N, 3, H, W]; what comes in from outside is its mirror image."""
    count = len(batch)
    if not how.any_angle and how.zoom == 1.0:
        turns = random.integers(0, 4, count)
        flips = random.random(count) < 0.5
        turned = [torch.rot90(im, int(turn), (1, 2)) for im, turn in zip(batch, turns, strict=True)]
        return torch.stack([im.flip(2) if flip else im for im, flip in zip(turned, flips, strict=True)])
    angle = random.uniform(0, 2 * np.pi, count)
    scale = how.zoom ** random.uniform(-1, 1, count)
    stretch = how.aspect ** random.uniform(-0.5, 0.5, count)
    mirror = random.choice((-1.0, 1.0), count)
    matrix = np.zeros((count, 2, 3), dtype=np.float32)
    across, down = scale * stretch, scale / stretch
    matrix[:, 0, 0], matrix[:, 0, 1] = mirror * np.cos(angle) * across, -np.sin(angle) * across
    matrix[:, 1, 0], matrix[:, 1, 1] = mirror * np.sin(angle) * down, np.cos(angle) * down
    grid = functional.affine_grid(torch.from_numpy(matrix), list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)


def smooth(batch: Tensor) -> Tensor:
    """Smooth float32 [N, 3, H, W] with the kernel 1-2-1 in both directions."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(3, 1, 3, 3)
    return functional.conv2d(functional.pad(batch, (1, 1, 1, 1), mode="reflect"), kernel, groups=3)
