"""Learns which pictures a model was made for, from pictures that it was trained on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.arrays import InputBatch
from app.engines.compiled.feature_distance import FeatureGroup
from app.errors import EvaluationError
from app.evaluation.labelled_folder import LabelledPicture
from app.evaluation.picture_changes import Change, keep, list_changes
from app.manifest.bounds import LOOK
from app.manifest.fit_spec import LOOKS, FitSpec
from app.manifest.model_specs import InputSpec
from app.pipeline.fit import judge, measure_looks
from app.pipeline.preprocess import preprocess

REFUSED_SHARE = 0.01
"""Of right pictures, by their distance; the looks refuse few more."""
LOOKS_SHARE = 0.001
"""Of right pictures beyond each end of a look."""
MARGIN = 0.15
FREE_BELOW = ("glare",)
GREATEST = {"brightness": 255.0, "contrast": None, "sharpness": 3.0, "colour": None, "glare": 1.0}
"""The greatest value of a look; None for one that may be as large as it likes."""
SHRINKAGE = 0.001
"""Weight of the identity in the features' covariance, which has more entries than there are pictures. With 0.01, an
isic model let pass two more of 202 pictures of other kinds; 0.001 was no worse where 200 to 1,500 were learnt."""
LEAST_SPREAD = 1e-6
OTHER_WEIGHT = 3.0
"""How many times the direction counts in which pictures of another kind lie. With 1, an isic model let pass 9 of 4,145
lymph-node patches; with 2 none, the nearest at the limit; with 3 the nearest lay 1.2 times as far away."""
SMALLEST = 0.5
"""Least shorter side of a picture, as a share of the network's: below it too much is made up."""
SHAPE_MARGIN = 1.2
BATCH = 16

Features = list[NDArray[np.float32]]
"""By each group of layers, [N, features]."""
Extract = Callable[[InputBatch], Features]


@dataclass(frozen=True)
class Views:
    """Pictures after a change, as the network sees them.

    Attributes:
        looks: of each, see `measure_looks`.
        sizes: width and height of each before it was brought to the network's size.
        features: by each group of layers.
    """

    looks: list[dict[str, float]]
    sizes: list[tuple[int, int]]
    features: Features


@dataclass(frozen=True)
class FitPictures:
    """The pictures to fit on.

    Attributes:
        training: right ones to learn from.
        held: other right ones, which set the limit.
        others: ones of another kind that may be sent by mistake, to learn from.
        held_others: more of these, to see how many are refused.
    """

    training: Sequence[LabelledPicture]
    held: Sequence[LabelledPicture]
    others: Sequence[LabelledPicture] = ()
    held_others: Sequence[LabelledPicture] = ()


@dataclass(frozen=True)
class Refusals:
    """Which share of some pictures is refused; `pictures` says which, in words, and `count` how many."""

    pictures: str
    count: int
    share: float


@dataclass(frozen=True)
class Fitted:
    """What was learnt, and what it refuses of the held pictures; `spec` names no file yet."""

    reference: list[FeatureGroup]
    spec: FitSpec
    refusals: list[Refusals]


def fit_kind(
    extract: Extract,
    groups: Sequence[Sequence[int]],
    pictures: FitPictures,
    read: Callable[[Path], Image.Image],
    spec: InputSpec,
    data: str,
) -> Fitted:
    """Learn what the training pictures are like, and from the held ones which distance is the limit.

    Args:
        extract: the network's features of a batch.
        groups: the layers that they come from.
        pictures: what to fit on.
        read: decodes a picture's file.
        spec: the network's input.
        data: the pictures, in words.
    """
    changes = list_changes(spec)
    seen = {name: view(pictures.training, read, change, extract, spec) for name, change in changes.items()}
    reference = [
        learn_reference(np.concatenate([views.features[number] for views in seen.values()]), layers)
        for number, layers in enumerate(groups)
    ]
    if pictures.others:
        others = view(pictures.others, read, keep, extract, spec).features
        reference = [stress(group, features) for group, features in zip(reference, others, strict=True)]
    kept = {
        f"right pictures {name}": view(pictures.held, read, change, extract, spec) for name, change in changes.items()
    }
    reference = set_limits(reference, [views.features for views in kept.values()])
    if pictures.held_others:
        kept["pictures of another kind"] = view(pictures.held_others, read, keep, extract, spec)
    fit = describe_kind(list(seen.values()), groups, spec, data)
    return Fitted(reference, fit, [count_refusals(name, views, reference, spec, fit) for name, views in kept.items()])


def describe_kind(seen: list[Views], groups: Sequence[Sequence[int]], spec: InputSpec, data: str) -> FitSpec:
    """Say what the training pictures are like to the eye; `seen` begins with them as they are. It names no file yet."""
    sides = [min(size) for size in seen[0].sizes]
    return FitSpec(
        file="",
        sha256="",
        layers=tuple(map(tuple, groups)),
        network_sha256="",
        data=data,
        least_side_px=min(math.ceil(SMALLEST * min(spec.width_px, spec.height_px)), *sides),
        longest_shape=round(SHAPE_MARGIN * max(longest_shape(views, spec) for views in seen), 2),
        looks=learn_looks(seen),
    )


def view(
    pictures: Sequence[LabelledPicture],
    read: Callable[[Path], Image.Image],
    change: Change,
    extract: Extract,
    spec: InputSpec,
) -> Views:
    """Look at pictures after a change."""
    looks, sizes, features = [], [], []
    for start in range(0, len(pictures), BATCH):
        images = [change(read(picture.path)) for picture in pictures[start : start + BATCH]]
        batch = np.stack([preprocess(image, spec) for image in images])
        looks += [measure_looks(pixels) for pixels in batch]
        sizes += [image.size for image in images]
        features.append(extract(batch))
    return Views(looks, sizes, [np.concatenate(group) for group in zip(*features, strict=True)])


