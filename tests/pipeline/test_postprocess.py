"""Scores become probabilities by the written formulas, and probabilities a class by the threshold."""

import math
from dataclasses import replace

import numpy as np
import pytest

from app.arrays import Scores
from app.compiling.manifest_check import check_scores
from app.errors import InferenceError, ManifestError
from app.manifest.model_specs import OutputSpec
from app.pipeline.postprocess import decide, to_probabilities

SOFTMAX = OutputSpec(("benign", "malignant"), "softmax", "malignant", 0.41, "a test")
SOFTMAX_POSITIVE_FIRST = OutputSpec(("malignant", "benign"), "softmax", "malignant", 0.41, "a test")
SIGMOID = OutputSpec(("benign", "malignant"), "sigmoid", "malignant", 0.41, "a test")
THREE = OutputSpec(("nevus", "melanoma", "keratosis"), "softmax", None, None, None)
OWN_SOFTMAX = replace(SOFTMAX, scores="probabilities")
OWN_SIGMOID = replace(SIGMOID, scores="probabilities")


def scores_of(*rows: list[float]) -> Scores:
    return np.array(rows, dtype=np.float32)


def test_softmax_is_the_share_of_the_exponentials() -> None:
    scores = np.random.default_rng(40).normal(0, 5, (50, 3)).astype(np.float32)
    found = to_probabilities(scores, THREE)
    for row, probabilities in zip(scores.tolist(), found.tolist(), strict=True):
        exponentials = [math.exp(value) for value in row]
        expected = [value / math.fsum(exponentials) for value in exponentials]
        assert probabilities == pytest.approx(expected, rel=1e-12)


def test_sigmoid_is_the_logistic_function_of_the_positive_class() -> None:
    scores = np.random.default_rng(41).normal(0, 5, (50, 1)).astype(np.float32)
    found = to_probabilities(scores, SIGMOID)
    for (score,), (negative, positive) in zip(scores.tolist(), found.tolist(), strict=True):
        assert positive == pytest.approx(1 / (1 + math.exp(-score)), rel=1e-12)
        assert negative == pytest.approx(1 / (1 + math.exp(score)), abs=1e-12)


@pytest.mark.parametrize("spec", [SOFTMAX, THREE, SIGMOID], ids=["two", "three", "sigmoid"])
def test_rows_sum_to_1_in_float64(spec: OutputSpec) -> None:
    scores = np.random.default_rng(42).normal(0, 30, (100, spec.outputs)).astype(np.float32)
    found = to_probabilities(scores, spec)
    assert found.dtype == np.float64
    assert found.shape == (100, len(spec.classes))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("size", [1e4, 3e38], ids=["1e4", "the largest float32"])
def test_extreme_scores_give_0_and_1_without_a_warning(size: float) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert to_probabilities(scores_of([size], [-size], [0.0]), SIGMOID).tolist() == [[0, 1], [1, 0], [0.5, 0.5]]
        found = to_probabilities(scores_of([size, -size], [-size, size], [size, size], [-size, -size]), SOFTMAX)
    assert found.tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("spec", [SOFTMAX, THREE, SIGMOID], ids=["two", "three", "sigmoid"])
def test_score_that_is_not_finite_is_an_inference_error(spec: OutputSpec, value: float) -> None:
    scores = np.zeros((4, spec.outputs), dtype=np.float32)
    scores[2, -1] = value
    with pytest.raises(InferenceError, match=r"^The model returned no valid scores\.$"):
        to_probabilities(scores, spec)


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 1), (1, 2, 1), ()], ids=str)
def test_scores_of_a_wrong_shape_are_an_inference_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InferenceError):
        to_probabilities(np.zeros(shape, dtype=np.float32), SOFTMAX)


