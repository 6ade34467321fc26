"""`flask models compile`: makes compiled models from artifacts and archives."""

from pathlib import Path

import click

from app.api.request.services import services
from app.cli.model_choice import FOLDER, models_commands, read_trusted_archive, run_for_each
from app.compiling.archive_compiler import compile_archive
from app.compiling.folder_compiler import compile_in_process
from app.engines.compiled.compile_report import CompileReport
from app.engines.compiled.int8_report import Int8Report
from app.errors import CompiledModelError
from app.evaluation.quantizer import quantize_in_process
from app.handlers.worker.default_classifier import find_obstacle
from app.repository.model_folder import ModelFolder


@models_commands.command("compile")
@click.argument("name", required=False)
@click.option(
    "--int8",
    "pictures",
    type=FOLDER,
    help="Make an INT8 model of NAME instead, from this folder of labelled pictures. Each class has a sub-folder.",
)
def compile_models(name: str | None, pictures: Path | None) -> None:
    """Compile models to OpenVINO.

    NAME means all versions of a model, NAME/VERSION one version; without NAME all models are compiled. The command
    compares each compiled model with its framework, and ends with 1 if one fails.
    """
    if pictures is not None:
        if name is None:
            raise click.ClickException("--int8 needs the NAME of the model that the pictures are for")
        run_for_each(name, lambda folder: quantize(folder, pictures))
    run_for_each(name, compile_one)


def compile_one(folder: ModelFolder) -> str:
    """Compile a folder and return the result as text."""
    click.echo(f"compiling {folder.label} …")
    if folder.is_archive:
        return compile_one_archive(folder)
    return describe(compile_in_process(folder.path, services().settings))


def compile_one_archive(folder: ModelFolder) -> str:
    """Compile an archive. It is no failure if it cannot be compiled: its handler answers then."""
    archive = read_trusted_archive(folder)
    obstacle = find_obstacle(archive)
    if not obstacle:
        try:
            return describe(compile_archive(archive, services().settings, only_if_invalid=False)[1])
        except CompiledModelError as error:
            obstacle = error.message
    return f"passed over, its handler answers: {obstacle}"


def describe(report: CompileReport) -> str:
    """Return how far a compiled model is from its framework, as text."""
    return (
        f"largest probability difference {report.max_probability_difference:.1e} over {report.images} images "
        f"({report.framework})" + (f"\n{report.note}" if report.note else "")
    )


def quantize(folder: ModelFolder, pictures: Path) -> str:
    """Quantize a folder, print its figures, and return how it is served. Raises CompiledModelError if it is refused."""
    click.echo(f"quantizing {folder.label} …")
    report = quantize_in_process(folder.path, pictures, services().settings)
    click.echo(describe_int8(report))
    if report.refusal:
        click.echo(f"REFUSED {folder.label}: {report.refusal}", err=True)
        raise CompiledModelError("its INT8 model is written, and is not served")
    return "SCANCER_PRECISION=int8 serves it"


def describe_int8(report: Int8Report) -> str:
    """Return the figures of an INT8 model as lines of text."""
    measured = ", ".join(f"{count} {name}" for name, count in report.measured_pictures.items())
    return (
        f"{report.calibration_pictures} pictures calibrated; measured on {measured}\n"
        f"AUC {report.auc_f32:.4f} in float32, {report.auc_int8:.4f} in INT8; a drop of {report.auc_drop:.4f} "
        f"({report.auc_drop_low:.4f} to {report.auc_drop_high:.4f})\n"
        f"largest change of a probability {report.max_probability_change:.3f}; "
        f"{report.decisions_changed} pictures get another class\n"
        f"{report.ms_f32:.2f} ms a picture on one core in float32, {report.ms_int8:.2f} in INT8"
    )
