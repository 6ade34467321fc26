"""Writes a model folder of random weights, for what a network costs does not depend on what it has learned.

`python -m benchmarks.random_model FOLDER NAME ARCHITECTURE SIDE CLASSES`, where torch is installed; then
`flask models compile NAME` with `SCANCER_MODELS=FOLDER`.
"""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from app.engines.pytorch.torch_architectures import ARCHITECTURES

MANIFEST = """name = "{name}"
version = "1.0"
title = "Random weights"
description = "Says nothing: for measuring alone."
framework = "torch"
licence = "CC0-1.0"
intended_use = "Research use only. Not for diagnosis."

[artifact]
file = "model.safetensors"
sha256 = "{sha256}"
architecture = "{architecture}"

[input]
width_px = {side}
height_px = {side}
resize = "bilinear"
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

[output]
classes = [{classes}]
activation = "softmax"
"""


def write_model(models: Path, name: str, architecture: str, side_px: int, classes: int) -> Path:
    """Write `models/name/1.0`, not compiled; return it."""
    folder = models / name / "1.0"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    weights = ARCHITECTURES[architecture](classes).state_dict()
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    names = ", ".join(f'"class {index}"' for index in range(classes))
    manifest = MANIFEST.format(name=name, sha256=sha256, architecture=architecture, side=side_px, classes=names)
    (folder / "model.toml").write_text(manifest, encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(write_model(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
