"""`flask models compile`: the slow road, from an artifact or an archive to a compiled model."""

from pathlib import Path

import click

from app.api.request.services import services
from app.cli.model_choice import models_commands, read_trusted_archive, run_for_each
from app.compiling.archive_compiler import compile_archive
from app.compiling.folder_compiler import compile_in_process
from app.engines.compile_report import CompileReport
from app.engines.int8_report import Int8Report
from app.errors import CompiledModelError
from app.evaluation.quantizer import quantize_in_process
from app.handlers.worker.default_classifier import find_obstacle
from app.repository.model_folder import ModelFolder


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
        run_for_each(name, lambda folder: quantize(folder, pictures))
    run_for_each(name, compile_one)


def compile_one(folder: ModelFolder) -> str:
    """Compile a folder, and say what came of it; raises `OperatorError`."""
    click.echo(f"compiling {folder.label} …")
    if folder.is_archive:
        return compile_one_archive(folder)
    return describe(compile_in_process(folder.path, services().settings))


def compile_one_archive(folder: ModelFolder) -> str:
    """Compile an archive; one that cannot be compiled is answered by its handler, which is no failure."""
    archive = read_trusted_archive(folder)
    obstacle = find_obstacle(archive)
    if not obstacle:
        try:
            return describe(compile_archive(archive, services().settings, only_if_invalid=False)[1])
        except CompiledModelError as error:
            obstacle = error.message
    return f"passed over, its handler answers: {obstacle}"


def describe(report: CompileReport) -> str:
    """How far a compiled model is from its framework."""
    return (
        f"largest probability difference {report.max_probability_difference:.1e} over {report.images} images "
        f"({report.framework})"
    )


def quantize(folder: ModelFolder, pictures: Path) -> str:
    """Quantize a folder, print the figures, and say how it is served; raises `OperatorError` if it must not be."""
    click.echo(f"quantizing {folder.label} …")
    report = quantize_in_process(folder.path, pictures, services().settings)
    click.echo(describe_int8(report))
    if report.refusal:
        click.echo(f"REFUSED {folder.label}: {report.refusal}", err=True)
        raise CompiledModelError("its INT8 model is written, and is not served")
    return "SCANCER_PRECISION=int8 serves it"


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
