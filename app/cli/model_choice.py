"""`flask models list|check|card`: what stands in the model folders; and which of them a command is meant for."""

import sys
from collections.abc import Callable, Iterator

import click
from flask.cli import AppGroup

from app.api.request.services import services
from app.compiling.archive_compiler import read_compiled
from app.compiling.archive_manifest import hash_archive
from app.engines.compile_report import IR_FILE
from app.errors import ModelFolderError, OperatorError
from app.handlers.handler_archive import HandlerArchive
from app.handlers.worker.default_classifier import find_obstacle
from app.repository.model_check import check_folder
from app.repository.model_folder import ARCHIVE_FOLDER, CARD_FILE, ModelFolder, find_model_folders
from app.repository.trust import require_trust

models_commands = AppGroup("models", help="List, add, pack, check and compile the model folders.")


def choose_folders(name: str | None) -> Iterator[ModelFolder]:
    """Yield the model folders a command is meant for: all, those of NAME, or the one NAME/VERSION."""
    wanted_name, _, wanted_version = (name or "").partition("/")
    try:
        folders = find_model_folders(services().settings.models)
    except ModelFolderError as error:
        raise click.ClickException(error.message) from None
    chosen = [
        folder for folder in folders if wanted_name in ("", folder.name) and wanted_version in ("", folder.version)
    ]
    if not chosen:
        raise click.ClickException(f"no model{f' {name}' if name else 's'} in {services().settings.models}")
    yield from chosen


def choose_folder(name: str) -> ModelFolder:
    """The model folder NAME/VERSION, or the newest version of NAME."""
    return list(choose_folders(name))[-1]


def run_for_each(name: str | None, task: Callable[[ModelFolder], str]) -> None:
    """Do something with each chosen folder, print what came of it, and end the command: with 1 if anything failed."""
    failed = False
    for folder in choose_folders(name):
        try:
            click.echo(f"ok {folder.label}: {task(folder)}")
        except OperatorError as error:
            failed = True
            click.echo(f"FAILED {folder.label}: {error.message}", err=True)
    sys.exit(int(failed))


@models_commands.command("list")
def list_models() -> None:
    """List the model folders: name, version, framework, licence and title; of a model archive, its handler."""
    for folder in choose_folders(None):
        try:
            described = describe_folder(folder)
        except ModelFolderError as error:
            described = (f"unusable: {error.message}",)
        click.echo("\t".join((folder.name, folder.version, *described)))


def describe_folder(folder: ModelFolder) -> tuple[str, ...]:
    """What the list tells of a folder; raises `ManifestError`."""
    if folder.is_archive:
        return "archive", f"handler {folder.read_archive().module}"
    manifest = folder.read_manifest()
    return manifest.framework, manifest.licence, manifest.title


@models_commands.command("check")
@click.argument("name", required=False)
def check_models(name: str | None) -> None:
    """Verify hashes, manifest, compiled model and example scores of NAME[/VERSION], or of all models."""
    run_for_each(name, check)


def check(folder: ModelFolder) -> str:
    """Check a folder, and say what was found; raises `ModelFolderError` with the first fault."""
    if folder.is_archive:
        return check_archive(folder)
    return f"examples within {check_folder(folder, services().settings):.1e} of their expected scores"


def check_archive(folder: ModelFolder) -> str:
    """Check an archive's manifest, its signature, and its compiled model if it has one."""
    archive = read_trusted_archive(folder)
    if obstacle := find_obstacle(archive):
        return f"an archive that its handler answers: {obstacle}"
    if not (folder.path / ARCHIVE_FOLDER / IR_FILE).exists():
        return f"an archive that is not compiled: 'flask models compile {folder.name}' tries to"
    _, report = read_compiled(archive, hash_archive(archive))
    return f"an archive whose compiled model is within {report.max_probability_difference:.1e} of its handler"


def read_trusted_archive(folder: ModelFolder) -> HandlerArchive:
    """Read an archive; raises `ModelFolderError` if it is malformed, or if its program may not be run here."""
    archive = folder.read_archive()
    require_trust(folder.path, folder.name, folder.version, services().settings)
    return archive


@models_commands.command("card")
@click.argument("name")
def print_card(name: str) -> None:
    """Print the model card of NAME[/VERSION]."""
    for folder in choose_folders(name):
        try:
            click.echo((folder.path / CARD_FILE).read_text(encoding="utf-8"), nl=False)
        except FileNotFoundError:
            raise click.ClickException(f"{folder.label} has no {CARD_FILE}") from None
