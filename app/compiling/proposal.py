"""Proposes a manifest for a model's file: what the network says is filled in, what it does not say is left to fill in.

The file may be a stranger's, so a confined process runs `propose_here`.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.arrays import Scores
from app.compiling.compilation import draw_pictures
from app.compiling.folder_compiler import infer
from app.compiling.input_check import find_normalization
from app.compiling.manifest_check import check_count, check_end, check_numbers, check_sigmoids, ends_in_activation
from app.config.settings import Settings
from app.engines.base import build_reference
from app.engines.conversion import require_framework
from app.manifest.model_manifest import INTENDED_USE, MODEL_NAME_PATTERN, UNKNOWN_LICENCE, ModelManifest
from app.manifest.model_specs import Artifact, InputSpec, OutputSpec
from app.pipeline.postprocess import are_probabilities
from app.processes.confined_process import run_confined

if TYPE_CHECKING:
    from app.engines.network_facts import NetworkFacts

PICTURES = 16
ANY_SIDE_PX = 224
"""Side of the pictures that a network is tried with if it takes any size; the nets of torchvision need more than 32."""
BLANK = '""'
PROPOSAL_FILE = "proposal.toml"
FILL_MEAN = "fill in: of R, G and B, on the scale 0 to 255; the network gets (pixel - mean) / std"
FILL_STD = "fill in: of R, G and B, on the same scale"
ADVICE = """\
# The network does not say which pixels it takes. Fill in what its training did:
#   pixel / 255 (ToTensor, rescale=1/255)      mean = [0, 0, 0], std = [255, 255, 255]
#   pixel / 127.5 - 1                          mean = [127.5, 127.5, 127.5], std = [127.5, 127.5, 127.5]
#   torchvision's weights, Normalize(ImageNet) mean = [123.675, 116.28, 103.53], std = [58.395, 57.12, 57.375]
#   pixels as they are                         mean = [0, 0, 0], std = [1, 1, 1]
#   blue, green and red in this order (OpenCV) channel_order = "BGR" besides, and mean and std in this order
"""


@dataclass(frozen=True)
class Finding:
    """What was found out about a network.

    Attributes:
        layout: `channels first` or `channels last`.
        size: width and height in pixels; None for a side that the file leaves free.
        outputs: how many scores a picture gets.
        last_step: the operation that they come from.
        scores: whether they are `logits` or `probabilities`.
        normalization: the mean and std that fit what the network does itself; None: it does nothing.
        steps: kinds of what it does itself to single pixels.
        classes: names of the outputs, if the file has them.
        architecture: of a state dict.
    """

    layout: str
    size: tuple[int | None, int | None]
    outputs: int
    last_step: str
    scores: str
    normalization: tuple[Sequence[float], Sequence[float]] | None
    steps: tuple[str, ...]
    classes: tuple[str, ...] | None
    architecture: str | None


def propose_manifest(source: Path, framework: str, file: str, sha256: str, settings: Settings) -> str:
    """Return the text of a manifest for the artifact at `source`, whose name ends as its framework wants it.

    Raises `FrameworkMissingError`, or `CompiledModelError` with the reason why the network cannot be served.
    """
    require_framework(framework)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / PROPOSAL_FILE
        arguments: list[str | Path] = [source.absolute(), framework, file, sha256, target]
        run_confined(propose_here, arguments, settings, settings.compile_timeout_s)
        return target.read_text(encoding="utf-8")


def propose_here(source: str, framework: str, file: str, sha256: str, target: str) -> None:
    """Read a model's file in this process, and write a manifest for it. Raises `ModelFolderError`."""
    found = read_network(Path(source), framework)
    Path(target).write_text(write_proposal(found, framework, file, sha256), encoding="utf-8")


def read_network(source: Path, framework: str) -> Finding:
    """Load a network and find out what its manifest must say."""
    architecture, outputs = None, 2
    if framework == "torch":
        from app.engines.pytorch.torch_weights import find_architecture  # PyTorch is needed for these files alone

        architecture, outputs = find_architecture(source)
    manifest = make_manifest(source, framework, architecture, outputs)
    engine = build_reference(framework, source.parent, manifest)
    engine.open()
    try:
        size = engine.find_size()
        width_px, height_px = (side or ANY_SIDE_PX for side in size)
        manifest = replace(manifest, input=replace(manifest.input, width_px=width_px, height_px=height_px))
        engine.refit(manifest.input)
        facts = engine.read_facts()
        normalization, steps = find_normalization(facts)
        if normalization is not None:
            mean, std = normalization
            engine.refit(replace(manifest.input, mean=mean, std=std))
        scores = infer(engine, np.stack([*draw_pictures([(width_px, height_px)] * PICTURES)]), manifest)
        check_numbers(scores, facts)
        if scores.ndim != 2:
            check_count(scores, manifest.output)
        kind = find_scores(facts, scores)
        check_sigmoids(facts, scores)
        check_end(facts, replace(make_output(scores.shape[1]), scores=kind), scores)
        return Finding(
            layout=engine.describe_input(),
            size=size,
            outputs=scores.shape[1],
            last_step=facts.last_step,
            scores=kind,
            normalization=normalization,
            steps=steps,
            classes=facts.classes,
            architecture=architecture,
        )
    finally:
        engine.close()


