"""Writes a complete model folder: manifest, artifact, examples with expected scores, compiled model, model card."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from app.compiling.folder_compiler import compile_model
from app.engines.base import build_engine
from app.engines.compile_report import hash_files
from app.evaluation.estimates import Estimate
from app.manifest.model_manifest import read_manifest
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import apply_activation
from app.pipeline.preprocess import preprocess
from training.fine_tuning import MEAN, STD

EXPECTED_FILE = "expected.json"
EXPECTED_TOLERANCE = 1e-3
LIMITS = ImageLimits(max_pixels=25_000_000)


@dataclass(frozen=True)
class ModelFacts:
    """What the manifest and the card say of a model, besides the figures.

    Attributes:
        name, version: of the folder.
        framework: `torch` or `keras`.
        artifact: file name of the weights.
        architecture: name in the project's list, for PyTorch.
        size_px: side of the square input.
        um_per_px: micrometres a pixel, where that has a meaning.
        classes: in output order; the second is the positive one.
        card: Markdown with `{figures}` where the table of figures goes.
    """

    name: str
    version: str
    title: str
    description: str
    framework: str
    artifact: str
    architecture: str | None
    size_px: int
    um_per_px: float | None
    classes: tuple[str, str]
    licence: str
    card: str


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        threshold: the operating point.
        threshold_source: how it was chosen, and on what.
        data: what `metrics` were measured on, in words.
        metrics: `auc`, `sensitivity`, `specificity`, on the main test set; the manifest repeats them.
        others: the same on other sets, by their name; the card alone holds them.
    """

    threshold: float
    threshold_source: str
    data: str
    metrics: Mapping[str, Estimate]
    others: Mapping[str, Mapping[str, Estimate]]


def write_model_folder(
    models: Path,
    facts: ModelFacts,
    figures: Figures,
    write_artifact: Callable[[Path], None],
    examples: Mapping[str, Image.Image],
) -> Path:
    """Write `models/<name>/<version>` anew, whole.

    Args:
        models: the model repository.
        facts: what the manifest and the card say.
        figures: what was measured.
        write_artifact: writes the weights to the path it is given.
        examples: pictures of the project's own, by file name.
    """
    folder = models / facts.name / facts.version
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "examples").mkdir(parents=True)
    write_artifact(folder / facts.artifact)
    (folder / "model.toml").write_text(format_manifest(facts, figures, hash_files(folder / facts.artifact)), "utf-8")
    for name, image in examples.items():
        image.save(folder / "examples" / name, quality=92)
    write_expected(folder)
    report = compile_model(folder)
    print(f"compiled: largest probability difference {report.max_probability_difference:.1e}")
    card = facts.card.replace("{figures}", format_figures(facts, figures)).strip() + "\n"
    (folder / "MODEL_CARD.md").write_text(card, "utf-8")
    return folder


def quote(text: str) -> str:
    """Write a TOML string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False)


def format_manifest(facts: ModelFacts, figures: Figures, sha256: str) -> str:
    """Write `model.toml`."""
    lines = [
        f"name = {quote(facts.name)}",
        f"version = {quote(facts.version)}",
        f"title = {quote(facts.title)}",
        f"description = {quote(facts.description)}",
        f"framework = {quote(facts.framework)}",
        f"licence = {quote(facts.licence)}",
        'intended_use = "Research use only. Not for diagnosis."',
        "",
        "[artifact]",
        f"file = {quote(facts.artifact)}",
        f"sha256 = {quote(sha256)}",
    ]
    if facts.architecture:
        lines.append(f"architecture = {quote(facts.architecture)}")
    lines += [
        "",
        "[input]",
        f"width_px = {facts.size_px}",
        f"height_px = {facts.size_px}",
        'resize = "bilinear"',
        f"mean = [{MEAN}, {MEAN}, {MEAN}]",
        f"std = [{STD}, {STD}, {STD}]",
    ]
    if facts.um_per_px:
        lines.append(f"um_per_px = {facts.um_per_px}")
    lines += [
        "",
        "[output]",
        f"classes = [{', '.join(map(quote, facts.classes))}]",
        'activation = "softmax"',
        f"positive_class = {quote(facts.classes[1])}",
        f"threshold = {figures.threshold:.4f}",
        f"threshold_source = {quote(figures.threshold_source)}",
    ]
    for name, estimate in figures.metrics.items():
        lines += [
            "",
            f"[metrics.{name}]",
            f"value = {estimate.value:.4f}",
            f"low = {estimate.low:.4f}",
            f"high = {estimate.high:.4f}",
            f"n = {estimate.n}",
            f"data = {quote(figures.data)}",
        ]
    return "\n".join(lines) + "\n"


def format_figures(facts: ModelFacts, figures: Figures) -> str:
    """Write the card's table of figures."""
    rows = [
        f"Threshold: {figures.threshold:.4f} on the probability of `{facts.classes[1]}`; {figures.threshold_source}.",
        "",
        "| measured on | AUC | sensitivity | specificity |",
        "| --- | --- | --- | --- |",
    ]
    for data, metrics in {figures.data: figures.metrics, **figures.others}.items():
        cells = [f"{shorten(e.value)} ({shorten(e.low)} to {shorten(e.high)}; n = {e.n})" for e in metrics.values()]
        rows.append(f"| {data} | {' | '.join(cells)} |")
    rows += [
        "",
        "In brackets: 95 % intervals (AUC: bootstrap within each class; shares: Wilson) and the number of images.",
    ]
    return "\n".join(rows)


def shorten(figure: float) -> str:
    """Write three decimals of the four that the manifest has, so that the two never seem to differ."""
    return f"{round(figure, 4):.3f}"


def write_expected(folder: Path) -> None:
    """Write the framework's own probabilities of the examples, for the golden test and `flask models check`."""
    manifest = read_manifest(folder)
    engine = build_engine(manifest.framework, folder, manifest, 1)
    engine.load()
    expected = {}
    for path in sorted((folder / "examples").iterdir()):
        pixels = preprocess(decode(path.read_bytes(), LIMITS).pixels, manifest.input)
        row = apply_activation(engine.infer(pixels[None]), manifest.output)[0]
        expected[path.name] = {name: round(float(p), 6) for name, p in zip(manifest.output.classes, row, strict=True)}
    engine.close()
    document = {"framework": manifest.framework, "tolerance": EXPECTED_TOLERANCE, "probabilities": expected}
    (folder / "examples" / EXPECTED_FILE).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
