"""`flask models evaluate|set-default`: measures versions on labelled pictures, and chooses the one that answers."""

import sys
from pathlib import Path

import click

from app.api.request.services import services
from app.cli.audit_command import record
from app.cli.model_choice import FOLDER, await_server, models_commands
from app.cli.progress import show_progress
from app.errors import AnsweredError, EvaluationError, OperatorError
from app.evaluation.best_version import Lead, choose_best, rank
from app.evaluation.estimates import Estimate
from app.evaluation.evaluation_report import (
    Evaluation,
    compare_evaluations,
    describe_data,
    find_reports,
    write_evaluation,
)
from app.evaluation.labelled_folder import LabelledPicture, find_pictures
from app.evaluation.version_evaluation import Measured, evaluate_version
from app.state.wanted import PlannedVersion


@models_commands.command("evaluate")
@click.argument("name")
@click.option(
    "--data",
    type=FOLDER,
    required=True,
    help="Folder of labelled pictures. Each class has a sub-folder, called 0, 1 … or by the name of the class.",
)
def evaluate_model(name: str, data: Path) -> None:
    """Measure a model on labelled pictures.

    NAME measures every registered version of the model, NAME/VERSION one of them. The command prints AUC, sensitivity
    and specificity with their 95 % intervals, and writes a report for each version into the instance folder.
    """
    model, _, version = name.partition("/")
    plan = services().changes.plan()
    chosen = [plan.find_version(model, version)] if version else list(plan.find_versions(model).values())
    evaluations = []
    for planned in chosen:
        try:
            evaluations.append(evaluate(planned, data))
        except (AnsweredError, OperatorError) as error:
            click.echo(f"FAILED {'/'.join(planned.wanted.key)}: {error.message}", err=True)
    if evaluations:
        print_evaluations(evaluations, plan.find_default(model))
        click.echo(f"reports: {find_reports(services().settings.instance, model)}")
    sys.exit(int(len(evaluations) < len(chosen)))


def evaluate(planned: PlannedVersion, data: Path) -> Evaluation:
    """Measure one version and write its report."""
    evaluation = measure_version(planned, data)
    write_evaluation(services().settings.instance, evaluation)
    return evaluation


def measure_version(planned: PlannedVersion, data: Path) -> Evaluation:
    """Measure one version. Standard error names each picture that cannot be read; raises as `list_pictures`."""
    pictures = list_pictures(planned, data)
    with show_progress("/".join(planned.wanted.key), len(pictures), sys.stderr) as advance:
        measured = evaluate_version(planned, pictures, services().settings, advance)
    name_unreadable(measured)
    return measured.evaluation


def list_pictures(planned: PlannedVersion, data: Path) -> list[LabelledPicture]:
    """List the labelled pictures of a folder.

    Raises `EvaluationError` for an archive, whose answers need not be classes, and `PicturesError` as `find_pictures`.
    """
    if planned.folder.is_archive:
        path = "/".join(planned.wanted.key)
        raise EvaluationError(
            "a model archive cannot be measured, for its answers need not be classes; send the pictures to "
            f"/predictions/{path}, and work the figures out from its answers"
        )
    return find_pictures(data, planned.folder.read_manifest().output.classes)


def name_unreadable(measured: Measured) -> None:
    """Name the pictures that could not be read on standard error, each with the reason."""
    for each in measured.lost:
        click.echo(f"not counted: {each.picture.name}: {each.reason}", err=True)


def print_evaluations(evaluations: list[Evaluation], default: str) -> None:
    """Print a table of the figures, and the lead of the best version over each other one."""
    header = ["version", *evaluations[0].metrics, "pictures"]
    rows = [[each.version, *map(describe, each.metrics.values()), describe_data(each)] for each in evaluations]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    best, *others = rank(evaluations, default)
    for other in others:
        try:
            click.echo(describe_lead(Lead(best, other, compare_evaluations(best, other))))
        except EvaluationError as error:
            click.echo(f"not compared: {error.message}", err=True)


def describe(figure: Estimate) -> str:
    """Return a figure with its 95 % interval, as text."""
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def describe_lead(lead: Lead) -> str:
    """Return one version's lead over another as text, and whether the lead is beyond chance."""
    difference = lead.difference
    is_sure = difference.drop_low > 0 or difference.drop_high < 0
    return (
        f"{lead.best.version} is ahead of {lead.other.version} by {difference.drop:.4f} of AUC (95 %: "
        f"{difference.drop_low:.4f} to {difference.drop_high:.4f}; p = {difference.p_value:.2g}), which "
        f"{'can' if is_sure else 'cannot'} be told from chance"
    )


def find_best(name: str) -> str:
    """Return the best version of a model by its reports, and print its lead.

    Raises EvaluationError if it has no workers, or if the reports are missing, out of date or not comparable.
    """
    plan = services().changes.plan()
    versions = plan.find_versions(name)
    best, leads = choose_best(versions, plan.find_default(name), services().settings)
    if not versions[best.version].wanted.is_loaded:
        raise EvaluationError(f"{name}/{best.version} is the best, but has no workers: scale it first")
    click.echo(f"{name}/{best.version}: AUC {describe(best.metrics['auc'])}; {describe_data(best)}")
    for lead in leads:
        click.echo(describe_lead(lead))
    return best.version


@models_commands.command("set-default")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--best", is_flag=True, help="Choose the version with the best AUC in the reports of `models evaluate`.")
def set_default_version(name: str, version: str | None, best: bool) -> None:
    """Choose the default version of a model.

    Give a VERSION, or --best. Requests that name no version get the default. When the command ends, a running server
    has followed.
    """
    if best == (version is not None):
        raise click.UsageError("give a VERSION, or --best")
    version = version or find_best(name)
    change = services().changes.set_default(name, version)
    record("default chosen", f"{name}/{version}")
    await_server(change)
    click.echo(f"the default of {name} is {version}")
