"""Holds a manifest against its network: what contradicts is refused, with both sides and the line to change.

What a network does not say, such as the size that a state dict was trained with, is left to the manifest.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from app.arrays import Scores
from app.compiling.input_check import check_input
from app.errors import ManifestError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import OutputSpec
from app.pipeline.postprocess import are_probabilities

if TYPE_CHECKING:
    from app.engines.network_facts import NetworkFacts

LINEAR = frozenset(
    (
        *("Add", "Convolution", "Divide", "Elu", "Gelu", "GroupConvolution", "LogSoftmax", "MVN", "MatMul"),
        *("Multiply", "PRelu", "ReduceSum", "Relu", "SoftPlus", "Subtract", "Swish", "Tanh"),
    )
)
"""Last steps, as OpenVINO names them, whose results are no probabilities."""
SIGMOIDS = ("HSigmoid", "HardSigmoid", "Sigmoid")
SHARES = frozenset((*SIGMOIDS, "Softmax"))
MOST_SHOWN = 3
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
    check_numbers(scores, facts)
    if facts is not None:
        check_sigmoids(facts, scores)
    check_count(scores, manifest.output, facts)
    if facts is not None:
        check_end(facts, manifest.output, scores)
        if facts.classes is not None:
            check_order(facts.classes, manifest.output)
        check_input(manifest.input, facts)
    check_scores(scores, manifest.output)
    if facts is not None:
        check_unknown_end(facts, scores, manifest.output)


def check_numbers(scores: Scores, facts: "NetworkFacts | None" = None) -> None:
    """Raise `ManifestError` for what is no score whatever a manifest says: decisions, and what is no number."""
    may_decide = facts is not None and facts.last_step not in LINEAR | SHARES
    if scores.dtype.kind != "f" or (may_decide and bool((scores == np.round(scores)).all())):
        raise ManifestError(
            f"the network returns decisions ({', '.join(map(str, np.unique(scores)[:MOST_SHOWN]))}), and not scores: "
            "export it without the argmax, the rounding or the threshold at its end"
        )
    if not np.isfinite(scores).all():
        raise ManifestError(
            "the network returns numbers that are not finite (NaN or infinite) for pictures as [input] makes them: its "
            "weights may hold some, as after a training that diverged; or mean and std are others than in training"
        )


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


def check_end(facts: "NetworkFacts", output: OutputSpec, scores: Scores) -> None:
    """Raise `ManifestError` for a last activation that the manifest leaves out, or that is of no use."""
    if facts.low >= 0 and not ends_in_activation(facts):
        check_above_zero(facts, output)
    if not ends_in_activation(facts):
        return
    if facts.last_step == "Softmax" and output.outputs == 1 and bool((scores == 1).all()):
        raise ManifestError(
            'the network ends in a softmax over one output, which is always 1; [output] activation = "sigmoid" wants '
            "the score of a sigmoid: build the last layer with it, and train it so"
        )
    if output.scores == "logits":
        raise ManifestError(
            f'the network ends in {describe_end(facts)} of its own, and activation = "{output.activation}" would be '
            'applied to that again; say scores = "probabilities" in [output]'
        )


def check_above_zero(facts: "NetworkFacts", output: OutputSpec) -> None:
    """Raise `ManifestError` for scores from 0 to 100, and for such that a sigmoid makes nothing but positives of."""
    if facts.high < math.inf:
        raise ManifestError(
            f"the network's last steps keep its scores from {facts.low:.4g} to {facts.high:.4g}, and [output] wants "
            f"logits or probabilities from 0 to 1: divide them by {facts.high:.4g} at the network's end, and say "
            'scores = "probabilities" in [output]'
        )
    if output.activation == "sigmoid":
        raise ManifestError(
            f"the network ends in {facts.last_step}, so its score is never below 0, and the sigmoid of it never below "
            '0.5: every picture would be positive; [output] activation = "sigmoid" wants a score of no activation, or '
            'of a sigmoid with scores = "probabilities": build the last layer so, and train it'
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
    """Raise `ManifestError` if the file names classes of the manifest at other places."""
    plain = [name.casefold() for name in found], [name.casefold() for name in output.classes]
    shared = set(plain[0]) & set(plain[1]) if len(found) == len(output.classes) else set()
    moved = [index for index, name in enumerate(plain[0]) if name in shared and plain[1][index] != name]
    if moved:
        first = moved[0]
        names = ", ".join(f'"{name}"' for name in found)
        raise ManifestError(
            f"the file calls output {first} {found[first]}, and the manifest {output.classes[first]}; "
            f"say classes = [{names}] in [output]"
        )
