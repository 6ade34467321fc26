"""Fits a calibration on labelled pictures, and measures how well probabilities mean what they say."""

import math

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities
from app.manifest.bounds import OFFSET, TEMPERATURE
from app.manifest.calibration import Calibration
from app.pipeline.postprocess import LEAST_PROBABILITY, calibrate, to_shares

COVERAGE = 0.9
BINS = 15
FOLDS = 5
MAX_CLASSES, MIN_PICTURES = 32, 20
STEPS = 50
"""Newton's method ends after 5 to 10 steps; where classes are told apart without fault it would go on for ever."""
RIDGE = 1e-3
"""Keeps the fit finite then: it pulls towards no correction, as a thousandth of a picture would."""
SETTLED = 1e-9


def fit_calibration(probabilities: Probabilities, labels: NDArray[np.int64], data: str) -> Calibration:
    """Fit a calibration.

    Args:
        probabilities: as the network gives them, float64 [N, classes].
        labels: index of the true class of each, int64 [N]; every class occurs.
        data: the pictures, in words.
    """
    temperature, offsets = fit_correction(probabilities, labels)
    correction = Calibration(temperature, offsets, COVERAGE, (0.0,) * len(offsets), data)
    corrected = calibrate(probabilities, correction)
    limits = tuple(find_limit(corrected[labels == index, index], COVERAGE) for index in range(len(offsets)))
    return Calibration(temperature, offsets, COVERAGE, limits, data)


def fit_correction(probabilities: Probabilities, labels: NDArray[np.int64]) -> tuple[float, tuple[float, ...]]:
    """Return the temperature and the offsets under which the true classes are the most likely.

    The likelihood is concave in the inverse of the temperature and in the offsets, so Newton's method finds the best.
    The first offset is 0, since a constant added to all changes nothing.
    """
    logarithms = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    classes = logarithms.shape[1]
    units = np.eye(classes)
    slopes = np.stack([logarithms, *(np.broadcast_to(unit, logarithms.shape) for unit in units[1:])])
    found = start = units[0]
    for _ in range(STEPS):
        shares = to_shares(np.tensordot(found, slopes, 1))
        means = np.einsum("nc,knc->kn", shares, slopes)
        gradient = np.einsum("nc,knc->k", shares - units[labels], slopes) + RIDGE * (found - start)
        curvature = np.einsum("nc,jnc,knc->jk", shares, slopes, slopes, optimize=True) - means @ means.T
        step = np.linalg.solve(curvature + RIDGE * np.eye(classes), gradient)
        while score_fit(found - step, start, slopes, labels) > score_fit(found, start, slopes, labels) + SETTLED:
            step = step / 2
        found = found - step
        if float(np.abs(step).max()) < SETTLED:
            break
    temperature = TEMPERATURE.high if found[0] <= 1 / TEMPERATURE.high else max(1 / float(found[0]), TEMPERATURE.low)
    return temperature, (0.0, *np.clip(found[1:], OFFSET.low, OFFSET.high).tolist())


def score_fit(
    values: NDArray[np.float64], start: NDArray[np.float64], slopes: NDArray[np.float64], labels: NDArray[np.int64]
) -> float:
    """How unlikely the true classes are, with the pull towards `start`; less is better."""
    of_truth = to_shares(np.tensordot(values, slopes, 1))[np.arange(len(labels)), labels]
    pull = RIDGE / 2 * ((values - start) ** 2).sum()
    return float(pull - np.log(np.maximum(of_truth, LEAST_PROBABILITY)).sum())


def combine(first: Calibration | None, second: Calibration) -> Calibration:
    """Return what corrects as `first` and then `second` do, with the limits of `second`."""
    if first is None:
        return second
    offsets = [ours / second.temperature + theirs for ours, theirs in zip(first.offsets, second.offsets, strict=True)]
    temperature = first.temperature * second.temperature
    return Calibration(temperature, tuple(offsets), second.coverage, second.possible_from, second.data)


def find_limit(of_true_class: NDArray[np.float64], coverage: float) -> float:
    """Return the probability that at least `coverage` of the next pictures of a class will reach, by split conformal
    prediction; 0 where there are too few pictures to tell. Takes the class's probability of its own pictures, [N].
    """
    count = len(of_true_class)
    allowed = count - math.ceil((count + 1) * coverage)
    return 0.0 if allowed < 0 else float(np.sort(of_true_class)[allowed])


def measure_calibration_error(probabilities: Probabilities, labels: NDArray[np.int64], index: int) -> float:
    """Expected calibration error of one class's probability: the mean distance, over 15 bins of equal width, between
    what was said and the share that is of the class, weighted by pictures (Naeini, Cooper and Hauskrecht 2015).
    """
    said, is_true = probabilities[:, index], labels == index
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    distances = [abs(said[bins == each].sum() - is_true[bins == each].sum()) for each in range(BINS)]
    return float(sum(distances) / len(said))


def cross_validate(
    probabilities: Probabilities, labels: NDArray[np.int64], seed: int = 0
) -> tuple[Probabilities, float]:
    """Correct each fifth of the pictures by a fit on the others; return that, and the share whose class is possible."""
    order = np.random.default_rng(seed).permutation(len(labels))
    corrected, covered = np.empty_like(probabilities), 0
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        others = np.setdiff1d(order, held)
        calibration = fit_calibration(probabilities[others], labels[others], "")
        corrected[held] = calibrate(probabilities[held], calibration)
        own = corrected[held, labels[held]]
        covered += int((own >= np.array(calibration.possible_from)[labels[held]]).sum())
    return corrected, covered / len(labels)
