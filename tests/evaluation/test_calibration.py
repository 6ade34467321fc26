"""Calibration: probabilities that mean what they say, classes that cannot be ruled out, thresholds that are chosen."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from app.config.settings import Settings
from app.errors import EvaluationError, ManifestError
from app.evaluation.calibration_fit import (
    COVERAGE,
    cross_validate,
    find_limit,
    fit_calibration,
    measure_calibration_error,
)
from app.evaluation.operating_points import measure_point, threshold_at_sensitivity, threshold_at_specificity
from app.manifest.model_manifest import read_manifest
from app.manifest.model_specs import OutputSpec
from app.pipeline.postprocess import calibrate, decide, to_shares, undo_calibration
from app.repository.model_check import compare_examples, open_served
from app.repository.model_folder import ModelFolder
from tests.evaluation.tiny_model import MANIFEST, open_client, run_command, write_pictures, write_tiny_model

NAME, VERSION = "tiny-brightness", "tiny-brightness/1.0"
LISTS = ("offsets", "possible_from")


def draw(count: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities that are right, and true classes that were drawn by them."""
    random = np.random.default_rng(seed)
    right = to_shares(random.normal(0, 2, (count, classes)))
    return right, np.array([random.choice(classes, p=row) for row in right])


def make_spec(classes: int, scores: str = "logits") -> OutputSpec:
    positive = ("1", 0.5, "a test") if classes == 2 else (None, None, None)
    return OutputSpec(tuple(map(str, range(classes))), "softmax", *positive, scores=scores)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_fit_finds_what_distorted_the_probabilities(classes: int, temperature: float) -> None:
    right, labels = draw(20_000, classes)
    offsets = np.linspace(0, 1.5, classes)
    distorted = to_shares((np.log(right) - offsets) * temperature)
    fitted = fit_calibration(distorted, labels, make_spec(classes), "")
    assert fitted.calibration is not None
    assert fitted.calibration.temperature == pytest.approx(temperature, rel=0.05)
    assert fitted.calibration.offsets == pytest.approx(offsets, abs=0.1)
    corrected = calibrate(distorted, fitted)
    assert np.abs(corrected - right).max() < 0.03
    assert measure_calibration_error(corrected, labels, 1) < 0.015
    assert undo_calibration(corrected, fitted) == pytest.approx(distorted, abs=1e-9)


def test_probabilities_that_the_network_rounded_to_1_do_not_rule_the_fit() -> None:
    right, labels = draw(5000, 2)
    sure = to_shares(np.log(right) * 8).astype(np.float32)
    rounded = np.stack([1 - sure[:, 1], sure[:, 1]], axis=1).astype(np.float64)
    assert (rounded == 0).any()
    fitted = fit_calibration(rounded, labels, make_spec(2, "probabilities"), "")
    assert measure_calibration_error(calibrate(rounded, fitted), labels, 1) < 0.05


def test_classes_that_are_told_apart_without_fault_stay_possible() -> None:
    random, labels = np.random.default_rng(0), np.repeat([0, 1], 500)
    logits = random.normal(0, 0.5, (1000, 2)) + 3 * np.eye(2)[labels]
    probabilities = to_shares(logits)
    fitted = fit_calibration(probabilities, labels, make_spec(2), "")
    corrected = calibrate(probabilities, fitted)
    possible = [decide(row, fitted).possible_classes for row in corrected]
    covered = [str(label) in (classes or ()) for label, classes in zip(labels, possible, strict=True)]
    assert np.mean(covered) >= COVERAGE - 0.01


@pytest.mark.parametrize("probability", [0.5, 1 - 1e-12, 1.0])
def test_fit_is_finite_where_the_classes_are_told_apart_without_fault_or_not_at_all(probability: float) -> None:
    labels = np.repeat([0, 1], 50)
    probabilities = np.where(labels[:, None] == [0, 1], probability, 1 - probability)
    fitted = fit_calibration(probabilities, labels, make_spec(2), "")
    corrected = calibrate(probabilities, fitted)
    assert np.isfinite(corrected).all()
    assert corrected.sum(axis=1) == pytest.approx(1)
    assert measure_calibration_error(corrected, labels, 1) < 0.02


