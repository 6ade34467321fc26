"""`flask models reference|drift|outcomes|shadow`: what is seen of a model once it answers."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import tomlkit

from app.api.request.services import services
from app.cli.audit_command import record
from app.cli.measuring.calibration_commands import RELOAD, hold_version
from app.cli.model_choice import FOLDER, await_server, find_classifier, models_commands
from app.cli.progress import show_progress
from app.errors import EvaluationError, PicturesError
from app.evaluation.labelled_folder import LabelledPicture, draw
from app.evaluation.version_evaluation import Answer, Unreadable, ask
from app.manifest.manifest_editing import edit_manifest
from app.manifest.reference_spec import ReferenceSpec
from app.pipeline.served_model import ServedModel
from app.registry.model_loader import ModelLoader
from app.watch.drift import collect_from_server, describe_drift, describe_time, make_reference
from app.watch.outcome_figures import count_outcomes
from app.watch.shadow_figures import describe_shadow
from app.watch.shadowing import COMPARISONS

MAX_PICTURES, MIN_PICTURES = 4000, 100


@models_commands.command("reference")
@click.argument("version", metavar="NAME/VERSION")
@click.option("--data", type=FOLDER, required=True, help="Folder of pictures, with or without sub-folders.")
def make_model_reference(version: str, data: Path) -> None:
    """Keep how a version answers pictures that it is meant for, to compare later ones with.

    The command shows the pictures to the version and writes how scores and distances are spread into its model.toml.
    Use pictures such as come in practice, at least 100; they need no labels. Of more than 4,000 it draws 4,000.
    """
    with hold_version(version) as planned:
        paths = draw(list_files(data), MAX_PICTURES)
        served = ModelLoader(services().settings).load_whole(planned).served
        assert served is not None, "what is loaded is served"
        try:
            answers = ask_all(served, paths)
            if len(answers) < MIN_PICTURES:
                raise PicturesError(f"{len(answers)} readable pictures are too few: {MIN_PICTURES} are needed")
            words = f"{len(answers)} pictures of {data.resolve().name}"
            reference = make_reference(answers, served.manifest, words)
        finally:
            served.close()
        edit_manifest(planned.folder.path, lambda document: put_reference(document, reference))
        click.echo(f"{version} compares what comes in with {words}; {RELOAD}")


def list_files(data: Path) -> list[Path]:
    """List the files of a folder and of all folders in it, sorted; hidden ones are passed over."""
    return sorted(
        path
        for path in data.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(data).parts)
    )


def ask_all(served: ServedModel, paths: Sequence[Path]) -> list[Answer]:
    """Have every picture answered; standard error names each that cannot be read."""
    pictures = [LabelledPicture(path, label=0) for path in paths]  # the label counts for nothing here
    with show_progress("reference", len(pictures), sys.stderr) as advance:
        shown = ask(served, pictures, services().settings.max_body_bytes, advance)
    for each in shown:
        if isinstance(each, Unreadable):
            click.echo(f"{each.picture.path.name}: {each.reason}", err=True)
    return [each for each in shown if isinstance(each, Answer)]


def put_reference(document: tomlkit.TOMLDocument, reference: ReferenceSpec) -> None:
    """Write `[reference]`."""
    table: Any = document.setdefault("reference", tomlkit.table())
    table |= {"data": reference.data, "network": reference.network}
    table |= {"scores": list(reference.scores), "distances": list(reference.distances)}


@models_commands.command("drift")
@click.argument("name", metavar="NAME[/VERSION]")
def print_drift(name: str) -> None:
    """Say whether other pictures come in than a model is meant for.

    The running server has counted the scores and distances since it started. The command compares them with the
    reference in the model folder. It ends with 1 if one of the two has changed.
    """
    model, _, version = name.partition("/")
    planned = services().changes.plan().find_version(model, version or None)
    if planned.folder.is_archive:
        raise EvaluationError("a model archive has no model.toml, and so no reference")
    families, since = collect_from_server(services().settings.instance)
    told = describe_drift(planned.folder.read_manifest(), families, since)
    if told["reference"] is None:
        label = "/".join(planned.wanted.key)
        raise EvaluationError(
            f"{label} has no reference of its network: 'flask models reference {label} --data FOLDER' makes one"
        )
    click.echo(f"{'/'.join(planned.wanted.key)}, since {told['since']}, beside {told['reference']}:")
    for kind in ("score", "distance"):
        click.echo(f"{kind}: {describe(told[kind])}")
    sys.exit(int(any(told[kind]["changed"] for kind in ("score", "distance"))))


def describe(figures: dict[str, Any]) -> str:
    """Return a shift as text."""
    if figures["psi"] is None:
        return f"{figures['n']} pictures, nothing to compare"
    verdict = "CHANGED" if figures["changed"] else "no change that can be told from chance"
    if not figures["changed"] and figures["psi"] > figures["psi_by_chance"]:
        verdict = "a small change"
    return (
        f"{figures['n']} pictures, PSI {figures['psi']:.3f} (by chance below {figures['psi_by_chance']:.3f}): {verdict}"
    )


@models_commands.command("outcomes")
@click.argument("version", metavar="NAME/VERSION")
def print_outcomes(version: str) -> None:
    """Say how often a version was right, by the truths that were sent to /outcomes."""
    planned = find_classifier(version)
    manifest = planned.folder.read_manifest()
    outcomes = services().store.open().read_outcomes(*planned.wanted.key, manifest.network_digest.hex())
    told = count_outcomes(outcomes, manifest.output)
    click.echo(f"{version}: {told['n']} answers whose truth is known")
    for truth, answers in told["answers"].items():
        counts = ", ".join(f"{count} called {name}" for name, count in answers.items())
        click.echo(f"{truth}: {counts}")
    for name in ("sensitivity", "specificity", "accuracy"):
        if name in told:
            figure = told[name]
            click.echo(f"{name} {figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f}), n = {figure['n']}")


@models_commands.command("shadow")
@click.argument("version", metavar="NAME/VERSION")
@click.option("--share", type=click.FloatRange(0, 1), help="Share of the pictures; 0 ends it.")
def shadow_model(version: str, share: float | None) -> None:
    """Have a candidate answer a share of the pictures beside the default version.

    Callers wait for the default version alone, and see its answers alone. Under load, the candidate's pictures are the
    first to be dropped. Without --share, the command prints how the candidate's answers compare.
    """
    planned = find_classifier(version)
    if share is not None and math.isnan(share):
        raise click.BadParameter("it must be a number from 0 to 1", param_hint="--share")
    if share is not None:
        change = services().changes.set_shadow(*planned.wanted.key, share)
        record("shadow chosen" if share else "shadow ended", version)
        await_server(change)
        told = (
            f"answers {share:.0%} of the pictures beside the default version" if share else "is a candidate no longer"
        )
        click.echo(f"{version} {told}")
        return
    families, since = collect_from_server(services().settings.instance)
    compared = describe_shadow(*planned.wanted.key, families)
    if not any(compared[each] for each in COMPARISONS):
        click.echo(f"{version} was shown no picture yet")
        return
    click.echo(f"{version} beside {compared['default']}, since {describe_time(since)}:")
    for name in COMPARISONS:
        click.echo(f"{name}: {compared[name]}")
    if compared["mean_change"] is not None:
        click.echo(f"mean change of the score: {compared['mean_change']:.3f}")
