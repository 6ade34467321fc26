"""`flask models report|compare`: what versions do on labelled pictures, for people to read."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import click

from app.api.request.services import services
from app.cli.evaluation_commands import describe, list_pictures, name_unreadable, show_progress
from app.cli.model_choice import FILE, FOLDER, models_commands
from app.evaluation.report.plots import require_matplotlib
from app.evaluation.report.report_files import DOCUMENT_FILE, PAGE_FILE, PICTURES_FILE, write_report
from app.evaluation.report.subgroups import read_groupings
from app.evaluation.report.version_report import Reported, report_version
from app.evaluation.report.worst_mistakes import embed_picture
from app.pipeline.decoding.limits import ImageLimits
from app.state.wanted import PlannedVersion

NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
REPORTS = "reports"
data_option = click.option("--data", type=FOLDER, required=True, help="Folder of labelled pictures, as for `evaluate`.")
output_option = click.option("--output", type=NEW_FOLDER, help="Folder to write to; else one in the instance folder.")
manifest_option = click.option("--manifest", type=FILE, help="Table (CSV) with a column `file` and others.")
by_option = click.option(
    "--by", "columns", multiple=True, metavar="COLUMN", help="Column of subgroups; may be repeated."
)


@models_commands.command("report")
@click.argument("version", metavar="NAME/VERSION")
@data_option
@output_option
@manifest_option
@by_option
@click.option("--no-pictures", is_flag=True, help="Leave the worst mistakes out as pictures; their numbers stay.")
def report_model(
    version: str, data: Path, output: Path | None, manifest: Path | None, columns: tuple[str, ...], no_pictures: bool
) -> None:
    """Write a report on a version: how good it is on labelled pictures, and where it is not.

    The folder gets report.html, which needs no network, report.json with the same figures, and pictures.csv with every
    picture by name. The page shows the worst mistakes as pictures, without their names.
    """
    require_matplotlib()
    require_both(manifest, columns)
    planned = find_planned(version)
    pictures = list_pictures(planned, data)
    groupings = read_groupings(manifest, columns, pictures)
    settings, name = services().settings, data.resolve().name
    reported = report_version(planned, pictures, groupings, settings, name, show_for(version, len(pictures)))
    name_unreadable(reported.measured)
    folder = output or settings.instance / REPORTS / version
    write_report(folder, reported, {} if no_pictures else embed_mistakes(reported))
    for metric, figure in reported.report.evaluation.metrics.items():
        click.echo(f"{metric} {describe(figure)}")
    for file in (PAGE_FILE, DOCUMENT_FILE, PICTURES_FILE):
        click.echo(folder / file)


def require_both(manifest: Path | None, columns: tuple[str, ...]) -> None:
    """Raise `UsageError` unless both or none of --manifest and --by are given."""
    if (manifest is None) == bool(columns):
        raise click.UsageError("--manifest and --by need each other")


def find_planned(label: str) -> PlannedVersion:
    """Find the version of NAME/VERSION."""
    name, _, version = label.partition("/")
    if not version:
        raise click.UsageError(f"give the version too: {name}/VERSION")
    return services().changes.plan().find_version(name, version)


def show_for(label: str, length: int) -> Callable[[str], AbstractContextManager[Callable[[int], None]]]:
    """Return what shows the progress of each part of the work on standard error."""
    return lambda part: show_progress(f"{label} {part}", length, sys.stderr)


def embed_mistakes(reported: Reported) -> dict[int, str]:
    """Return the worst mistakes as pictures, by number."""
    answers, limits = reported.measured.answers, ImageLimits(services().settings.max_pixels)
    return {
        mistake.number: embed_picture(answers[mistake.number - 1].picture.path, reported.manifest.input, limits)
        for mistake in reported.report.mistakes
    }