def test_scores_that_run_against_the_classes_are_refused() -> None:
    right, labels = draw(1000, 2)
    with pytest.raises(EvaluationError, match="are the folders of the classes mixed up"):
        fit_calibration(right, 1 - labels, make_spec(2), "")


def test_error_is_the_mean_distance_between_what_was_said_and_what_was_true() -> None:
    said = np.array([0.1, 0.1, 0.9, 0.9])
    probabilities = np.stack([1 - said, said], axis=1)
    assert measure_calibration_error(probabilities, np.array([0, 0, 1, 1]), 1) == pytest.approx(0.1)
    assert measure_calibration_error(probabilities, np.array([1, 1, 0, 0]), 1) == pytest.approx(0.9)
    assert measure_calibration_error(np.array([[0.0, 1.0]]), np.array([1]), 1) == 0


class Prefit(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """A model whose inputs are its probabilities, as MAPIE wants one."""

    classes_: ClassVar = np.array([0, 1])

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, *_: object) -> "Prefit":
        return self

    def predict_proba(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        return inputs

    def predict(self, inputs: NDArray[np.float64]) -> NDArray[np.int64]:
        return inputs.argmax(axis=1)


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels")
@pytest.mark.parametrize("count", [25, 100, 333])
def test_possible_classes_are_those_of_mapie_fitted_on_each_class(count: int) -> None:
    probabilities, labels = draw(count, 2, seed=count)
    asked, _ = draw(500, 2, seed=7)
    for index in (0, 1):
        mapie = SplitConformalClassifier(Prefit(), confidence_level=COVERAGE, conformity_score="lac", prefit=True)
        mapie.conformalize(probabilities[labels == index], labels[labels == index])
        theirs = mapie.predict_set(asked)[1][:, index, 0]
        limit = find_limit(probabilities[labels == index, index], COVERAGE)
        assert ((asked[:, index] >= limit) == theirs).all()


def test_too_few_pictures_rule_no_class_out() -> None:
    assert find_limit(np.full(8, 0.99), COVERAGE) == 0
    assert find_limit(np.full(9, 0.99), COVERAGE) == 0.99


def test_nine_of_ten_unseen_pictures_have_their_class_among_the_possible_ones() -> None:
    probabilities, labels = draw(4000, 2)
    _, covered = cross_validate(probabilities, labels, make_spec(2))
    assert covered == pytest.approx(COVERAGE, abs=0.015)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95, 1.0])