def learn_reference(features: NDArray[np.float32], layers: Sequence[int], shrinkage: float = SHRINKAGE) -> FeatureGroup:
    """Learn the mean of features, float32 [N, features], and what makes their covariance the identity.

    Each feature is brought to a standard deviation of 1 first, so that the shrinkage means the same for all.
    """
    exact = features.astype(np.float64)
    centre, spread = exact.mean(axis=0), np.maximum(exact.std(axis=0), LEAST_SPREAD)
    covariance = np.cov((exact - centre) / spread, rowvar=False)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.eye(len(centre))
    values, vectors = np.linalg.eigh(shrunk)
    whitening = vectors / np.sqrt(values) / spread[:, np.newaxis]
    return FeatureGroup(layers, centre.astype(np.float32), whitening.astype(np.float32))


def stress(group: FeatureGroup, others: NDArray[np.float32], shrinkage: float = SHRINKAGE) -> FeatureGroup:
    """Let the direction in which pictures of another kind lie count `OTHER_WEIGHT` times in a group's distance.

    It is the direction that tells the two kinds apart best, Fisher's (1936, doi:10.1111/j.1469-1809.1936.tb02137.x).

    Args:
        group: of right pictures: what it whitens has mean 0 and covariance 1.
        others: features of the others, float32 [N, features].
        shrinkage: as in `learn_reference`.
    """
    whitened = (others.astype(np.float64) - group.centre) @ group.whitening
    identity = np.eye(len(group.centre))
    covariance = (1 - shrinkage) * np.cov(whitened, rowvar=False) + shrinkage * identity
    direction = np.linalg.solve(covariance + identity, whitened.mean(axis=0))
    direction /= np.linalg.norm(direction)
    stretch = identity + (OTHER_WEIGHT - 1) * np.outer(direction, direction)
    return replace(group, whitening=(group.whitening @ stretch).astype(np.float32))


def set_limits(reference: list[FeatureGroup], held: list[Features]) -> list[FeatureGroup]:
    """Scale each group's distance so that it refuses as many of the held pictures as the others do, and all together
    `REFUSED_SHARE` of them, after the change that moves them most. Raises `EvaluationError` if they are all alike.
    """
    alone = [np.stack([measure_distance(features[n], group) for features in held]) for n, group in enumerate(reference)]
    scales = [float(np.quantile(distances[0], 1 - REFUSED_SHARE)) for distances in alone]
    if min(scales) == 0:
        raise EvaluationError("the pictures that the limit is set on are all alike to the network")
    largest = np.max([distances / scale for distances, scale in zip(alone, scales, strict=True)], axis=0)
    limit = float(np.quantile(largest, 1 - REFUSED_SHARE, axis=1).max())
    return [
        replace(group, whitening=(group.whitening / (scale * limit)).astype(np.float32))
        for group, scale in zip(reference, scales, strict=True)
    ]


def measure_distances(features: Features, reference: Sequence[FeatureGroup]) -> NDArray[np.float64]:
    """Return the distance of each picture as the compiled network will, float64 [N]."""
    distances: NDArray[np.float64] = np.max(list(map(measure_distance, features, reference)), axis=0)
    return distances


def measure_distance(features: NDArray[np.float32], group: FeatureGroup) -> NDArray[np.float64]:
    """Return the distance of each picture by one group, float64 [N]."""
    whitened = (features - group.centre).astype(np.float64) @ group.whitening
    distances: NDArray[np.float64] = np.sqrt((whitened**2).sum(axis=1))
    return distances


def longest_shape(views: Views, spec: InputSpec) -> float:
    """Return how many times longer than the network's the longest picture is, one way or the other."""
    shapes = [width * spec.height_px / (height * spec.width_px) for width, height in views.sizes]
    return max(max(shape, 1 / shape) for shape in shapes)


def learn_looks(seen: list[Views]) -> dict[str, tuple[float, float]]:
    """Learn the bounds of each look: nearly all pictures lie between them after any change, with a margin. No picture
    is refused for its rich colours or contrast, or for not being white anywhere.
    """
    bounds = []
    for views in seen:
        looks = np.array([list(each.values()) for each in views.looks])
        bounds.append(np.quantile(looks, (LOOKS_SHARE, 1 - LOOKS_SHARE), axis=0))
    lows, highs = np.min(bounds, axis=0)[0], np.max(bounds, axis=0)[1]
    pairs = {name: (float(low), float(high)) for name, low, high in zip(LOOKS, lows, highs, strict=True)}
    return {
        name: (round_to(0.0 if name in FREE_BELOW else low * (1 - MARGIN)), round_to(widen(high, GREATEST[name])))
        for name, (low, high) in pairs.items()
    }


def widen(high: float, greatest: float | None) -> float:
    """Move an upper bound up by the margin, towards the greatest value there is; None: there is no such bound."""
    return LOOK.high if greatest is None else min(LOOK.high, high + MARGIN * max(greatest - high, 0.0))


def round_to(value: float) -> float:
    """Return three significant digits."""
    return float(f"{value:.3g}")


def count_refusals(
    pictures: str, views: Views, reference: Sequence[FeatureGroup], spec: InputSpec, fit: FitSpec
) -> Refusals:
    """Judge pictures as the service will."""
    wanted, distances = (spec.width_px, spec.height_px), measure_distances(views.features, reference)
    judged = zip(views.looks, views.sizes, distances, strict=True)
    fits = [judge(looks, size, wanted, float(distance), fit) for looks, size, distance in judged]
    return Refusals(pictures, len(fits), float(np.mean([not fit.fits for fit in fits])))
