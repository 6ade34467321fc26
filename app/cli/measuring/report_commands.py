"""`flask models report|compare`: what versions do on labelled pictures, for people to read."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import click

from app.api.request.services import services
from app.cli.measuring.evaluation_commands import describe, list_pictures, name_unreadable
from app.cli.model_choice import FILE, FOLDER, find_version, models_commands
from app.cli.progress import show_progress
from app.evaluation.report.plots import require_matplotlib
from app.evaluation.report.report_files import (
    COMPARISON_DOCUMENT_FILE,
    COMPARISON_PAGE_FILE,
    DOCUMENT_FILE,
    PAGE_FILE,
    PICTURES_FILE,
    write_comparison,
    write_report,
)
from app.evaluation.report.subgroups import read_groupings
from app.evaluation.report.version_comparison import GroupComparison, VersionComparison, compare_versions
from app.evaluation.report.version_report import Reported, report_version
from app.evaluation.report.worst_mistakes import embed_picture
from app.pipeline.decoding.limits import ImageLimits

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
    planned = find_version(version)
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


@models_commands.command("compare")
@click.argument("first", metavar="NAME/A")
@click.argument("second", metavar="NAME/B")
@data_option
@click.option("--output", type=NEW_FOLDER, help="Folder to write comparison.html and comparison.json to.")
@manifest_option
@by_option
def compare_models(
    first: str, second: str, data: Path, output: Path | None, manifest: Path | None, columns: tuple[str, ...]
) -> None:
    """Compare two versions on the same labelled pictures, and say which differences may be chance.

    The command prints the difference of their AUCs with DeLong's test, and whose decisions are right with McNemar's, on
    all pictures and on each subgroup.
    """
    require_both(manifest, columns)
    planned = find_version(first), find_version(second)
    pictures = list_pictures(planned[0], data)
    list_pictures(planned[1], data)
    groupings = read_groupings(manifest, columns, pictures)
    shows = show_for(first, len(pictures)), show_for(second, len(pictures))
    comparison, measured = compare_versions(
        planned, pictures, groupings, services().settings, data.resolve().name, shows
    )
    name_unreadable(measured)
    print_group("", comparison.whole, comparison)
    for column in comparison.columns:
        for group in column.groups:
            print_group(f"{column.column} = ", group, comparison)
    if output is not None:
        write_comparison(output, comparison)
        click.echo(output / COMPARISON_PAGE_FILE)
        click.echo(output / COMPARISON_DOCUMENT_FILE)


def print_group(column: str, group: GroupComparison, comparison: VersionComparison) -> None:
    """Print what the pictures of one value say of two versions."""
    first, second = comparison.first, comparison.second
    click.echo(f"{column}{group.value}: {', '.join(f'{count} {name}' for name, count in group.pictures.items())}")
    if group.auc is None:
        click.echo("  no AUC: too few pictures of a class")
    else:
        click.echo(
            f"  AUC: {first} {group.auc.first:.4f}, {second} {group.auc.second:.4f}; first less second "
            f"{group.auc.drop:.4f} (95 %: {group.auc.drop_low:.4f} to {group.auc.drop_high:.4f}; "
            f"p = {group.auc.p_value:.2g})"
        )
    for name, each in group.decisions.items():
        if each is not None:
            click.echo(
                f"  {name}: both right {each.both}, only {first} {each.only_first}, only {second} "
                f"{each.only_second}, neither {each.neither} (p = {each.p_value:.2g})"
            )


def require_both(manifest: Path | None, columns: tuple[str, ...]) -> None:
    """Raise `UsageError` unless both or none of --manifest and --by are given."""
    if (manifest is None) == bool(columns):
        raise click.UsageError("--manifest and --by need each other")


def show_for(label: str, length: int) -> Callable[[str], AbstractContextManager[Callable[[int], None]]]:
    """Return what shows the progress of each part of the work on standard error."""
    return lambda part: show_progress(f"{label} {part}".strip(), length, sys.stderr)


def embed_mistakes(reported: Reported) -> dict[int, str]:
    """Return the worst mistakes as pictures, by number."""
    answers, limits = reported.measured.answers, ImageLimits(services().settings.max_pixels)
    return {
        mistake.number: embed_picture(answers[mistake.number - 1].picture.path, reported.manifest.input, limits)
        for mistake in reported.report.mistakes
    }