def find_scores(facts: "NetworkFacts", scores: Scores) -> str:
    """Tell whether a network ends in an activation: by its last operations, else by its scores."""
    are_shares = scores.shape[1] > 1 and are_probabilities(scores.astype(np.float64))
    return "probabilities" if ends_in_activation(facts) or are_shares else "logits"


def make_output(outputs: int) -> OutputSpec:
    """Describe so many outputs before their names are known."""
    activation = "sigmoid" if outputs == 1 else "softmax"
    return OutputSpec(tuple(map(str, range(max(outputs, 2)))), activation, None, None, None)


def make_manifest(source: Path, framework: str, architecture: str | None, outputs: int) -> ModelManifest:
    """Make a manifest to load a network with, whatever its pictures are."""
    return ModelManifest(
        name=source.stem,
        version="1.0",
        title=source.stem,
        description="",
        framework=framework,
        engine="compiled",
        licence=UNKNOWN_LICENCE,
        intended_use=INTENDED_USE,
        artifact=Artifact(source.name, "", architecture),
        input=InputSpec(ANY_SIDE_PX, ANY_SIDE_PX, "bilinear", (0, 0, 0), (255, 255, 255), None),
        output=make_output(outputs),
        metrics={},
    )


def write_proposal(found: Finding, framework: str, file: str, sha256: str) -> str:
    """Write the manifest of a network; what is not known is empty, and a comment says what belongs there."""
    stem = file.rpartition(".")[0]
    name = stem if MODEL_NAME_PATTERN.fullmatch(stem) else None
    lines = [
        f"# The manifest of {file}, as far as the file says it. Fill in what is empty.",
        line("name", name, 'fill in: small words joined by dashes, such as "lesions-classification"'),
        'version = "1.0"',
        f'framework = "{framework}"',
        "",
        "[artifact]",
        f'file = "{file}"',
        f'sha256 = "{sha256}"',
        *([f'architecture = "{found.architecture}"'] if found.architecture else []),
        "",
        "[input]",
        f"# The network takes pictures of 3 channels, {found.layout}.",
        line("width_px", found.size[0], "fill in: the width in pixels of the pictures that it was trained with"),
        line("height_px", found.size[1], "fill in: the height in pixels"),
        'resize = "bilinear"  # or the filter of your training: nearest, bicubic, lanczos',
        *write_normalization(found),
        "# um_per_px = 0.5  # micrometres per pixel, if the pictures have such a scale",
        "",
        "[output]",
        *write_output(found),
    ]
    return "\n".join(lines) + "\n"


def write_normalization(found: Finding) -> list[str]:
    """Write the lines of mean and std."""
    if found.normalization is None:
        return [*ADVICE.splitlines(), line("mean", None, FILL_MEAN, "[]"), line("std", None, FILL_STD, "[]")]
    mean, std = found.normalization
    told = (
        f"# The network normalizes pixels itself ({', '.join(dict.fromkeys(found.steps))}), and takes them as follows."
    )
    return [told, f"mean = {list(mean)}", f"std = {list(std)}"]


def write_output(found: Finding) -> list[str]:
    """Write the lines of the classes, the activation and, for two classes, the threshold."""
    count = max(found.outputs, 2)
    order = "the class that the score is not of, then its own" if found.outputs == 1 else "in the order of the outputs"
    names = found.classes if found.classes is not None and len(found.classes) == count else None
    plural = "s" * (found.outputs > 1)
    lines = [
        f"# The network returns {found.outputs} score{plural} for each picture; its last step is {found.last_step}.",
        line("classes", list(names) if names else None, f"fill in: {order}", json.dumps([""] * count)),
        f'activation = "{"sigmoid" if found.outputs == 1 else "softmax"}"',
        f'scores = "{found.scores}"',
    ]
    if count == 2:
        lines += [
            line("positive_class", None, "fill in: the class that is looked for" + ", the last" * (found.outputs == 1)),
            line("threshold", None, "fill in: the probability from which it is answered, such as 0.5"),
            line("threshold_source", None, "fill in: how the threshold was chosen, in a few words"),
        ]
    return lines


def line(key: str, value: Any, comment: str, blank: str = BLANK) -> str:
    """Write one key: its value, or a blank and what belongs there."""
    return f"{key} = {blank}  # {comment}" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
