"""Holds a manifest against its network: what contradicts is refused, with both sides and the line to change.

What a network does not say, such as the size that a state dict was trained with, is left to the manifest.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from app.arrays import Scores
from app.errors import ManifestError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import InputSpec, OutputSpec
from app.pipeline.postprocess import are_probabilities

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
LINEAR = frozenset(
    (
        *("Add", "Convolution", "Divide", "Elu", "Gelu", "GroupConvolution", "LogSoftmax", "MVN", "MatMul"),
        *("Multiply", "PRelu", "ReduceSum", "Relu", "SoftPlus", "Subtract", "Swish", "Tanh"),
    )
)
"""Last steps, as OpenVINO names them, whose results are no probabilities."""
SIGMOIDS = ("HSigmoid", "HardSigmoid", "Sigmoid")
SURE = 0.01
"""A probability so near to 0 or 1 says nothing of the others."""
FEW_PICTURES = 16
"""From so many pictures on, scores that all lie from 0 to 1 say something."""


def hold_manifest(manifest: ModelManifest, facts: "NetworkFacts | None", scores: Scores) -> None:
    """Raise `ManifestError` where a manifest contradicts its network.

    Args:
        manifest: what somebody says of the network.
        facts: what the network says itself; None: it could not be read.
        scores: of the comparison pictures, as the framework computes them.
    """
    if facts is not None:
        check_sigmoids(facts, scores)
    check_count(scores, manifest.output, facts)
    if facts is not None:
        check_end(facts, manifest.output)
        if facts.classes is not None:
            check_order(facts.classes, manifest.output)
        check_input(manifest.input, facts)
    check_scores(scores, manifest.output)
    if facts is not None:
        check_unknown_end(facts, scores, manifest.output)


def check_sigmoids(facts: "NetworkFacts", scores: Scores) -> None:
    """Raise `ManifestError` for a sigmoid of each of several outputs, which no manifest can describe."""
    if facts.last_step in SIGMOIDS and scores.ndim == 2 and scores.shape[1] > 1 and not adds_up(scores):
        raise ManifestError(
            f"the network ends in a sigmoid for each of {scores.shape[1]} outputs, and [output] activation = "
            '"softmax" wants scores that add up to 1; end the network in a softmax, or in a sigmoid of one output '
            '(activation = "sigmoid"), and say scores = "probabilities" in [output]'
        )


def check_count(scores: Scores, output: OutputSpec, facts: "NetworkFacts | None" = None) -> None:
    """Raise `ManifestError` unless there is a row for each picture, with as many scores as the manifest describes."""
    if scores.ndim != 2:
        shape = ", ".join(map(str, ("N", *scores.shape[1:])))
        raise ManifestError(
            f"the network returns [{shape}] for N pictures, and the manifest wants [N, {output.outputs}]: a row of "
            "scores for each picture; export the network so"
        )
    if scores.shape[1] != output.outputs:
        forgets = facts is not None and ends_in_activation(facts) and output.scores == "logits"
        more = ', and scores = "probabilities"' if forgets else ""
        raise ManifestError(output.explain_count(scores.shape[1]) + more)


def ends_in_activation(facts: "NetworkFacts") -> bool:
    """Whether the network's last operations keep its scores from 0 to 1."""
    return facts.low >= 0 and facts.high <= 1


def check_end(facts: "NetworkFacts", output: OutputSpec) -> None:
    """Raise `ManifestError` for a last activation that the manifest leaves out, or that is of no use."""
    if not ends_in_activation(facts):
        return
    if facts.last_step == "Softmax" and output.outputs == 1:
        raise ManifestError(
            'the network ends in a softmax over one output, which is always 1; [output] activation = "sigmoid" wants '
            "the score of a sigmoid: build the last layer with it, and train it so"
        )
    if output.scores == "logits":
        raise ManifestError(
            f'the network ends in {describe_end(facts)} of its own, and activation = "{output.activation}" would be '
            'applied to that again; say scores = "probabilities" in [output]'
        )


def adds_up(scores: Scores) -> bool:
    """Whether the scores of several sigmoids add up to 1, and not only where each is near 0 or 1."""
    exact = scores.astype(np.float64)
    return are_probabilities(exact) and bool(((exact > SURE) & (exact < 1 - SURE)).any())


def describe_end(facts: "NetworkFacts") -> str:
    """Say in which operation a network ends."""
    names = {"Sigmoid": "a sigmoid", "Softmax": "a softmax"}
    return names.get(facts.last_step, f"an activation from 0 to 1 ({facts.last_step})")


def check_scores(scores: Scores, output: OutputSpec) -> None:
    """Raise `ManifestError` for scores that are no probabilities where the manifest says so, or that are those of
    several classes where it says logits.
    """
    exact = scores.astype(np.float64)
    if scores.ndim != 2 or scores.shape[1] != output.outputs or not np.isfinite(exact).all():
        return  # `to_probabilities` refuses these
    if output.scores == "probabilities" and not are_probabilities(exact):
        raise ManifestError(
            f"output.scores says probabilities, but the network's lie from {exact.min():.3g} to {exact.max():.3g}"
            + ("" if output.outputs == 1 else " or do not add up to 1")
            + '; say scores = "logits" in [output] if the network has no activation of its own'
        )
    if output.scores == "logits" and output.outputs > 1 and are_probabilities(exact):
        raise ManifestError('the network ends in a softmax of its own; say scores = "probabilities" in [output]')


def check_unknown_end(facts: "NetworkFacts", scores: Scores, output: OutputSpec) -> None:
    """Raise `ManifestError` for scores that logits would hardly keep to, behind a last step that says nothing."""
    if output.scores != "logits" or facts.last_step in LINEAR or len(scores) < FEW_PICTURES:
        return
    if scores.min() >= 0 and scores.max() <= 1:
        raise ManifestError(
            f"all {scores.size} scores of the comparison pictures lie from {scores.min():.3g} to {scores.max():.3g}, "
            f"and the network ends in {facts.last_step}, which may be an activation; "
            'say scores = "probabilities" in [output], or export the network without it'
        )


def check_order(found: Sequence[str], output: OutputSpec) -> None:
    """Raise `ManifestError` if the file names the manifest's classes in another order."""
    plain = [name.casefold() for name in found], [name.casefold() for name in output.classes]
    if sorted(plain[0]) == sorted(plain[1]) and plain[0] != plain[1]:
        first = next(index for index in range(len(found)) if plain[0][index] != plain[1][index])
        names = ", ".join(f'"{name}"' for name in found)
        raise ManifestError(
            f"the file calls output {first} {found[first]}, and the manifest {output.classes[first]}; "
            f"say classes = [{names}] in [output]"
        )


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
