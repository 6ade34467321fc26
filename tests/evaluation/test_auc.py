"""AUC, and the interval of the difference of two, against what is known of them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from app.evaluation.estimates import compare_aucs, measure_auc


def two_columns(positive: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([1 - positive, positive], axis=1)


def draw(random: np.random.Generator, count: int, noise: float) -> tuple[NDArray[np.float64], ...]:
    """Labels, and the scores of two models that see the same signal, each with noise of its own."""
    labels = np.arange(count) % 3 // 2
    signal = labels + random.normal(0, 1, count)
    first, second = (1 / (1 + np.exp(-signal - random.normal(0, noise, count))) for _ in range(2))
    return labels, first, second


def test_auc_is_the_share_of_pairs_in_the_right_order_ties_counted_half() -> None:
    random = np.random.default_rng(0)
    scores, is_positive = random.integers(0, 6, 60) / 5, random.random(60) < 0.4
    pairs = [(one > other) + (one == other) / 2 for one in scores[is_positive] for other in scores[~is_positive]]
    assert measure_auc(scores, is_positive)[0] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_equal_models_do_not_differ_and_leave_no_doubt() -> None:
    labels, scores, _ = draw(np.random.default_rng(0), 90, 0.1)
    result = compare_aucs(two_columns(scores), two_columns(scores), labels, [1])
    assert (result.drop, result.drop_low, result.drop_high) == (0, 0, 0)


def test_interval_is_as_wide_as_a_paired_bootstrap_finds() -> None:
    random = np.random.default_rng(0)
    labels, first, second = draw(random, 600, 0.5)
    result = compare_aucs(two_columns(first), two_columns(second), labels, [1])
    drops = []
    for _ in range(2000):
        chosen = np.concatenate(
            [random.choice(np.flatnonzero(labels == label), (labels == label).sum()) for label in (0, 1)]
        )
        is_positive = labels[chosen] == 1
        drops.append(measure_auc(first[chosen], is_positive)[0] - measure_auc(second[chosen], is_positive)[0])
    low, high = np.quantile(drops, (0.025, 0.975))
    assert result.drop_low == pytest.approx(low, abs=0.1 * (high - low))
    assert result.drop_high == pytest.approx(high, abs=0.1 * (high - low))


def test_interval_holds_the_truth_19_times_in_20() -> None:
    random = np.random.default_rng(0)
    held = []
    for _ in range(600):
        labels, first, second = draw(random, 300, 0.3)  # equally noisy: the true drop is 0
        result = compare_aucs(two_columns(first), two_columns(second), labels, [1])
        held.append(result.drop_low <= 0 <= result.drop_high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_more_classes_are_averaged_one_against_the_rest() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    probabilities = random.dirichlet((1, 1, 1), 90) + np.eye(3)[labels] / 2
    result = compare_aucs(probabilities, probabilities[:, [1, 2, 0]], labels, range(3))
    each = [measure_auc(probabilities[:, index], labels == index)[0] for index in range(3)]
    assert result.first == pytest.approx(np.mean(each))
    assert result.drop > 0.1
