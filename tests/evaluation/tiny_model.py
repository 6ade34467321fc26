"""A compiled model of 8x8 pixels that needs no framework, labelled pictures for it, and its service and commands."""

import hashlib
from pathlib import Path

import numpy as np
import openvino
from click.testing import Result
from flask.testing import FlaskClient
from openvino import opset13 as ops
from PIL import Image

from app import create_app
from app.api.request.services import EXTENSION, Services
from app.config.settings import Settings
from app.engines.compiled.compile_report import COMPILED_FOLDER, IR_FILE, WEIGHTS_FILE, CompileReport
from app.manifest.model_manifest import read_manifest
from app.processes.plain_files import hash_files

SIDE_PX = 8
WEIGHTS = b"the weights, which nobody reads: the compiled model is there"
MANIFEST = f"""name = "tiny-brightness"
version = "1.0"
title = "Tiny"
description = "Tells bright pictures from dark ones."
framework = "torch"
licence = "CC0-1.0"
intended_use = "Tests."

[artifact]
file = "model.safetensors"
sha256 = "{hashlib.sha256(WEIGHTS).hexdigest()}"
architecture = "none"

[input]
width_px = {SIDE_PX}
height_px = {SIDE_PX}
resize = "bilinear"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]

[output]
classes = ["dark", "bright"]
activation = "softmax"
positive_class = "bright"
threshold = 0.5
threshold_source = "a test"
"""


def write_tiny_model(
    models: Path, version: str = "1.0", network: openvino.Model | None = None, manifest_text: str = MANIFEST
) -> Path:
    """Write `models/tiny-brightness/1.0`, or another version or network, with its compiled model; return it."""
    folder = models / "tiny-brightness" / version
    compiled = folder / COMPILED_FOLDER
    compiled.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "model.toml").write_text(manifest_text.replace('"1.0"', f'"{version}"'), encoding="utf-8")
    openvino.save_model(network or make_network(), compiled / IR_FILE, compress_to_fp16=False)
    manifest = read_manifest(folder)
    ir_sha256 = hash_files(compiled / IR_FILE, compiled / WEIGHTS_FILE)
    CompileReport(
        manifest.artifact.sha256, manifest.graph_sha256, ir_sha256, 0.0, 1e-4, 1, "none", openvino.__version__
    ).write(compiled)
    return folder


def make_network() -> openvino.Model:
    """Pixels, two convolutions, mean, two scores: the second rises with the brightness, and is 0 at 100.

    What INT8 rounds away stands between the convolutions.
    """
    pixels = ops.parameter([-1, SIDE_PX, SIDE_PX, 3], np.uint8, name="pixels")
    planes = ops.transpose(ops.convert(pixels, np.float32), np.array([0, 3, 1, 2]))
    kernels = np.random.default_rng(0).uniform(0.05, 0.2, (4, 3, 3, 3)).astype(np.float32)
    features = ops.relu(ops.convolution(planes, kernels, [1, 1], [0, 0], [0, 0], [1, 1]))
    mixed = ops.relu(
        ops.convolution(features, np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1])
    )
    means = ops.reduce_mean(mixed, np.array([2, 3]), keep_dims=False)
    columns = np.stack([np.zeros(4), 0.1 / kernels.sum(axis=(1, 2, 3))], axis=1).astype(np.float32)
    scores = ops.add(ops.matmul(means, columns, False, False), np.array([[0.0, -40.0]], np.float32))
    return openvino.Model([ops.result(scores)], [pixels], "tiny")


def write_pictures(
    folder: Path, count: int, dark: float, bright: float, names: tuple[str, str] = ("0", "1"), noise: float = 3
) -> Path:
    """Write `count` pictures of each class, whose mean brightness is the class's; a fraction is a share of pixels."""
    random = np.random.default_rng(1)
    for name, level in zip(names, (dark, bright), strict=True):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.normal(level, noise, (SIDE_PX, SIDE_PX, 3)) + random.random((SIDE_PX, SIDE_PX, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:03}.png")
    return folder


def open_client(place: Path) -> FlaskClient:
    """A client of the models below `place`."""
    return create_app(Settings(models=place / "models", instance=place / "serving", auth="off")).test_client()


def run_command(place: Path, *arguments: object) -> Result:
    """Run `flask models ARGUMENTS` on the models below `place`."""
    app = create_app(Settings(models=place / "models", instance=place / "instance"))
    services: Services = app.extensions[EXTENSION]
    services.follower.close()  # a command follows nothing
    return app.test_cli_runner().invoke(args=["models", *map(str, arguments)])
