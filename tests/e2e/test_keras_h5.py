"""The predecessor's kind of model, a `.h5` of Keras 2, goes from one command to answers while the server runs."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from app.config.setting_types import PROJECT_ROOT
from app.users import UsersFile
from tests.conftest import PASSWORD, USER, LiveServer
from tests.engines.legacy_keras import Weights, make_weights, vgg_like, write_keras_2

SIDE_PX, FILTERS, HIDDEN = 224, (4, 4, 6, 6, 8), 16
AUTH = (USER, PASSWORD)
MANIFEST = """\
name = "skin-lesions"
version = "1.0"
framework = "keras"
[artifact]
file = "lesions.h5"
[input]
width_px = 224
height_px = 224
resize = "nearest"
mean = [0, 0, 0]
std = [255, 255, 255]
[output]
classes = ["benign", "malignant"]
activation = "softmax"
scores = "probabilities"
positive_class = "malignant"
threshold = 0.5
threshold_source = "the predecessor's"
"""


def compute(pixels: np.ndarray, weights: Weights) -> list[float]:
    """The network's two probabilities by its definition, in float64, without Keras."""
    values = pixels / 255
    for index in range(len(FILTERS)):
        kernel, bias = (part.astype(np.float64) for part in weights[f"conv{index}"])
        height, width, _ = values.shape
        padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
        windows = [padded[y : y + height, x : x + width] @ kernel[y, x] for y in range(3) for x in range(3)]
        values = np.maximum(sum(windows) + bias, 0)
        values = values.reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))
    hidden, scores = weights["hidden"], weights["scores"]
    logits = np.maximum(values.reshape(-1) @ hidden[0] + hidden[1], 0) @ scores[0] + scores[1]
    exponentials = np.exp(logits - logits.max())
    return list(exponentials / exponentials.sum())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_h5_of_keras_2_is_added_with_one_command_and_answers_without_a_restart(tmp_path: Path) -> None:
    assert len(MANIFEST.splitlines()) < 20
    weights = make_weights(SIDE_PX, FILTERS, HIDDEN)
    write_keras_2(tmp_path / "lesions.h5", vgg_like(SIDE_PX, FILTERS, HIDDEN), weights)
    (tmp_path / "lesions.toml").write_text(MANIFEST)
    pixels = np.random.default_rng(9).integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "png")
    for name in ("models", "instance"):
        (tmp_path / name).mkdir()
    UsersFile(tmp_path / "instance").add(USER, "predict", PASSWORD)
    folders = {"SCANCER_MODELS": str(tmp_path / "models"), "SCANCER_INSTANCE": str(tmp_path / "instance")}
    live = LiveServer(tmp_path / "instance", tmp_path / "log", {**folders, "SCANCER_WORKERS": "1"}).start()
    try:
        started = time.monotonic()
        command = ["flask", "models", "add", "lesions.h5", "--manifest", "lesions.toml"]
        environment = {**os.environ, **folders, "PYTHONPATH": str(PROJECT_ROOT), "FLASK_APP": "wsgi"}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.stdout.strip(), done.returncode) == ("ok skin-lesions/1.0: added and tried out", 0), done.stderr
        while True:
            answer = requests.put(
                f"{live.inference}/predictions/skin-lesions",
                data=picture.getvalue(),
                headers={"Accept": "application/json"},
                auth=AUTH,
                timeout=30,
            )
            if answer.status_code == 200 or time.monotonic() - started > 60:
                break
            time.sleep(0.1)
        assert answer.status_code == 200, answer.text
    finally:
        live.stop()
    told, expected = answer.json(), compute(pixels.astype(np.float64), weights)
    assert list(told["probabilities"].values()) == pytest.approx(expected, abs=1e-4)
    label = "malignant" if expected[1] >= 0.5 else "benign"
    assert (told["class"], told["confidence"]) == (label, told["probabilities"][label])
