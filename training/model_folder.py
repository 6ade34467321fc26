"""Writes a complete model folder by the commands that anyone has: compile, calibrate, set-threshold, fit, examples."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from app.evaluation.report.report_files import DOCUMENT_FILE, PAGE_FILE
from app.manifest.manifest_editing import edit_manifest
from app.processes.plain_files import hash_files
from training.card import format_figures
from training.commands import Commands
from training.fine_tuning import MEAN, STD
from training.image_folder import find_manifest
from training.labelled_links import Part, link_part, read_labelled

EXAMPLES = (1, 1), (0, 0), (1, 0), (0, 1)
"""Truth and answer of the example pictures: right answers, and wrong ones."""
CLEAR = 0.06
"""Least distance of an example's score from the threshold."""


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
        sensitivity: the operating point, as `models set-threshold --sensitivity` takes it.
        card: Markdown with `{figures}` where the figures go.
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
    sensitivity: float
    licence: str
    card: str

    @property
    def label(self) -> str:
        """NAME/VERSION."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class Parts:
    """The labelled pictures of a recipe; the first of `tests` is the one whose figures the manifest repeats.

    `examples` are drawn from: their licence must allow it. `examples_source` names them. `report` is what the report is
    made on, with subgroups by `columns` of its data set's manifest. `other` are pictures of the other model's kind.
    """

    train: Part
    val: Part
    other: Part
    int8: Part
    tests: tuple[Part, ...]
    examples: Part
    examples_source: str
    report: Part
    columns: tuple[str, ...] = ()


def write_model_folder(
    data: Path, work: Path, models: Path, facts: ModelFacts, parts: Parts, write_artifact: Callable[[Path], None]
) -> Path:
    """Write `models/<name>/<version>` anew, whole.

    Args:
        data: holds the data sets.
        work: a folder for links to pictures, and for reports.
        models: the model repository.
        facts: what the manifest and the card say.
        parts: the labelled pictures.
        write_artifact: writes the weights to the path it is given.
    """
    folder = models / facts.name / facts.version
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_artifact(folder / facts.artifact)
    (folder / "model.toml").write_text(format_manifest(facts, hash_files(folder / facts.artifact)), "utf-8")
    links = work / "links" / facts.name
    val = link_part(data, links, parts.val)
    commands = Commands(models, work / "instance")
    commands.run("compile", facts.label)
    commands.run("calibrate", facts.label, "--data", val)
    commands.run("set-threshold", facts.label, "--sensitivity", facts.sensitivity, "--data", val)
    train, other = (link_part(data, links, part) for part in (parts.train, parts.other))
    commands.run("fit", facts.label, "--data", train, "--val", val, "--other", other)
    commands.run("reference", facts.label, "--data", val)
    commands.run("compile", facts.label)  # the threshold is held against the network, too
    commands.run("compile", facts.label, "--int8", link_part(data, links, parts.int8), may_fail=True)
    write_examples(data, commands, folder, facts, parts)
    measured = {part.name: commands.evaluate(facts.label, link_part(data, links, part)) for part in parts.tests}
    on_val = commands.evaluate(facts.label, val)
    put_metrics(folder, measured)
    put_report(data, commands, folder, work, parts.report, parts.columns)
    card = facts.card.replace("{figures}", format_figures(folder, measured, on_val)).strip() + "\n"
    (folder / "MODEL_CARD.md").write_text(card, "utf-8")
    return folder


def write_examples(data: Path, commands: Commands, folder: Path, facts: ModelFacts, parts: Parts) -> None:
    """Choose four pictures, two with a right answer and two with a wrong one, and make them the examples.

    Of each kind it is the first by name that fits and whose score is far from the threshold, so that little can change
    its answer.
    """
    pictures = read_labelled(data, parts.examples)
    answers = [commands.ask(facts.label, picture.path) for picture in pictures]
    chosen: dict[str, tuple[Path, str]] = {}
    for truth, said in EXAMPLES:
        wanted = facts.classes[truth], facts.classes[said]
        name = wanted[0] if truth == said else f"{wanted[0]}-called-{wanted[1]}"
        picture = next(
            picture
            for picture, answer in zip(pictures, answers, strict=True)
            if (picture.label, answer.get("class")) == (truth, wanted[1]) and is_clear(answer)
        )
        chosen[name] = picture.path, wanted[0]
    commands.run("examples", facts.label, *(path for path, _ in chosen.values()))
    rename_examples(folder / "examples", chosen, parts.examples_source)


def is_clear(answer: Mapping[str, Any]) -> bool:
    """Whether the model can tell, and the score is far from the threshold."""
    return not answer["cannot_tell"] and abs(answer["score"] - answer["threshold"]) >= CLEAR


def rename_examples(folder: Path, chosen: Mapping[str, tuple[Path, str]], source: str) -> None:
    """Give the examples names that say what they show, and note where each comes from."""
    document = json.loads((folder / "expected.json").read_text("utf-8"))
    expected, pictures = {}, {}
    for number, (name, (path, truth)) in enumerate(chosen.items(), 1):
        written = next(folder.glob(f"example-{number}.*"))
        new = f"{name}{written.suffix}"
        written.rename(folder / new)
        expected[new] = document["probabilities"][written.name]
        pictures[new] = {"truth": truth, "source": f"{source}: {path.name}", "licence": "CC0-1.0"}
    document |= {"probabilities": expected, "pictures": pictures}
    (folder / "expected.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def put_metrics(folder: Path, measured: Mapping[str, dict[str, Any]]) -> None:
    """Write the figures on the main test part into the manifest, in the place of those that chose the threshold."""
    data, report = next(iter(measured.items()))

    def put(document: tomlkit.TOMLDocument) -> None:
        metrics: Any = tomlkit.table(is_super_table=True)
        for name, figure in report["metrics"].items():
            values = {key: round(value, 4) for key, value in figure.items()}
            metrics[name] = values | {"n": int(figure["n"]), "data": data}
        document["metrics"] = metrics

    edit_manifest(folder, put)


def put_report(data: Path, commands: Commands, folder: Path, work: Path, part: Part, columns: Sequence[str]) -> None:
    """Put the report on a part into a version's folder, without pictures: their licence may not allow it."""
    label, written = f"{folder.parent.name}/{folder.name}", work / "reports" / folder.parent.name
    options: list[object] = ["--data", link_part(data, work / "links" / folder.parent.name, part), "--output", written]
    if columns:
        options += ["--manifest", find_manifest(data, part.sets[0])]
    for column in columns:
        options += ["--by", column]
    commands.run("report", label, *options, "--no-pictures")
    for name in (PAGE_FILE, DOCUMENT_FILE):
        shutil.copyfile(written / name, folder / name)


def quote(text: str) -> str:
    """Write a TOML string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False)


def format_manifest(facts: ModelFacts, sha256: str) -> str:
    """Write `model.toml` as it is before anything is fitted."""
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
        "threshold = 0.5",
        'threshold_source = "not chosen yet"',
    ]
    return "\n".join(lines) + "\n"
