"""Draws pictures in the manner of H&E patches and of dermoscopic photos.

They are synthetic: no tissue, no patient. They show that a service answers, and that it still answers the same;
what a model says of them has no meaning.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Random = np.random.Generator
EOSIN = np.array((226, 160, 196))
HAEMATOXYLIN = np.array((92, 58, 132))
LYMPHOCYTE = np.array((66, 44, 116))
SKIN = np.array((222, 178, 156))
PIGMENT = np.array((112, 70, 52))


def make_clouds(random: Random, height_px: int, width_px: int, grain_px: int) -> NDArray[np.float64]:
    """Smooth noise, float64 [H, W], 0 to 1, with features of about `grain_px`."""
    small = random.random((height_px // grain_px + 2, width_px // grain_px + 2))
    image = Image.fromarray((small * 255).astype(np.uint8)).resize((width_px, height_px), Image.Resampling.BICUBIC)
    return np.asarray(image) / 255.0


def draw_patch(seed: int, tumour: bool, size_px: int = 96) -> Image.Image:
    """Draw an H&E-like patch: small dark round nuclei, or large pale irregular ones for `tumour`."""
    random = np.random.default_rng(seed)
    ground = EOSIN + 26 * (make_clouds(random, size_px, size_px, 8)[..., None] - 0.5)
    y, x = np.mgrid[:size_px, :size_px]
    count, radius, colour = (46, (5.0, 8.5), HAEMATOXYLIN) if tumour else (150, (2.6, 3.8), LYMPHOCYTE)
    for _ in range(count):
        centre = random.uniform(0, size_px, 2)
        axes = random.uniform(*radius) * random.uniform(0.75, 1.25, 2)
        angle = random.uniform(0, np.pi)
        dx, dy = x - centre[0], y - centre[1]
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        distance = np.hypot(u / axes[0], v / axes[1])
        inside = np.clip((1.1 - distance) * 5, 0, 1)[..., None]
        chromatin = 30 * (make_clouds(random, size_px, size_px, 3)[..., None] - 0.5)
        ground = ground * (1 - inside) + (colour + (22 if tumour else 0) + chromatin) * inside
    ground += random.normal(0, 4, ground.shape)
    return Image.fromarray(ground.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


def draw_lesion(seed: int, irregular: bool, width_px: int = 600, height_px: int = 450) -> Image.Image:
    """Draw a dermoscopy-like photo: one even, round brown spot, or a ragged one of several colours."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height_px, :width_px]
    skin = SKIN + 18 * (make_clouds(random, height_px, width_px, 60)[..., None] - 0.5)
    skin = skin + 10 * (make_clouds(random, height_px, width_px, 4)[..., None] - 0.5)
    dx, dy = (
        (x - width_px * random.uniform(0.44, 0.56)) / width_px,
        (y - height_px * random.uniform(0.44, 0.56)) / height_px,
    )
    angle = np.arctan2(dy, dx)
    edge = 0.25 + sum(
        random.uniform(-1, 1) * (0.035 if irregular else 0.006) * np.cos(k * angle + random.uniform(0, 6))
        for k in range(2, 9)
    )
    inside = np.clip((edge - np.hypot(dx, dy)) * (60 if irregular else 18), 0, 1)[..., None]
    lesion = PIGMENT + 26 * (make_clouds(random, height_px, width_px, 10)[..., None] - 0.5)
    if irregular:
        dark, blue = (make_clouds(random, height_px, width_px, 70)[..., None] for _ in range(2))
        lesion = lesion - 62 * (dark > 0.55) + np.array((-10, 14, 50)) * (blue > 0.62)
    photo = skin * (1 - inside) + lesion * inside
    vignette = 1 - 0.35 * np.clip(np.hypot((x / width_px - 0.5) * 1.6, (y / height_px - 0.5) * 1.6) - 0.55, 0, 1)
    photo = photo * vignette[..., None] + random.normal(0, 3, photo.shape)
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
