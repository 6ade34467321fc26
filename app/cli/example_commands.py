"""`flask models examples`: proves that the server gives a model's own scores, and keeps the pictures as examples."""

from pathlib import Path

import click

from app.api.request.services import services
from app.cli.model_choice import FILE, choose_folders, explain, models_commands
from app.compiling.example_writing import Comparison, write_examples
from app.repository.model_folder import EXAMPLES_FOLDER

HEADER = ("picture", "class", "framework", "served", "difference")


@models_commands.command("examples")
@click.argument("name")
@click.argument("pictures", metavar="PICTURE...", type=FILE, nargs=-1, required=True)
def make_examples(name: str, pictures: tuple[Path, ...]) -> None:
    """Make pictures the examples of a model, and show its scores.

    NAME means the newest version of a model, NAME/VERSION that version. The command scores each PICTURE with the
    model's own framework and as the server does, and prints both. It writes the pictures and the framework's scores
    into the folder `examples` of the model, where `models check` finds them. Earlier examples are replaced.

    Every user of the server sees the examples. They must not show a patient, nor name one in their metadata.
    """
    folder = choose_folders(name)[-1]
    with explain(folder.label):
        compared = write_examples(folder, pictures, services().settings)
    print_table(compared)
    click.echo(f"ok {folder.label}: {len(compared)} pictures in {EXAMPLES_FOLDER}")


def print_table(compared: list[Comparison]) -> None:
    """Print a row for each picture, by its number in the command."""
    rows = [
        (str(number), each.class_name, f"{each.framework:.6f}", f"{each.served:.6f}", f"{each.difference:.1e}")
        for number, each in enumerate(compared, 1)
    ]
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    for row in (HEADER, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
