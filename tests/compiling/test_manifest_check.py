"""A manifest that contradicts its network is refused with the line to change; a sound one is taken."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app import create_app
from app.cli.model_choice import check
from app.compiling.folder_compiler import hold_in_process, hold_model
from app.config.settings import Settings
from app.errors import CompiledModelError, ModelFolderError
from app.exchange.model_importer import add_model
from app.manifest.model_manifest import read_manifest
from app.processes.confined_process import MAX_REASON_LENGTH
from app.repository.model_folder import ModelFolder
from tests.compiling.networks import (
    IMAGENET,
    Affine,
    Apply,
    Network,
    Write,
    write_exported,
    write_keras,
    write_manifest,
    write_named_output,
    write_onnx,
    write_traced,
)

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ADD_SCORES = r'say scores = "probabilities" in \[output\]'
PIXELS, SHARES = r"say mean = \[0, 0, 0\] and std = \[1, 1, 1\]", r"say mean = \[0, 0, 0\] and std = \[255, 255, 255\]"
PLUS_MINUS = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}
TORCHVISION = dict(zip(("mean", "std"), IMAGENET, strict=True))
UNIT = {"std": (255, 255, 255)}
SIGMOID: dict[str, Any] = {"activation": "sigmoid"}
SHARE_MEAN, SHARE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalizing() -> Network:
    return Network(Affine(1, SHARE_MEAN, SHARE_STD)).eval()


def rescaling(factor: float, offset: float = 0) -> Callable[[Any], Any]:
    return lambda keras: keras.layers.Rescaling(factor, offset)


def adapted(keras: Any) -> Any:
    import numpy as np

    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype("float32"))
    return layer


def sigmoid_by_hand(scores: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-scores))


def batch_normalized(mean: float, deviation: float) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(3)
    layer.running_mean, layer.running_var = torch.full((3,), mean), torch.full((3,), deviation**2)
    return layer


Case = tuple[str, Write, dict[str, Any], str]
REFUSED: dict[str, Case] = {
    # Activations at the end.
    "sigmoid, Keras": ("keras", write_keras(last="sigmoid", outputs=1, suffix=".keras"), SIGMOID, ADD_SCORES),
    "sigmoid, HDF5": ("keras", write_keras(last="sigmoid", outputs=1, suffix=".h5"), SIGMOID, ADD_SCORES),
    "sigmoid, SavedModel": (
        "saved_model",
        write_keras(last="sigmoid", outputs=1, suffix=".savedmodel"),
        SIGMOID,
        ADD_SCORES,
    ),
    "sigmoid, TorchScript": (
        "torchscript",
        write_traced(Network(last=nn.Sigmoid(), outputs=1).eval()),
        SIGMOID | UNIT,
        ADD_SCORES,
    ),
    "sigmoid, pt2": ("torch_export", write_exported(Network(last=nn.Sigmoid(), outputs=1)), SIGMOID | UNIT, ADD_SCORES),
    "sigmoid, ONNX": ("onnx", write_onnx(Network(last=nn.Sigmoid(), outputs=1)), SIGMOID | UNIT, ADD_SCORES),
    "sigmoid by hand": (
        "onnx",
        write_onnx(Network(last=Apply(sigmoid_by_hand), outputs=1)),
        SIGMOID | UNIT,
        ADD_SCORES,
    ),
    "hard sigmoid": ("onnx", write_onnx(Network(last=nn.Hardsigmoid(), outputs=1)), SIGMOID | UNIT, ADD_SCORES),
    "sigmoid, cut": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: scores.sigmoid().clamp(1e-6, 1 - 1e-6)), outputs=1).eval()),
        SIGMOID | UNIT,
        ADD_SCORES,
    ),
    "sigmoid of two": ("keras", write_keras(last="sigmoid", suffix=".keras"), {}, r"a sigmoid for each of 2 outputs.*"),
    "sigmoid of two as probabilities": (
        "onnx",
        write_onnx(Network(last=nn.Sigmoid())),
        UNIT | {"scores": "probabilities"},
        r"a sigmoid for each of 2 outputs, and \[output\] activation = \"softmax\" wants scores that add up to 1",
    ),
    "softmax": ("keras", write_keras(last="softmax", suffix=".keras"), {}, ADD_SCORES),
    "softmax, three classes": (
        "torchscript",
        write_traced(Network(last=nn.Softmax(1), outputs=3).eval()),
        UNIT | {"classes": ("nv", "mel", "bcc")},
        ADD_SCORES,
    ),
    "softmax of one": (
        "torchscript",
        write_traced(Network(last=nn.Softmax(1), outputs=1).eval()),
        SIGMOID | UNIT | {"scores": "probabilities"},
        "a softmax over one output, which is always 1",
    ),
    "logits called probabilities": (
        "onnx",
        write_onnx(Network()),
        UNIT | {"scores": "probabilities"},
        r'say scores = "logits"',
    ),
    "percentages": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: 100 * scores.softmax(1))).eval()),
        UNIT,
        r'from 0 to 100, and .*: divide them by 100 at the network\'s end, and say scores = "probabilities"',
    ),
    "rectified score with sigmoid": (
        "onnx",
        write_onnx(Network(last=nn.ReLU(), outputs=1)),
        SIGMOID | UNIT,
        r"ends in Relu, so its score is never below 0.*every picture would be positive",
    ),
    # Decisions, and what is no number.
    "argmax": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: scores.argmax(1, keepdim=True))).eval()),
        SIGMOID | UNIT | {"scores": "probabilities"},
        r"returns decisions \(.*\), and not scores: export it without the argmax",
    ),
    "argmax in float32": (
        "onnx",
        write_onnx(Network(last=Apply(lambda scores: scores.argmax(1, keepdim=True).float()))),
        SIGMOID | UNIT | {"scores": "probabilities"},
        r"returns decisions",
    ),
    "threshold": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: scores > 0), outputs=1).eval()),
        SIGMOID | UNIT | {"scores": "probabilities"},
        r"returns decisions",
    ),
    "rounded": (
        "onnx",
        write_onnx(Network(last=Apply(lambda scores: scores.sigmoid().round()), outputs=1)),
        SIGMOID | UNIT | {"scores": "probabilities"},
        r"returns decisions",
    ),
    "no numbers": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: scores - scores / 0)).eval()),
        UNIT,
        r"not finite \(NaN or infinite\).*weights may hold some",
    ),
    # Count and kind of outputs.
    "one score with softmax": (
        "keras",
        write_keras(outputs=1, suffix=".keras"),
        {},
        r'1 score for each picture, and the manifest wants 2.*say activation = "sigmoid" in \[output\]',
    ),
    "one sigmoid with softmax": (
        "keras",
        write_keras(last="sigmoid", outputs=1, suffix=".keras"),
        {},
        r'say activation = "sigmoid" in \[output\].*, and scores = "probabilities"$',
    ),
    "two sigmoids with sigmoid": ("onnx", write_onnx(Network(last=nn.Sigmoid())), SIGMOID, "a sigmoid for each of 2"),
    "two scores with sigmoid": (
        "onnx",
        write_onnx(Network()),
        SIGMOID,
        r'2 scores.*wants 1.*say activation = "softmax"',
    ),
    "three scores for two classes": ("onnx", write_onnx(Network(outputs=3)), UNIT, r"name 3 classes in \[output\]"),
    "scores without an axis": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: scores[:, 0])).eval()),
        SIGMOID | UNIT,
        r"returns \[N\] for N pictures, and the manifest wants \[N, 1\]",
    ),
    "a tuple": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: (scores, scores.sum(1)))).eval()),
        UNIT,
        r"network\.pt has 2 outputs: 0 \[N, 2\], 1 \[N\]; the manifest describes one output",
    ),
    "a dict": (
        "torchscript",
        write_traced(Network(last=Apply(lambda scores: {"scores": scores, "sum": scores.sum(1)})).eval()),
        UNIT,
        r"has 2 outputs: scores \[N, 2\], sum \[N\]; the manifest describes one output",
    ),
    "two outputs, pt2": (
        "torch_export",
        write_exported(Network(last=Apply(lambda scores: (scores, scores.sum(1))))),
        UNIT,
        r"n\.pt2 has 2 outputs.*the manifest describes one output",
    ),
    "two outputs, ONNX": (
        "onnx",
        write_onnx(Network(last=Apply(lambda scores: (scores, scores.sum(1))))),
        UNIT,
        r"network\.onnx has 2 outputs.*the manifest describes one output",
    ),
    "classes in another order": (
        "onnx",
        write_onnx(Network(), names="{0: 'malignant', 1: 'benign'}"),
        UNIT,
        r'the file calls output 0 malignant, and the manifest benign; say classes = \["malignant", "benign"\]',
    ),
    "classes in another order, TorchScript": (
        "torchscript",
        write_traced(Network().eval(), labels='["malignant", "benign"]'),
        UNIT,
        r'say classes = \["malignant", "benign"\]',
    ),
    "one class at another place": (
        "onnx",
        write_onnx(Network(), names="['Malignant', 'nevus']"),
        UNIT,
        r"the file calls output 0 Malignant, and the manifest benign",
    ),
    # Size, channels and layout.
    "another size": (
        "keras",
        write_keras(suffix=".keras"),
        {"size": (64, 64)},
        r"say width_px = 32 and height_px = 32",
    ),
    "another size, HDF5": ("keras", write_keras(suffix=".h5"), {"size": (24, 32)}, r"say width_px = 32 and height_px"),
    "swapped sides": (
        "keras",
        write_keras(shape=(24, 40, 3), suffix=".keras"),
        {"size": (24, 40)},
        r"takes \[N, 24, 40, 3\].*say width_px = 40 and height_px = 24",
    ),
    "one side free": (
        "keras",
        write_keras(shape=(None, 40, 3), suffix=".keras"),
        {"size": (24, 40)},
        r"say width_px = 40 in \[input\]",
    ),
    "grey": ("keras", write_keras(shape=(32, 32, 1), suffix=".keras"), {}, r"takes \[N, 32, 32, 1\].*grey"),
    "four channels": ("keras", write_keras(shape=(32, 32, 4), suffix=".keras"), {}, r"the server gives R, G and B"),
    "grey, TorchScript": (
        "torchscript",
        write_traced(Network(channels=1).eval(), channels=1),
        UNIT,
        r"network\.pt takes \[N, 1, 32, 32\], and not \[N, 3, 32, 32\].*grey",
    ),
    # Normalization.
    "Rescaling and std": ("keras", write_keras(rescaling(1 / 255), suffix=".keras"), UNIT, PIXELS),
    "Rescaling and mean": ("keras", write_keras(rescaling(1 / 255), suffix=".h5"), PLUS_MINUS, PIXELS),
    "Rescaling to -1 and std": ("keras", write_keras(rescaling(1 / 127.5, -1), suffix=".keras"), UNIT, PIXELS),
    "Rescaling of shares": ("keras", write_keras(rescaling(2, -1), suffix=".keras"), {}, SHARES),
    "Normalization and mean": ("keras", write_keras(adapted, suffix=".keras"), PLUS_MINUS, PIXELS),
    "Normalization, SavedModel": ("saved_model", write_keras(adapted, suffix=".savedmodel"), UNIT, PIXELS),
    "division, TorchScript": ("torchscript", write_traced(Network(Affine(255)).eval()), TORCHVISION, PIXELS),
    "mean of shares twice": ("torchscript", write_traced(normalizing()), TORCHVISION, SHARES),
    "mean of shares on pixels": ("torch_export", write_exported(normalizing()), {}, SHARES),
    "another mean twice": (
        "onnx",
        write_onnx(Network(Affine(1, (0.7, 0.6, 0.7), (0.2, 0.2, 0.2)))),
        TORCHVISION,
        SHARES,
    ),
    "first batch normalization of shares": ("onnx", write_onnx(Network(batch_normalized(0.6, 0.2))), {}, SHARES),
    "first batch normalization of pixels": ("onnx", write_onnx(Network(batch_normalized(140.0, 50.0))), UNIT, PIXELS),
    "mean and std of shares": (
        "onnx",
        write_onnx(Network()),
        {"mean": SHARE_MEAN, "std": SHARE_STD},
        r"say mean = \[123\.675, 116\.28, 103\.53\] and std = \[58\.395, 57\.12, 57\.375\] in \[input\]",
    ),
    "factor for a std": ("onnx", write_onnx(Network()), {"std": (1 / 255,) * 3}, r"std = \[255\.0, 255\.0, 255\.0\]"),
    "std of shares": ("onnx", write_onnx(Network()), {"mean": IMAGENET[0], "std": SHARE_STD}, r"std = \[58\.395"),
    "mean of shares": ("onnx", write_onnx(Network()), {"mean": SHARE_MEAN, "std": IMAGENET[1]}, r"mean = \[123\.675"),
    # Saved in the wrong mode.
    "dropout at work": (
        "torchscript",
        write_traced(Network(last=nn.Dropout(0.5))),
        UNIT,
        r"change from call to call: it was saved in train mode.*network\.eval\(\)",
    ),
    "batch statistics": (
        "torchscript",
        write_traced(Network(nn.BatchNorm2d(3))),
        UNIT,
        r"depend on the other pictures: it was saved in train mode",
    ),
    "half precision": (
        "torchscript",
        write_traced(Network().eval().half(), dtype=torch.float16),
        UNIT,
        r"computes in float16, and the server in float32: call network\.float\(\)",
    ),
}


def hold(folder: Path, case: Case) -> str:
    """Hold a manifest against its network; return the reason against it, or nothing."""
    framework, write, changes, _ = case
    folder = folder / "tiny-held/1.0"
    folder.mkdir(parents=True)
    write_manifest(folder, framework, write(folder), **changes)
    try:
        hold_model(folder)
    except ModelFolderError as error:
        return error.message
    return ""


@pytest.mark.parametrize("name", REFUSED)
def test_manifest_that_contradicts_its_network_is_refused_with_the_line_to_change(tmp_path: Path, name: str) -> None:
    found = hold(tmp_path, REFUSED[name])
    assert re.search(REFUSED[name][3], found, re.DOTALL), found
    assert len(found) < MAX_REASON_LENGTH


SOUND: dict[str, Case] = {
    "sigmoid that is named": (
        "keras",
        write_keras(last="sigmoid", outputs=1, suffix=".keras"),
        SIGMOID | {"scores": "probabilities"},
        "",
    ),
    "small logits of one output": ("onnx", write_onnx(Network(outputs=1)), SIGMOID | UNIT, ""),
    "log-softmax": ("onnx", write_onnx(Network(last=nn.LogSoftmax(1))), UNIT, ""),
    "scaled logits": ("onnx", write_onnx(Network(last=Apply(lambda scores: scores / 1.7))), UNIT, ""),
    "rectified logits": ("onnx", write_onnx(Network(last=nn.ReLU())), UNIT, ""),
    "two probabilities of one sigmoid": (
        "onnx",
        write_onnx(Network(last=Apply(lambda s: torch.cat([1 - s[:, :1].sigmoid(), s[:, :1].sigmoid()], 1)))),
        UNIT | {"scores": "probabilities"},
        "",
    ),
    "two sigmoids that add up to 1": (
        "onnx",
        write_onnx(Network(last=Apply(lambda s: torch.cat([s[:, :1], -s[:, :1]], 1).sigmoid()))),
        UNIT | {"scores": "probabilities"},
        "",
    ),
    "one output in a dict": ("keras", write_named_output, UNIT, ""),
    "second of two shares": (
        "onnx",
        write_onnx(Network(last=Apply(lambda scores: scores.softmax(1)[:, 1:]))),
        SIGMOID | UNIT | {"scores": "probabilities"},
        "",
    ),
    "channels first": (
        "keras",
        write_keras(lambda k: k.layers.Permute((2, 3, 1)), shape=(3, 32, 32), suffix=".keras"),
        UNIT,
        "",
    ),
    "any size": ("keras", write_keras(shape=(None, None, 3), suffix=".keras"), UNIT | {"size": (24, 40)}, ""),
    "pixels as they are": ("keras", write_keras(suffix=".keras"), {}, ""),
    "Rescaling alone": ("keras", write_keras(rescaling(1 / 255), suffix=".keras"), {}, ""),
    "Normalization alone": ("keras", write_keras(adapted, suffix=".h5"), {}, ""),
    "shares outside, -1 to 1 inside": ("keras", write_keras(rescaling(2, -1), suffix=".keras"), UNIT, ""),
    "-1 to 1 outside, shares inside": ("keras", write_keras(rescaling(0.5, 0.5), suffix=".keras"), PLUS_MINUS, ""),
    "shares outside, mean inside": ("torchscript", write_traced(normalizing()), UNIT, ""),
    "factor that changes nothing": ("onnx", write_onnx(Network(Affine(1.0))), TORCHVISION, ""),
    "mean outside, batch normalization inside": (
        "onnx",
        write_onnx(Network(batch_normalized(0.2, 0.5))),
        PLUS_MINUS,
        "",
    ),
    "fresh batch normalization": ("onnx", write_onnx(Network(nn.BatchNorm2d(3))), TORCHVISION, ""),
    "dark pictures": ("onnx", write_onnx(Network()), {"mean": (9, 4, 6), "std": (5, 4, 5)}, ""),
    "the file's own order": ("onnx", write_onnx(Network(), names='["Benign", "Malignant"]'), UNIT, ""),
    "other names in the file": ("onnx", write_onnx(Network(), names='["0", "1"]'), UNIT, ""),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_manifest_is_taken(tmp_path: Path, name: str) -> None:
    assert hold(tmp_path, SOUND[name]) == ""


def test_manifest_is_held_once_by_the_report_and_again_without(
    pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with models that were compiled before there were such rules."""
    settings = Settings(models=pcam.parents[1], instance=tmp_path / "instance")
    with monkeypatch.context() as patched:
        patched.setattr("subprocess.Popen", None)  # no process may start
        hold_in_process(pcam, settings)
    path = pcam / "model.toml"
    path.write_text(re.sub(r"^(mean|std) = .*$", r"\1 = [0.5, 0.5, 0.5]", path.read_text(), flags=re.MULTILINE))
    report = pcam / "compiled/report.json"
    changed = {**json.loads(report.read_text()), "graph_sha256": read_manifest(pcam).graph_sha256}
    report.write_text(json.dumps(changed))
    with pytest.raises(CompiledModelError, match=r"are not those of pixels from 0 to 255.*say mean = \[127\.5, 127\.5"):
        hold_in_process(pcam, settings)


def test_native_model_is_held_when_it_is_added(pcam: Path, tmp_path: Path) -> None:
    path = pcam / "model.toml"
    text = path.read_text().replace('framework = "torch"', 'framework = "torch"\nengine = "native"')
    path.write_text(text.replace('"softmax"', '"softmax"\nscores = "probabilities"'))
    (tmp_path / "empty").mkdir()
    settings = Settings(models=tmp_path / "empty", instance=tmp_path / "instance")
    with pytest.raises(CompiledModelError, match=r'say scores = "logits" in \[output\]'):
        add_model(pcam, settings)
    assert list(settings.models.iterdir()) == []


def test_check_says_that_a_manifest_is_not_held_where_its_framework_is_missing(
    pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings(models=pcam.parents[1], instance=tmp_path / "instance"))
    with app.app_context():
        assert re.fullmatch(r"examples within \d\.\de-\d\d of their expected scores", check(ModelFolder(pcam)))
        report = pcam / "compiled/report.json"
        report.write_text(json.dumps({**json.loads(report.read_text()), "held_sha256": ""}))
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        told = check(ModelFolder(pcam))
    assert "expected scores; the manifest is not held against the network: torch is not installed here" in told
