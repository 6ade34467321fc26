"""Holds the mean and std of a manifest against what a network does to pixels itself, and finds those that fit it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from app.errors import ManifestError
from app.manifest.model_specs import InputSpec

if TYPE_CHECKING:
    from app.engines.network_facts import Channels, NetworkFacts, Numbers

PIXELS: "tuple[Channels, Channels]" = (0, 0, 0), (1, 1, 1)
SHARES: "tuple[Channels, Channels]" = (0, 0, 0), (255, 255, 255)
"""Mean and std for networks that take pixels from 0 to 255, and from 0 to 1."""
KNOWN_RANGES = np.array(
    (
        (0, 0, 1, 1),
        (-1, -1, 1, 1),
        (-2.1179, -1.8044, 2.2489, 2.64),  # torchvision's mean and std of ImageNet
        (-123.68, -103.939, 131.32, 151.061),  # the means of Caffe's models, as `preprocess_input` has them
        (-1.7922, -1.4802, 1.9303, 2.1459),  # OpenAI's CLIP
    )
)
"""What published networks' first layers take: the least and the greatest number for a black and for a white picture."""
SLACK = 0.02
LEAST_SPAN, GREATEST_SPAN = 0.1, 300.0
"""A first layer that tells black from white by less gets pixels that were scaled twice; by more, such that were not."""
NORMALIZED_SPAN, WIDE_SPAN = (1.5, 7.0), 9.0
"""Deviations between black and white: usual ones, and more than pictures have whose mean was taken off once."""
DARKEST_STD = 20.0
"""A mean up to 1 beside a std from here on is one of pixels from 0 to 1."""
LEAST_SHARE = 0.02
"""A std so small is a factor, such as 1/255 or 1/127.5."""


def check_input(spec: InputSpec, facts: "NetworkFacts") -> None:
    """Raise `ManifestError` for a mean and std on another scale, or beside a normalization of the network's own."""
    black, white = facts.probe(spec.mean, spec.std)
    if is_idle(facts):
        check_scale(spec, black, white)
    elif not is_known(black, white):
        wanted, is_sure = find_wanted(facts)
        is_sound = not is_sure and spans_zero(black, white) and not is_taken_off_twice(spec, facts)
        if not is_sound and wanted != (spec.mean, spec.std):
            raise refuse_input(spec, facts, wanted)


def is_idle(facts: "NetworkFacts") -> bool:
    """Whether a network takes pixels as they come to it."""
    return not facts.steps or has_range(*facts.probe(*PIXELS), (0, 0, 255, 255))


def find_wanted(facts: "NetworkFacts") -> "tuple[tuple[Channels, Channels] | None, bool]":
    """Find the mean and std for a network that normalizes pixels itself, and whether they are sure to be meant.

    They are sure if its first layer then takes what published networks take.
    """
    for is_good, is_sure in ((is_known, True), (spans_zero, False)):
        for each in (PIXELS, SHARES):
            if is_good(*facts.probe(*each)):
                return each, is_sure
    return None, False


def find_normalization(facts: "NetworkFacts") -> "tuple[tuple[Channels, Channels] | None, tuple[str, ...]]":
    """Find the mean and std that fit what a network does to pixels itself, and that; None if it does nothing or
    the training alone can tell.
    """
    if is_idle(facts):
        return None, ()
    wanted, is_sure = find_wanted(facts)
    is_lone = (wanted == PIXELS and not spans_zero(*facts.probe(*SHARES))) or wanted == SHARES
    return (wanted if is_sure or is_lone else None), facts.steps


def check_scale(spec: InputSpec, black: "Numbers", white: "Numbers") -> None:
    """Raise `ManifestError` for a mean and std that are those of pixels from 0 to 1."""
    is_share = 0 < max(spec.mean) <= 1 and min(spec.std) >= DARKEST_STD
    if spans_zero(black, white) and not is_share:
        return
    raise ManifestError(
        f"mean = {list(spec.mean)} and std = {list(spec.std)} in [input] are not those of pixels from 0 to 255: the "
        f"network would get numbers from {black.min():.3g} to {white.max():.3g}; multiply what was meant for pixels "
        f"from 0 to 1 by 255: say {suggest_scale(spec)} in [input]"
    )


def suggest_scale(spec: InputSpec) -> str:
    """Write the lines of a mean and std of pixels from 0 to 255, where the given ones are of pixels from 0 to 1."""
    mean, std = (list(values) if max(values) > 1 else scale_up(values) for values in (spec.mean, spec.std))
    if max(spec.std) <= LEAST_SHARE:  # the factor by which pixels were multiplied, not a deviation
        std = [round(1 / value, 3) for value in spec.std]
    return f"mean = {mean} and std = {std}"


def scale_up(values: "Channels") -> list[float]:
    """Turn numbers of pixels from 0 to 1 into those of pixels from 0 to 255."""
    return [round(value * 255, 3) for value in values]


def refuse_input(spec: InputSpec, facts: "NetworkFacts", wanted: "tuple[Channels, Channels] | None") -> ManifestError:
    """Make the error for a network that normalizes pixels too."""
    black, white = map(describe_range, facts.probe(spec.mean, spec.std))
    change = "set both to what the network takes"
    if wanted is not None:
        change = f"say mean = {list(wanted[0])} and std = {list(wanted[1])} in [input]"
    return ManifestError(
        f"the network normalizes pixels itself ({', '.join(dict.fromkeys(facts.steps))}), and so does the manifest: "
        f"with mean = {list(spec.mean)} and std = {list(spec.std)} its first layer gets {black} for black and "
        f"{white} for white; {change}"
    )


def describe_range(numbers: "Numbers") -> str:
    """Write the least and the greatest of some numbers; only one where they are alike."""
    low, high = f"{numbers.min():.4g}", f"{numbers.max():.4g}"
    return low if low == high else f"{low} to {high}"


def is_known(black: "Numbers", white: "Numbers") -> bool:
    """Whether black and white pictures become what published networks take."""
    return any(has_range(black, white, each) for each in KNOWN_RANGES)


def has_range(black: "Numbers", white: "Numbers", wanted: Sequence[float]) -> bool:
    """Whether the least and greatest numbers of a black and of a white picture are those that are wanted."""
    found = np.array((black.min(), black.max(), white.min(), white.max()))
    return bool((np.abs(found - wanted) <= SLACK * (wanted[3] - wanted[0])).all())


def spans_zero(black: "Numbers", white: "Numbers") -> bool:
    """Whether a first layer tells black from white as layers do in any channel, by numbers not far from 0."""
    low, high = np.minimum(black, white), np.maximum(black, white)
    span, distance = high - low, np.maximum(np.maximum(low, -high), 0)
    return bool(((span >= LEAST_SPAN) & (span <= GREATEST_SPAN) & (distance <= 2 * span)).any())


def is_taken_off_twice(spec: InputSpec, facts: "NetworkFacts") -> bool:
    """Whether a mean is taken off by the manifest and by a network that would do with pixels from 0 to 255, or to 1."""
    black, white = facts.probe(spec.mean, spec.std)
    return (
        max(spec.mean) > 0
        and bool((np.abs(white - black) > WIDE_SPAN).all())
        and any(is_normalized(*facts.probe(*each)) for each in (PIXELS, SHARES))
    )


def is_normalized(black: "Numbers", white: "Numbers") -> bool:
    """Whether pictures come with a mean near 0 and a deviation near 1, in every channel."""
    span = np.abs(white - black)
    return bool(((black * white < 0) & (span >= NORMALIZED_SPAN[0]) & (span <= NORMALIZED_SPAN[1])).all())