@pytest.mark.parametrize(
    "positive, expected",
    [(0.41, "malignant"), (math.nextafter(0.41, 0), "benign"), (math.nextafter(0.41, 1), "malignant")],
    ids=["at the threshold", "just below", "just above"],
)
def test_probability_equal_to_the_threshold_is_positive(positive: float, expected: str) -> None:
    for spec, row in ((SOFTMAX, [1 - positive, positive]), (SOFTMAX_POSITIVE_FIRST, [positive, 1 - positive])):
        decision = decide(np.array(row), spec)
        assert decision.class_name == expected
        assert decision.confidence == (positive if expected == "malignant" else 1 - positive)


def test_positive_class_may_be_decided_for_below_a_half() -> None:
    decision = decide(np.array([0.55, 0.45]), SOFTMAX)
    assert (decision.class_name, decision.confidence) == ("malignant", 0.45)


@pytest.mark.parametrize("threshold, expected", [(0.0, "malignant"), (1.0, "benign")])
def test_threshold_at_the_ends(threshold: float, expected: str) -> None:
    spec = OutputSpec(SOFTMAX.classes, "softmax", "malignant", threshold, "a test")
    assert decide(np.array([0.5, 0.5]), spec).class_name == expected
    assert decide(np.array([0.0, 1.0]), spec).class_name == "malignant"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_of_three_classes_the_most_probable_is_decided_for(index: int) -> None:
    row = np.full(3, 0.3)
    row[index] = 0.4
    decision = decide(row, THREE)
    assert (decision.class_name, decision.confidence) == (THREE.classes[index], 0.4)


def test_probabilities_are_plain_floats_in_class_order() -> None:
    decision = decide(np.array([0.2, 0.5, 0.3]), THREE)
    assert list(decision.probabilities.items()) == [("nevus", 0.2), ("melanoma", 0.5), ("keratosis", 0.3)]
    assert {type(value) for value in decision.probabilities.values()} == {float}


def test_probabilities_of_the_network_stay_as_they_are() -> None:
    shares = np.random.default_rng(43).dirichlet([1, 1], 50)
    found = to_probabilities(shares.astype(np.float32), OWN_SOFTMAX)
    np.testing.assert_allclose(found, shares, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    lone = to_probabilities(shares[:, 1:].astype(np.float32), OWN_SIGMOID)
    np.testing.assert_allclose(lone, shares, atol=1e-7)


def test_rounding_beyond_0_and_1_is_taken_back() -> None:
    assert to_probabilities(scores_of([-1e-6], [1 + 1e-6]), OWN_SIGMOID).tolist() == [[1, 0], [0, 1]]
    assert to_probabilities(scores_of([1 + 1e-6, -1e-6]), OWN_SOFTMAX).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "spec, row",
    [(OWN_SOFTMAX, [0.5, 0.6]), (OWN_SOFTMAX, [1.5, -0.5]), (OWN_SIGMOID, [1.01]), (OWN_SIGMOID, [-0.01])],
    ids=["sum of 1.1", "outside 0 to 1", "over 1", "under 0"],
)
def test_logits_are_no_probabilities(spec: OutputSpec, row: list[float]) -> None:
    with pytest.raises(InferenceError):
        to_probabilities(scores_of(row), spec)
    with pytest.raises(ManifestError, match=r"output\.scores says probabilities, but the network's lie from"):
        check_scores(scores_of(row), spec)


@pytest.mark.parametrize("spec", [SOFTMAX, THREE], ids=["two", "three"])
def test_softmax_that_would_be_applied_twice_is_named(spec: OutputSpec) -> None:
    shares = np.random.default_rng(44).dirichlet(np.ones(spec.outputs), 50).astype(np.float32)
    with pytest.raises(ManifestError, match="ends in a softmax of its own"):
        check_scores(shares, spec)
    check_scores(shares * 1.1, spec)
    check_scores(shares, replace(spec, scores="probabilities"))


def test_lone_logits_from_0_to_1_may_be_what_they_are_said_to_be() -> None:
    check_scores(scores_of([0.2], [0.9]), SIGMOID)
    check_scores(scores_of([0.2], [0.9]), OWN_SIGMOID)