def test_threshold_keeps_the_share_that_was_asked_for_and_no_more_than_it_must(share: float) -> None:
    scores = np.random.default_rng(0).random(200)
    is_positive = np.arange(200) % 2 == 0
    at_sensitivity = threshold_at_sensitivity(scores[is_positive], share)
    assert measure_point(at_sensitivity, scores, is_positive).sensitivity.value == pytest.approx(share)
    at_specificity = threshold_at_specificity(scores[~is_positive], share)
    assert measure_point(at_specificity, scores, is_positive).specificity.value == pytest.approx(share)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with an example, and a comment in its manifest."""
    folder = write_tiny_model(tmp_path / "models", manifest_text=f"# by hand\n{MANIFEST}")
    write_pictures(folder / "examples", 1, 90, 110)
    (folder / "examples/0/000.png").rename(folder / "examples/one.png")
    shutil.rmtree(folder / "examples/0")
    shutil.rmtree(folder / "examples/1")
    answer = open_client(tmp_path).put(f"/predictions/{NAME}", data=(folder / "examples/one.png").read_bytes()).json
    expected = {"framework": "none", "tolerance": 1e-5, "probabilities": {"one.png": answer["probabilities"]}}
    (folder / "examples/expected.json").write_text(json.dumps(expected))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """60 pictures of each class, of which the model is far too sure."""
    return write_pictures(tmp_path / "val", 60, 98.5, 100.5, noise=30)


def ask(tmp_path: Path, pictures: Path) -> list[dict[str, Any]]:
    client = open_client(tmp_path)
    return [
        client.put(f"/predictions/{NAME}", data=path.read_bytes()).get_json()
        for path in sorted(pictures.glob("*/*.png"))
    ]


def test_calibrated_version_says_how_sure_it_is_and_decides_as_before(
    folder: Path, pictures: Path, tmp_path: Path
) -> None:
    before = ask(tmp_path, pictures)
    done = run_command(tmp_path, "calibrate", VERSION, "--data", pictures)
    assert done.exit_code == 0, done.output
    error = re.search(r"expected calibration error of bright: (0\.\d{3}), now (0\.\d{3})", done.stdout)
    assert error is not None
    after = ask(tmp_path, pictures)
    assert [answer["class"] for answer in after] == [answer["class"] for answer in before]
    assert [answer["calibrated"] for answer in (before[0], after[0])] == [False, True]
    assert "possible_classes" not in before[0]
    assert "cannot_tell" not in before[0]
    for answer in after:
        assert answer["score"] == answer["probabilities"]["bright"]
        assert answer["positive_class"] == "bright"
        assert answer["cannot_tell"] is (answer["possible_classes"] != [answer["class"]])
    assert {len(answer["possible_classes"]) for answer in after} == {1, 2}
    is_covered = [["dark", "bright"][index >= 60] in answer["possible_classes"] for index, answer in enumerate(after)]
    assert np.mean(is_covered) == pytest.approx(COVERAGE, abs=0.02)


def test_calibration_keeps_what_somebody_wrote_and_the_examples_hold(
    folder: Path, pictures: Path, tmp_path: Path
) -> None:
    assert run_command(tmp_path, "calibrate", VERSION, "--data", pictures).exit_code == 0
    assert (folder / "model.toml").read_text().startswith("# by hand\n")
    calibration = read_manifest(folder).output.calibration
    assert calibration is not None
    assert calibration.data == "val (60 dark, 60 bright)"
    manifest = read_manifest(folder)
    with open_served(ModelFolder(folder), manifest, Settings(models=tmp_path, instance=tmp_path)) as served:
        assert compare_examples(ModelFolder(folder), manifest, served) <= 1e-5
    described = open_client(tmp_path).get(f"/models/{NAME}").get_json()["output"]["calibration"]
    assert described == {**asdict(calibration), **{key: list(getattr(calibration, key)) for key in LISTS}}


def test_calibrating_again_changes_nothing_more(folder: Path, pictures: Path, tmp_path: Path) -> None:
    run_command(tmp_path, "calibrate", VERSION, "--data", pictures)
    first = read_manifest(folder).output
    run_command(tmp_path, "calibrate", VERSION, "--data", pictures)
    second = read_manifest(folder).output
    assert first.calibration is not None
    assert second.calibration is not None
    assert second.calibration.temperature == pytest.approx(first.calibration.temperature, rel=1e-3)
    assert second.calibration.possible_from == pytest.approx(first.calibration.possible_from, abs=1e-3)
    assert second.threshold == pytest.approx(first.threshold, abs=1e-3)


@pytest.mark.parametrize("name, share", [("sensitivity", 0.95), ("specificity", 0.9)])
def test_threshold_is_chosen_and_every_answer_says_by_what(
    folder: Path, pictures: Path, tmp_path: Path, name: str, share: float
) -> None:
    done = run_command(tmp_path, "set-threshold", VERSION, f"--{name}", share, "--data", pictures)
    assert done.exit_code == 0, done.output
    answers = ask(tmp_path, pictures)
    called = np.array([answer["class"] == "bright" for answer in answers])
    right = {"sensitivity": called[60:].mean(), "specificity": (~called[:60]).mean()}
    point = answers[0]["operating_point"]
    assert {key: point[key]["value"] for key in right} == pytest.approx(right, abs=1e-6)
    assert right[name] == pytest.approx(share, abs=1e-9)
    assert point["rule"] == f"{name} of {share} or more on val (60 dark, 60 bright)"
    assert point["data"] == "val (60 dark, 60 bright)"
    assert point["sensitivity"]["n"] == 60


def test_threshold_by_hand_has_no_figures_that_were_measured_at_another(
    folder: Path, pictures: Path, tmp_path: Path
) -> None:
    run_command(tmp_path, "set-threshold", VERSION, "--sensitivity", 0.9, "--data", pictures)
    assert run_command(tmp_path, "set-threshold", VERSION, "--value", 0.25).exit_code == 0
    answer = ask(tmp_path, pictures)[0]
    assert answer["threshold"] == 0.25
    assert "operating_point" not in answer
    assert read_manifest(folder).output.threshold_source == "set by hand"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["set-threshold", VERSION], "give one of --sensitivity, --specificity and --value"),
        (["set-threshold", VERSION, "--value", "0.5", "--sensitivity", "0.5"], "give one of"),
        (["set-threshold", VERSION, "--sensitivity", "0.5"], "need --data"),
        (["set-threshold", NAME, "--value", "0.5"], f"give the version too: {NAME}/VERSION"),
        (["set-threshold", VERSION, "--value", "nan"], "output.threshold=nan is not allowed"),
        (["set-threshold", f"{NAME}/7", "--value", "0.5"], "version: 7"),
        (["calibrate", VERSION, "--data", "few"], "at least 20 readable pictures of each class"),
        (["calibrate", VERSION, "--data", "swapped"], "are the folders of the classes mixed up?"),
    ],
)
def test_what_is_not_possible_is_said_and_changes_nothing(
    folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_pictures(tmp_path / "few", 19, 90, 110)
    write_pictures(tmp_path / "swapped", 30, 101, 99, noise=30)
    before = (folder / "model.toml").read_bytes()
    done = run_command(tmp_path, *(tmp_path / each if each in ("few", "swapped") else each for each in arguments))
    assert done.exit_code != 0
    assert message in done.output
    assert (folder / "model.toml").read_bytes() == before


@pytest.mark.parametrize(
    "line, key",
    [
        ("temperature = 0", "temperature"),
        ("offsets = [0.0]", "offsets must be two numbers"),
        ("possible_from = [0.5, 1.5]", "possible_from"),
        ("coverage = 1", "coverage"),
        ('coverage = "0.9"', "coverage"),
        ("offset = [0.0, 1.0]", "offset is not known"),
    ],
)
def test_manifest_with_a_broken_calibration_is_refused_by_its_key(folder: Path, line: str, key: str) -> None:
    keys = {
        "temperature": "1.5",
        "offsets": "[0.0, 1.0]",
        "coverage": "0.9",
        "possible_from": "[0.4, 0.4]",
        "data": '"val"',
    }
    name, _, value = line.partition(" = ")
    lines = "\n".join(f"{key} = {text}" for key, text in {**keys, name: value}.items())
    with (folder / "model.toml").open("a") as manifest:
        manifest.write(f"\n[calibration]\n{lines}\n")
    with pytest.raises(ManifestError, match=re.escape(key)):
        read_manifest(folder)


def test_signed_version_is_not_changed(folder: Path, tmp_path: Path) -> None:
    (folder / "signature.json").write_text("{}")
    done = run_command(tmp_path, "set-threshold", VERSION, "--value", "0.5")
    assert done.exit_code == 1
    assert "is signed, and its model.toml would change" in done.output


def test_specificity_that_no_threshold_has_is_refused() -> None:
    scores, is_positive = np.array([0.1, 0.2, 1.0, 1.0, 1.0, 1.0]), np.arange(6) == 5
    threshold = threshold_at_specificity(scores[~is_positive], 0.9)
    assert measure_point(threshold, scores, is_positive).specificity.value == 0.4
    assert threshold_at_specificity(np.array([0.000249]), 1.0) > 0.000249
