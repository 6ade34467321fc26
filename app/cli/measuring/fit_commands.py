"""`flask models fit`: has a version refuse pictures that it was not made for."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import tomlkit

from app.api.request.services import services
from app.cli.classifying.picture_paths import find_paths
from app.cli.measuring.calibration_commands import RELOAD, hold_version
from app.cli.model_choice import FOLDER, models_commands
from app.compiling.folder_compiler import compile_in_process
from app.engines.compiled.feature_distance import pack_groups
from app.engines.compiled.feature_extractor import FeatureExtractor
from app.errors import EvaluationError, PicturesError
from app.evaluation.fit_fitting import FitPictures, Fitted, fit_kind
from app.evaluation.labelled_folder import LabelledPicture, draw, find_pictures, read_image
from app.manifest.manifest_editing import edit_manifest
from app.pipeline.decoding.limits import ImageLimits
from app.processes.atomic import replace_file

MAX_PICTURES = 4000
MIN_PICTURES = 200
HELD_SHARE = 0.25


@models_commands.command("fit")
@click.argument("version", metavar="NAME/VERSION")
@click.option("--data", type=FOLDER, required=True, help="Folder of labelled pictures: those of the training.")
@click.option("--val", type=FOLDER, help="Folder of others of the same kind; else a quarter of --data is held back.")
@click.option(
    "--other",
    type=FOLDER,
    multiple=True,
    help="Folder of pictures of another kind that may be sent by mistake, such as another model's; without labels.",
)
def fit_model(version: str, data: Path, val: Path | None, other: tuple[Path, ...]) -> None:
    """Have a version refuse pictures that it was not made for.

    The command learns from the pictures of --data what those look like that the version knows, to the eye and to the
    network, and sets the limit on those of --val so that at most 1 % of them lie beyond it. What tells the pictures of
    --other apart counts most. It writes all of it into the model folder.
    """
    if val is not None and val.resolve() == data.resolve():
        raise click.UsageError("--val must hold others than --data")
    settings = services().settings
    with hold_version(version) as planned:
        manifest = planned.folder.read_manifest()
        if manifest.engine == "native":
            raise EvaluationError("only a compiled model tells how far a picture is from those that it was trained on")
        report = compile_in_process(planned.folder.path, settings, only_if_invalid=True)
        training, held = choose_pictures(data, val, manifest.output.classes)
        others, held_others = choose_others(other)
        extractor = FeatureExtractor(planned.folder.path, report.ir_sha256)
        limited = f"limit on {len(held)} of {(val or data).resolve().name}"
        words = f"{len(training)} pictures of {data.resolve().name}; {limited}"
        if others:
            words += f"; told apart from {len(others)} of {', '.join(folder.resolve().name for folder in other)}"
        pictures = FitPictures(training, held, others, held_others)
        read = partial(read_image, spec=manifest.input, limits=ImageLimits(settings.max_pixels))
        fitted = fit_kind(extractor.extract, extractor.groups, pictures, read, manifest.input, words)
        write_fit(planned.folder.path, fitted, manifest.network_sha256)
    for refusals in fitted.refusals:
        click.echo(f"of {refusals.count} {refusals.pictures}: {refusals.share:.1%} refused")
    click.echo(f"{version} refuses other kinds of pictures; {RELOAD}")


def choose_pictures(
    data: Path, val: Path | None, classes: Sequence[str]
) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Choose the pictures to learn from, and those to set the limit on; raises `PicturesError` if they are too few."""
    training = draw(find_pictures(data, classes), MAX_PICTURES)
    if val is None:
        cut = round(len(training) * HELD_SHARE)
        training, held = training[cut:], training[:cut]
    else:
        held = draw(find_pictures(val, classes), MAX_PICTURES)
    if min(len(training), len(held)) < MIN_PICTURES:
        raise PicturesError(
            f"{len(training)} pictures to learn from and {len(held)} to set the limit on are too few: "
            f"{MIN_PICTURES} of each are needed"
        )
    return training, held


def choose_others(folders: Sequence[Path]) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Choose pictures of another kind to learn from, and others to test it on; raises `PicturesError` for too few."""
    if not folders:
        return [], []
    found = [LabelledPicture(Path(path), 0) for path in find_paths(map(str, folders)).pictures]
    drawn = draw(found, MAX_PICTURES)
    if len(drawn) < MIN_PICTURES:
        raise PicturesError(f"{len(drawn)} pictures of another kind are too few: {MIN_PICTURES} are needed")
    cut = round(len(drawn) * HELD_SHARE)
    return drawn[cut:], drawn[:cut]


def write_fit(folder: Path, fitted: Fitted, network_sha256: str) -> None:
    """Write what was learnt under a name of its own, then the manifest that names it; then remove an earlier file."""
    content = pack_groups(fitted.reference)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"fit-{sha256[:8]}.bin"
    with replace_file(folder / name) as file:
        file.write(content)
    edit_manifest(folder, lambda document: put_fit(document, fitted, name, sha256, network_sha256))
    for earlier in folder.glob("fit-*.bin"):
        if earlier.name != name:
            earlier.unlink()


def put_fit(document: tomlkit.TOMLDocument, fitted: Fitted, name: str, sha256: str, network_sha256: str) -> None:
    """Write `[fit]`."""
    document.pop("reference", None)  # the distances are others now
    spec = fitted.spec
    table: Any = document.setdefault("fit", tomlkit.table())
    table |= {"file": name, "sha256": sha256, "layers": [list(group) for group in spec.layers]}
    table |= {"network_sha256": network_sha256, "data": spec.data}
    table |= {"least_side_px": spec.least_side_px, "longest_shape": spec.longest_shape}
    table |= {look: list(bounds) for look, bounds in spec.looks.items()}
