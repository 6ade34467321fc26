"""Fits a calibration on labelled pictures, and measures how well probabilities mean what they say."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.arrays import Probabilities
from app.errors import EvaluationError
from app.manifest.bounds import OFFSET, TEMPERATURE
from app.manifest.calibration import Calibration
from app.manifest.model_specs import OutputSpec
from app.pipeline.postprocess import LEAST_PROBABILITY, calibrate, to_logarithms, to_shares

COVERAGE = 0.9
BINS = 15
FOLDS = 5
MAX_CLASSES, MIN_PICTURES = 32, 20
STEPS = 50
"""Newton's method ends after 5 to 10 steps; where classes are told apart without fault it would go on for ever."""
RIDGE = 1e-3
"""Keeps the fit finite then: it pulls towards no correction, as a thousandth of a picture would."""
SETTLED = 1e-9
LIMIT_STEPS = 1_000_000
"""Limits are rounded down to 6 decimals, so that those which they were fitted on still reach them."""


def fit_calibration(probabilities: Probabilities, labels: NDArray[np.int64], spec: OutputSpec, data: str) -> OutputSpec:
    """Return `spec` with a calibration.

    Args:
        probabilities: before any calibration, float64 [N, classes].
        labels: index of the true class of each, int64 [N]; every class occurs.
        spec: the meaning of the network's output.
        data: the pictures, in words.

    Raises `EvaluationError` if the scores run against the classes, or no correction within the bounds fits.
    """
    temperature, offsets = fit_correction(to_logarithms(probabilities, spec), labels)
    correction = Calibration(temperature, offsets, COVERAGE, (0.0,) * len(offsets), data)
    corrected = calibrate(probabilities, replace(spec, calibration=correction))
    limits = tuple(find_limit(corrected[labels == index, index], COVERAGE) for index in range(len(offsets)))
    return replace(spec, calibration=replace(correction, possible_from=limits))


def fit_correction(logarithms: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, tuple[float, ...]]:
    """Return the temperature and the offsets under which the true classes are the most likely.

    The likelihood is concave in the inverse of the temperature and in the offsets, so Newton's method finds the best.
    The first offset is 0, since a constant added to all changes nothing. Takes logarithms of probabilities, float64
    [N, classes].
    """
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
    if not 1 / TEMPERATURE.high <= found[0] <= 1 / TEMPERATURE.low or np.abs(found[1:]).max() > OFFSET.high:
        raise EvaluationError(
            "no calibration fits: the scores do not rise with the classes; are the folders of the classes mixed up?"
        )
    return 1 / float(found[0]), (0.0, *found[1:].tolist())


def score_fit(
    values: NDArray[np.float64], start: NDArray[np.float64], slopes: NDArray[np.float64], labels: NDArray[np.int64]
) -> float:
    """How unlikely the true classes are, with the pull towards `start`; less is better."""
    of_truth = to_shares(np.tensordot(values, slopes, 1))[np.arange(len(labels)), labels]
    pull = RIDGE / 2 * ((values - start) ** 2).sum()
    return float(pull - np.log(np.maximum(of_truth, LEAST_PROBABILITY)).sum())


def find_limit(of_true_class: NDArray[np.float64], coverage: float) -> float:
    """Return the probability that at least `coverage` of the next pictures of a class will reach, by split conformal
    prediction; 0 where there are too few pictures to tell. Takes the class's probability of its own pictures, [N].
    """
    count = len(of_true_class)
    allowed = count - math.ceil((count + 1) * coverage)
    return 0.0 if allowed < 0 else math.floor(float(np.sort(of_true_class)[allowed]) * LIMIT_STEPS) / LIMIT_STEPS


def measure_calibration_error(probabilities: Probabilities, labels: NDArray[np.int64], index: int) -> float:
    """Expected calibration error of one class's probability: the mean distance, over 15 bins of equal width, between
    what was said and the share that is of the class, weighted by pictures (Naeini, Cooper and Hauskrecht 2015).
    """
    said, is_true = probabilities[:, index], labels == index
    bins = find_bins(said)
    distances = [abs(said[bins == each].sum() - is_true[bins == each].sum()) for each in range(BINS)]
    return float(sum(distances) / len(said))


def find_bins(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each probability, float64 [N]: 0 to 14. A probability on the border is of the upper bin."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def cross_validate(
    probabilities: Probabilities, labels: NDArray[np.int64], spec: OutputSpec, seed: int = 0
) -> tuple[Probabilities, float]:
    """Correct each fifth of the pictures by a fit on the others; return that, and the share whose class is possible."""
    order = np.random.default_rng(seed).permutation(len(labels))
    corrected, covered = np.empty_like(probabilities), 0
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        others = np.setdiff1d(order, held)
        fitted = fit_calibration(probabilities[others], labels[others], spec, "")
        assert fitted.calibration is not None, "it was just fitted"
        corrected[held] = calibrate(probabilities[held], fitted)
        own = corrected[held, labels[held]]
        covered += int((own >= np.array(fitted.calibration.possible_from)[labels[held]]).sum())
    return corrected, covered / len(labels)
