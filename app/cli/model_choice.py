"""`flask models list|check|card`: what stands in the model folders; and which of them a command is meant for."""

import sys
from collections.abc import Iterator

import click
from flask.cli import AppGroup

from app.api.request.services import services
from app.errors import ModelFolderError, OperatorError
from app.repository.model_check import check_folder
from app.repository.model_folder import CARD_FILE, ModelFolder, find_model_folders

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
        raise click.ClickException(f"no model {name or ''} in {services().settings.models}")
    yield from chosen


def choose_folder(name: str) -> ModelFolder:
    """The model folder NAME/VERSION, or the newest version of NAME."""
    return list(choose_folders(name))[-1]


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
    failed = False
    for folder in choose_folders(name):
        try:
            difference = check_folder(folder, services().settings)
            click.echo(f"ok {folder.name}/{folder.version}: examples within {difference:.1e} of their expected scores")
        except OperatorError as error:
            failed = True
            click.echo(f"FAILED {folder.name}/{folder.version}: {error.message}", err=True)
    sys.exit(int(failed))


@models_commands.command("card")
@click.argument("name")
def print_card(name: str) -> None:
    """Print the model card of NAME[/VERSION]."""
    for folder in choose_folders(name):
        try:
            click.echo((folder.path / CARD_FILE).read_text(encoding="utf-8"), nl=False)
        except FileNotFoundError:
            raise click.ClickException(f"{folder.name}/{folder.version} has no {CARD_FILE}") from None
