"""Six Keras 3 models as people train them, saved right after `fit`, are added, and answer as Keras itself does."""

import json
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import create_app
from app.api.request.services import EXTENSION
from app.compiling.proposal import propose_here
from app.config.settings import Settings
from app.engines.base import build_engine
from app.exchange.model_importer import bring_in
from app.exchange.quarantine import Quarantine
from app.pipeline.postprocess import to_probabilities
from app.processes.confined_process import run_confined
from app.repository.model_content import hash_artifact
from app.repository.model_folder import ModelFolder
from tests.engines.test_keras_applications import shake
from tests.exchange.compile_each import compile_each
from tests.exchange.test_proposal import fill_in

keras = pytest.importorskip("keras")
from keras import layers  # noqa: E402  # after the skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]
SIDE_PX, CLASSES = 32, ["akiec", "bcc", "mel"]
RANDOM = np.random.default_rng(11)
LABELS = RANDOM.integers(0, 3, 24)
TRAINING = np.clip(RANDOM.normal(60 + 60 * LABELS[:, None, None, None], 40, (24, SIDE_PX, SIDE_PX, 3)), 0, 255)
PICTURES = RANDOM.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8).repeat(SIDE_PX // 4, 1).repeat(SIDE_PX // 4, 2)
FORMATS = (".keras", ".h5")
ADDING_S = 30
"""How much of the processor one model may take to be added."""


@dataclass(frozen=True)
class Trained:
    """A model file, what Keras answers for the pictures, and what pixels the network wants: (pixel - 0) / std."""

    path: Path
    scores: Any
    std: int = 1


def write_manifest(trained: Trained) -> Path:
    """The manifest that `models add --propose` prints, with what only the trainer knows filled in."""
    path = trained.path.with_suffix(".toml")
    propose_here(str(trained.path), "keras", trained.path.name, hash_artifact(trained.path, "keras"), str(path))
    filled = {"classes": json.dumps(CLASSES), "mean": "[0, 0, 0]", "std": f"{[trained.std] * 3}"}
    text, blank = fill_in(path.read_text(), filled)
    assert blank == {"classes", *(("mean", "std") if trained.std != 1 else ())}
    path.write_text(text)
    return path


def write_manifest_for(manifest: Path, file: str) -> Path:
    """The same manifest for the network in another file."""
    text = re.sub(r"^sha256 = .*\n", "", manifest.read_text(), flags=re.MULTILINE)
    path = manifest.with_name(f"{file}.toml")
    path.write_text(re.sub(r"^file = .*$", f'file = "{file}"', text, flags=re.MULTILINE))
    return path


def make_body() -> list[Any]:
    convolutions = [
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.BatchNormalization(momentum=0.1),
    ]
    return [*convolutions, layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(3, activation="softmax")]


def make_sequential(*first: Any) -> Any:
    return keras.Sequential([layers.Input((SIDE_PX, SIDE_PX, 3)), *first, *make_body()])


def make_functional(*first: Any) -> Any:
    values = pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    for layer in (*first, *make_body()):
        values = layer(values)
    return keras.Model(pixels, values)


def make_augmented() -> Any:
    changes = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)]
    return make_sequential(keras.Sequential([*changes, layers.RandomContrast(0.1)]), layers.Rescaling(1 / 255))


def make_transferred() -> Any:
    """A base that was frozen, with `preprocess_input`, in front of it changes by chance, and thawed in part."""
    base = keras.applications.MobileNetV2((SIDE_PX, SIDE_PX, 3), alpha=0.35, include_top=False, weights=None)
    shake(base, TRAINING / 127.5 - 1)  # in the place of weights from elsewhere
    for layer in base.layers[:-20]:
        layer.trainable = False
    pixels = layers.Input((SIDE_PX, SIDE_PX, 3))
    values = keras.applications.mobilenet_v2.preprocess_input(layers.RandomFlip()(pixels))
    values = layers.GlobalAveragePooling2D()(base(values, training=False))
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(layers.Dropout(0.2)(values)))


