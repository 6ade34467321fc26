"""`flask models compile`: the slow road, from an artifact to a compiled model."""

import sys
from pathlib import Path
from typing import NoReturn

import click

from app.api.request.services import services
from app.cli.model_choice import choose_folders, models_commands
from app.compiling.folder_compiler import compile_in_process
from app.engines.int8_report import Int8Report
from app.errors import OperatorError
from app.evaluation.quantizer import quantize_in_process


@models_commands.command("compile")
@click.argument("name", required=False)
@click.option(
    "--int8",
    "pictures",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Make an INT8 version beside it, calibrated and compared on this folder of pictures, one sub-folder a class.",
)
def compile_models(name: str | None, pictures: Path | None) -> None:
    """Compile NAME[/VERSION], or all models, to OpenVINO, and compare the result with the framework."""
    if pictures is not None:
        if name is None:
            raise click.ClickException("--int8 needs the NAME of the model that the pictures are for")
        quantize_models(name, pictures)
    failed = False
    for folder in choose_folders(name):
        click.echo(f"compiling {folder.name}/{folder.version} …")
        try:
            report = compile_in_process(folder.path, services().settings)
            click.echo(
                f"ok {folder.name}/{folder.version}: largest probability difference "
                f"{report.max_probability_difference:.1e} over {report.images} images ({report.framework})"
            )
        except OperatorError as error:
            failed = True
            click.echo(f"FAILED {folder.name}/{folder.version}: {error.message}", err=True)
    sys.exit(int(failed))


def quantize_models(name: str, pictures: Path) -> NoReturn:
    """Quantize NAME[/VERSION], and end the command: with 1 unless each INT8 model is accepted."""
    failed = False
    for folder in choose_folders(name):
        click.echo(f"quantizing {folder.name}/{folder.version} …")
        try:
            report = quantize_in_process(folder.path, pictures, services().settings)
        except OperatorError as error:
            failed = True
            click.echo(f"FAILED {folder.name}/{folder.version}: {error.message}", err=True)
            continue
        click.echo(describe_int8(report))
        if report.refusal:
            failed = True
            click.echo(f"REFUSED {folder.name}/{folder.version}: {report.refusal}", err=True)
        else:
            click.echo(f"ok {folder.name}/{folder.version}: SCANCER_PRECISION=int8 serves it")
    sys.exit(int(failed))


def describe_int8(report: Int8Report) -> str:
    """The figures of an INT8 model, in lines."""
    measured = ", ".join(f"{count} {name}" for name, count in report.measured_pictures.items())
    return (
        f"{report.calibration_pictures} pictures calibrated; measured on {measured}\n"
        f"AUC {report.auc_f32:.4f} in float32, {report.auc_int8:.4f} in INT8; a drop of {report.auc_drop:.4f} "
        f"({report.auc_drop_low:.4f} to {report.auc_drop_high:.4f})\n"
        f"largest change of a probability {report.max_probability_change:.3f}; "
        f"{report.decisions_changed} pictures get another class\n"
        f"{report.ms_f32:.2f} ms a picture on one core in float32, {report.ms_int8:.2f} in INT8"
    )
