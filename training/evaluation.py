"""AUC, with a bootstrap interval: not the code of the service, so that each checks the other."""

import numpy as np
from numpy.typing import NDArray

from app.evaluation.estimates import Estimate

BOOTSTRAP_ROUNDS = 2000


def rank_auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counted half.

    Args:
        labels: int64 [N], 0 or 1, both present.
        scores: float64 [N], any scale.
    """
    order = np.argsort(scores, kind="stable")
    _, first, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def estimate_auc(labels: NDArray[np.int64], scores: NDArray[np.float64], seed: int = 0) -> Estimate:
    """AUC with a percentile bootstrap interval, resampled within each class."""
    random = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == label) for label in (0, 1)]
    draws = []
    for _ in range(BOOTSTRAP_ROUNDS):
        rows = np.concatenate([random.choice(group, len(group)) for group in groups])
        draws.append(rank_auc(labels[rows], scores[rows]))
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(rank_auc(labels, scores), float(low), float(high), len(labels))