MODELS: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "a-sequential": (make_sequential, "adam", "sparse_categorical_crossentropy"),
    "a-functional": (
        make_functional,
        keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9), momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(),
    ),
    "with-augmentation": (make_augmented, "rmsprop", "sparse_categorical_crossentropy"),
    "with-preprocessing": (
        lambda: make_functional(keras.applications.resnet50.preprocess_input),
        keras.optimizers.AdamW(1e-3),
        "sparse_categorical_crossentropy",
    ),
    "with-rescaling": (
        lambda: make_sequential(layers.Rescaling(1 / 127.5, -1)),
        "nadam",
        "sparse_categorical_crossentropy",
    ),
    "by-transfer": (make_transferred, keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy"),
}
"""How each is made, its optimizer, and its loss."""


def train(folder: Path, name: str) -> Iterator[Trained]:
    """Train a model for a few steps, and yield it in every format as it is saved right after."""
    make, optimizer, loss = MODELS[name]
    keras.utils.set_random_seed(1)
    network = make()
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    network.compile(optimizer, loss, metrics=metrics, run_eagerly=True)  # compiling takes longer
    std = 255 if name in ("a-sequential", "a-functional") else 1  # as the trainer gave the pixels
    network.fit(TRAINING / std, LABELS, batch_size=12, verbose=0)
    scores = network.predict(PICTURES / np.float32(std), verbose=0)
    assert np.abs(scores - scores.mean(0)).max() > 0.01, "the pictures must be told apart"
    for suffix in FORMATS:
        path = folder / f"{name}{suffix}"
        network.save(path)
        yield Trained(path, scores, std)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("trained")
    return {each.path.name: each for name in MODELS for each in train(folder, name)}


def see_same_scores(folder: ModelFolder, trained: Trained) -> None:
    manifest = folder.read_manifest()
    engine = build_engine("openvino", folder.path, manifest, 1)
    engine.load()
    try:
        ours = to_probabilities(engine.infer(PICTURES), manifest.output)
    finally:
        engine.close()
    np.testing.assert_allclose(ours, trained.scores, atol=1e-4)


def test_models_saved_right_after_training_answer_as_keras_does(trained: dict[str, Trained], tmp_path: Path) -> None:
    """What `models add` does to each, in one confined process for all."""
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "instance")
    settings.models.mkdir()
    folders: dict[str, ModelFolder] = {}
    with ExitStack() as held:
        manifest = Path()
        for file, each in trained.items():
            quarantine = held.enter_context(Quarantine(settings.models))
            manifest = write_manifest(each) if each.path.suffix == ".keras" else write_manifest_for(manifest, file)
            folders[file] = bring_in(each.path, manifest, quarantine, settings).folder
        run_confined(compile_each, [tmp_path / "reasons", *(folder.path for folder in folders.values())], settings)
        assert json.loads((tmp_path / "reasons").read_text()) == {}
        for file, folder in folders.items():
            see_same_scores(folder, trained[file])


def count_child_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.long
def test_largest_trained_model_is_added_by_one_command_in_under_30_s(
    trained: dict[str, Trained], tmp_path: Path
) -> None:
    """Of the processor, since other tests may run beside this one."""
    each = trained["by-transfer.keras"]
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "instance")
    settings.models.mkdir()
    app = create_app(settings)
    before, command = count_child_cpu_s(), ["models", "add", str(each.path), "--manifest", str(write_manifest(each))]
    done = app.test_cli_runner().invoke(args=command, catch_exceptions=False)
    assert done.output == "ok by-transfer/1.0: added and tried out\n"
    assert count_child_cpu_s() - before < ADDING_S
    see_same_scores(ModelFolder(settings.models / "by-transfer/1.0"), each)
    app.extensions[EXTENSION].follower.close()
