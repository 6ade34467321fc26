"""Archives of TorchServe's default classifier: compiled, served in the HTTP workers, and alike in every answer."""

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from app import create_app
from app.api.users import USERS_FILE
from app.config import Settings
from app.repository.model_entry import State
from tests.conftest import basic
from tests.handlers.archives import make_archive

TINY_MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 9, stride=5)
        self.last = torch.nn.Linear(8, {classes})

    def forward(self, x):
        return self.last(torch.relu(self.convolution(x)).amax(dim=(2, 3)))
"""
DECIDING_MODEL = """
import torch

class Deciding(torch.nn.Module):
    def forward(self, x):
        bright = x.mean(dim=(1, 2, 3))
        if bright.max() > 100:
            return torch.stack([bright, -bright, bright], 1)
        return torch.stack([-bright, bright, bright], 1)
"""
LABELS = {"0": ["n0", "benign"], "1": ["n1", "malignant"], "2": ["n2", "unclear"]}
MODES = ("RGB", "L", "RGBA", "P", "LA", "1", "CMYK", "I;16")


def make_weights(classes: int) -> bytes:
    """Weights that tell pictures apart by far."""
    import torch

    random = torch.Generator().manual_seed(1)
    shapes = {
        "convolution.weight": (8, 3, 9, 9),
        "convolution.bias": (8,),
        "last.weight": (classes, 8),
        "last.bias": (classes,),
    }
    weights = {name: torch.randn(shape, generator=random) / 4 for name, shape in shapes.items()}
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


def make_tiny(models: Path, name: str, classes: int = 3, **more: str | bytes) -> Path:
    files = {"model.py": TINY_MODEL.format(classes=classes), "weights.pth": make_weights(classes), **more}
    return make_archive(models, name, "image_classifier", files, model_file="model.py", serialized_file="weights.pth")


def make_picture(mode: str = "RGB", size: tuple[int, int] = (300, 260), kind: str = "PNG", **options: Any) -> bytes:
    random = np.random.default_rng(size)
    pixels = random.integers(0, 256, (-(-size[1] // 20), -(-size[0] // 20), 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        picture.putalpha(Image.radial_gradient("L").resize(size))
    else:
        picture = picture.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if mode == "CMYK" else kind, **options)
    return buffer.getvalue()


@dataclass
class Served:
    """A server of archives in this process."""

    client: FlaskClient
    app: Flask

    def describe(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = self.client.get(f"/models/{name}", headers=basic()).json
        return document

    def ask(self, name: str, body: Any, **more: Any) -> Any:
        return self.client.post(f"/predictions/{name}", data=body, headers=basic(), **more)


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, instance: Path) -> Iterator[Serve]:
    """Serve a model repository of archives, and wait until each has settled."""
    apps: list[Flask] = []

    def start(models: Path, **settings: Any) -> Served:
        folder = tmp_path_factory.mktemp("i")
        shutil.copy(instance / USERS_FILE, folder)
        app = create_app(Settings(models=models, instance=folder, **{"programs": "all", **settings}))
        apps.append(app)
        registry = app.extensions["scancer"].registry
        deadline = time.monotonic() + 120
        while any(entry.state is State.LOADING for entry in registry.entries()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return Served(app.test_client(), app)

    yield start
    for app in apps:
        registry = app.extensions["scancer"].registry
        registry.close()
        manager = registry.archives.pools and registry.archives.pools.link.manager
        if manager is not None:
            manager.terminate()
            assert manager.wait(10) == 0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One archive that can be compiled, with labels, and one that decides by what it sees."""
    folder = tmp_path_factory.mktemp("archives") / "models"
    make_tiny(folder, "tiny", **{"index_to_name.json": json.dumps(LABELS)})
    files: dict[str, str | bytes] = {"model.py": DECIDING_MODEL, "weights.pth": make_empty_weights()}
    make_archive(folder, "deciding", "image_classifier", files, model_file="model.py", serialized_file="weights.pth")
    return folder


def make_empty_weights() -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def fast(models: Path, serve: Serve) -> Served:
    return serve(models)


@pytest.fixture(scope="module")
def eager(models: Path, serve: Serve) -> Served:
    """The same archives, all answered by their handlers."""
    return serve(models, engine="native")


def test_description_tells_which_road_an_archive_takes_and_why(fast: Served, eager: Served) -> None:
    tiny, slow, deciding = fast.describe("tiny"), eager.describe("tiny"), fast.describe("deciding")
    assert (tiny["state"], tiny["engine"], tiny["not_compiled"], tiny["pool"]) == ("READY", "openvino", None, None)
    assert tiny["compiled"]["max_probability_difference"] <= 1e-4
    assert tiny["compiled"]["images_compared"] == 16
    assert tiny["output"]["classes"] == ["benign", "malignant", "unclear"]
    assert (slow["state"], slow["engine"], slow["not_compiled"]) == ("READY", "handler", "SCANCER_ENGINE=native")
    assert (deciding["state"], deciding["engine"]) == ("READY", "handler")
    assert deciding["not_compiled"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(300, 260), (224, 224), (97, 401), (640, 480), (30, 20)], ids=str)
def test_answers_are_the_handlers(fast: Served, eager: Served, mode: str, size: tuple[int, int]) -> None:
    picture = make_picture(mode, size)
    ours, theirs = fast.ask("tiny", picture), eager.ask("tiny", picture)
    assert (ours.status_code, ours.content_type) == (200, None)
    answer, expected = json.loads(ours.data), json.loads(theirs.data)
    assert list(answer) == list(expected)
    assert set(answer) == {"benign", "malignant", "unclear"}
    assert answer == pytest.approx(expected, abs=1e-4)
    assert ours.data.splitlines()[0] == theirs.data.splitlines()[0]  # JSON on several lines, as TorchServe writes it


def test_pictures_that_exif_would_turn_are_answered_as_they_lie(fast: Served, eager: Served) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = make_picture(size=(400, 240), kind="JPEG", exif=exif)
    answers = [json.loads(each.ask("tiny", picture).data) for each in (fast, eager)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)
