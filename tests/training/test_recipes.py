"""The recipes' parts: what an epoch draws, how pictures are changed, and that a training can stop and go on."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from app.engines.pytorch.torch_architectures import ARCHITECTURES
from app.repository.model_content import list_content
from tests.evaluation.tiny_model import write_tiny_model
from training import fine_tuning
from training.augmentation import STAINS, Augmentation, augment, restain
from training.balance import Balance, count_draws
from training.checkpoint import make_or_load
from training.commands import Commands
from training.distillation import Distillation, answer, distil, orient
from training.fine_tuning import Recipe, fine_tune
from training.image_folder import LabelledImages, read_split
from training.labelled_links import Part
from training.model_folder import put_report

pytestmark = pytest.mark.slow


def make_data(folder: Path, counts: dict[tuple[str, str, int], int]) -> Path:
    """A data set `dots` of random pictures: how many of each split, origin and label."""
    random = np.random.default_rng(0)
    rows = []
    for (split, origin, label), count in counts.items():
        (folder / "dots" / split / str(label)).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            file = f"dots/{split}/{label}/{origin}-{number}.png"
            pixels = random.integers(0, 128, (32, 32, 3), dtype=np.uint8) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / file)
            rows.append(
                {"file": file, "label": label, "split": split, "origin": origin, "dx": "mel" if label else "nv"}
            )
    with (folder / "dots_manifest.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(
        tmp_path, {(split, "A", label): count for split, count in (("train", 8), ("val", 3)) for label in (0, 1)}
    )


RECIPE = Recipe(
    architecture="efficientnet_lite0",
    sets=("dots",),
    stages=((32, 1), (48, 1)),
    batch_size=4,
    learning_rate=1e-3,
    diagnoses=("nv", "mel"),
    augmentation=Augmentation(zoom=1.2, aspect=1.2, any_angle=True, stain=0.1),
)


class StopError(Exception):
    """Stands for a machine that is switched off."""


@pytest.mark.long
def test_training_that_was_stopped_ends_with_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(architecture: str, classes: int) -> nn.Module:
        torch.manual_seed(0)
        return ARCHITECTURES[architecture](classes)

    monkeypatch.setattr(fine_tuning, "build_pretrained", build)
    monkeypatch.setattr(fine_tuning, "SAVE_STEPS", 1)
    whole = fine_tune(RECIPE, data, tmp_path / "whole.checkpoint")
    learn, steps = fine_tuning.Training.learn, iter(range(100))

    def stop(self: fine_tuning.Training, *arguments: torch.Tensor) -> float:
        if next(steps) == 6:  # in the second stage, after the seventh step is chosen and before it is done
            raise StopError
        return learn(self, *arguments)

    monkeypatch.setattr(fine_tuning.Training, "learn", stop)
    with pytest.raises(StopError):
        fine_tune(RECIPE, data, tmp_path / "stopped.checkpoint")
    resumed = fine_tune(RECIPE, data, tmp_path / "stopped.checkpoint")
    assert next(steps) == 9  # eight steps in all, and the one that was stopped
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
    assert whole.classifier.out_features == 2  # type: ignore[union-attr]


def make_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ARCHITECTURES["efficientnet_lite0"](2).eval()


def test_distilled_network_learns_the_average_over_orientations_and_no_label(data: Path, tmp_path: Path) -> None:
    how = Distillation(
        architecture="efficientnet_lite0",
        sets=("dots",),
        stages=((32, 2),),
        batch_size=4,
        learning_rate=3e-3,
        weight_decay=0.0,
        label_smoothing=0.0,
        average_decay=0.0,
        teacher_sizes=(32, 40),
        views=2,
        blended=0.5,
    )
    teacher = make_network(0)
    with torch.no_grad():
        teacher.classifier.bias.copy_(torch.tensor([0.0, -5.0]))  # type: ignore[union-attr, operator]
    before = [weights.clone() for weights in teacher.state_dict().values()]
    student = distil(how, data, tmp_path / "checkpoint", teacher)
    train = read_split(data, ["dots"], "train", 32)
    assert fine_tuning.score(student, train.images).max() < 0.1  # as the teacher, whatever the labels say
    assert all(torch.equal(*pair) for pair in zip(before, teacher.state_dict().values(), strict=True))


def test_teacher_sees_every_orientation_and_answers_alike_for_each_of_them() -> None:
    how = Distillation("efficientnet_lite0", ("dots",), ((32, 1),), 4, 1e-3, teacher_sizes=(32,), views=8)
    teacher = make_network(1)
    with torch.no_grad():
        teacher.classifier.weight.mul_(1e3)  # type: ignore[union-attr, operator]  # a new network hardly reacts
    picture = torch.from_numpy(np.random.default_rng(3).uniform(0, 255, (1, 3, 32, 32)).astype(np.float32))
    turned = torch.cat([orient(picture, number) for number in range(8)])
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 8
    with torch.no_grad():
        alone = teacher(fine_tuning.normalize(turned)).softmax(1)[:, 1]
        together = answer(teacher, turned, how, np.random.default_rng(0))[:, 1]
    assert float(alone.max() - alone.min()) > 100 * float(together.max() - together.min())


def test_network_is_made_once_and_a_stop_leaves_no_half_a_file(tmp_path: Path) -> None:
    made = []

    def make(checkpoint: Path) -> nn.Module:
        made.append(checkpoint)
        return make_network(len(made))

    first, second = (make_or_load(RECIPE, tmp_path / "work/dots.safetensors", make) for _ in range(2))
    assert made == [tmp_path / "work/dots.checkpoint"]
    assert all(
        torch.equal(*pair) for pair in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["dots.safetensors"]


def test_every_origin_has_its_share_of_positive_draws(tmp_path: Path) -> None:
    counts = {("train", "A", 0): 90, ("train", "A", 1): 10, ("train", "B", 0): 10, ("train", "B", 1): 15}
    train = read_split(make_data(tmp_path, counts), ["dots"], "train", 32)
    draws = count_draws(Balance(1 / 3, 0.5, 5.0), train, np.random.default_rng(0))
    share = {
        (origin, label): draws[(train.origins == origin) & (train.labels == label)].sum()
        for origin in "AB"
        for label in (0, 1)
    }
    assert share["A", 1] / (share["A", 0] + share["A", 1]) == pytest.approx(1 / 3, abs=0.03)
    assert share["B", 1] / (share["B", 0] + share["B", 1]) == pytest.approx(1 / 3, abs=0.03)
    assert (share["A", 0] + share["A", 1]) / draws.sum() == pytest.approx(2 / 3, abs=0.03)
    assert draws.sum() == pytest.approx(len(train.labels), abs=1)
    assert draws.max() <= 5


def test_image_without_a_row_in_the_manifest_is_an_error(data: Path) -> None:
    Image.new("RGB", (8, 8)).save(data / "dots/train/0/stranger.png")
    with pytest.raises(KeyError, match="stranger"):
        read_split(data, ["dots"], "train", 32)
    with pytest.raises(FileNotFoundError, match="needs images in both"):
        read_split(data, ["dots"], "test", 32)


def test_stains_change_colours_and_no_structure() -> None:
    random = np.random.default_rng(0)
    amounts = random.uniform(0, 1, (1, 16, 16, 3)) * [1.0, 1.0, 0.1]
    patch = torch.from_numpy(255 * np.exp(-amounts @ np.array(STAINS))).permute(0, 3, 1, 2).float()
    assert torch.allclose(restain(patch, 0.0, random), patch, atol=0.01)
    changed = restain(patch.repeat(8, 1, 1, 1), 0.2, random)
    assert (changed - patch).abs().mean() > 3
    for one in changed:
        assert torch.corrcoef(torch.stack([one.mean(0).flatten(), patch[0].mean(0).flatten()]))[0, 1] > 0.97


def test_augmentation_is_repeatable_and_stays_a_picture() -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    how = Augmentation(zoom=1.3, aspect=1.3, any_angle=True, stain=0.2, jpeg=0.5, blur=0.5)
    first, second = (augment(images, how, np.random.default_rng(2)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (6, 3, 32, 32)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 255
    labelled = LabelledImages(images, np.zeros(6, np.int64), ("a",) * 6, np.array(["A"] * 6), np.array(["nv"] * 6))
    assert len(labelled.select(np.arange(6) < 2).files) == 2


def test_recipe_puts_the_report_beside_the_card_without_pictures_and_names(data: Path, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "models")
    commands = Commands(tmp_path / "models", tmp_path / "instance")
    put_report(data, commands, folder, tmp_path / "work", Part("dots, validation", ("dots",), ("val",)), ("origin",))
    page, document = ((folder / name).read_text("utf-8") for name in ("report.html", "report.json"))
    assert not (folder / "pictures.csv").exists()
    assert "data:image" not in page
    assert "A-0.png" not in page + document
    report = json.loads(document)
    assert report["data"] == "dots, validation"
    assert [group["value"] for group in report["groups"][0]["groups"]] == ["A"]
    assert {folder / "report.html", folder / "report.json"} <= set(list_content(folder))  # what is signed and packed
