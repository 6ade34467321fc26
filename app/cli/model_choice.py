"""`flask models list|check|card`, and the choice of the model folders that a command works on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from flask.cli import AppGroup

from app.api.request.changes import await_workers
from app.api.request.services import services
from app.compiling.archive_compiler import hash_archive, read_compiled
from app.compiling.folder_compiler import hold_in_process
from app.engines.compiled.compile_report import IR_FILE
from app.errors import (
    AnsweredError,
    EvaluationError,
    FrameworkMissingError,
    ModelFolderError,
    OperatorError,
    UnloadTimeoutError,
)
from app.handlers.handler_archive import HandlerArchive
from app.handlers.worker.default_classifier import find_obstacle
from app.registry.model_changes import Change
from app.repository.model_check import check_folder
from app.repository.model_folder import ARCHIVE_FOLDER, CARD_FILE, ModelFolder, find_model_folders
from app.repository.signing import require_trust
from app.state.wanted import PlannedVersion

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
"""Options that name something on disk which is there."""


UNSEEN_S = 10.0
"""Longest time that a server takes to see a new folder: it looks every second, and waits until nothing is copied."""


class Commands(AppGroup):
    """Commands that end with the message of an error, and without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        with explain():
            return super().invoke(ctx)


@contextmanager
def explain(subject: str = "") -> Iterator[None]:
    """End the command at an error with the error's message, after the `subject` if there is one."""
    try:
        yield
    except (AnsweredError, OperatorError) as error:
        raise click.ClickException(f"{subject}: {error.message}" if subject else error.message) from None


def await_server(change: Change) -> None:
    """Wait until the workers of a server that runs, if any, have followed; say so if one cannot serve the version."""
    label = "/".join(change.key)
    try:
        is_served = await_workers(change, UNSEEN_S)
    except UnloadTimeoutError:  # what was asked for is kept, and goes on
        click.echo(f"the running server still loads {label}; /models/{label} says how far it is", err=True)
        return
    if not is_served:
        click.echo(f"the running server cannot serve {label}; its log and /models/{label} say why", err=True)


models_commands = Commands("models", help="Add, check, compile, measure and sign models.")


def choose_folders(name: str | None) -> list[ModelFolder]:
    """Return the model folders of NAME or NAME/VERSION, or all of them without a name, by name and version."""
    wanted_name, _, wanted_version = (name or "").partition("/")
    root = services().settings.models
    chosen = [
        folder
        for folder in find_model_folders(root)
        if wanted_name in ("", folder.name) and wanted_version in ("", folder.version)
    ]
    if not chosen:
        raise click.ClickException(f"no model{f' {name}' if name else 's'} in {root}")
    return chosen


def find_version(label: str) -> PlannedVersion:
    """Find the version of NAME/VERSION."""
    name, _, version = label.partition("/")
    if not version:
        raise click.UsageError(f"give the version too: {name}/VERSION")
    return services().changes.plan().find_version(name, version)


def find_classifier(label: str) -> PlannedVersion:
    """Find the version of NAME/VERSION; raises EvaluationError for an archive."""
    planned = find_version(label)
    if planned.folder.is_archive:
        raise EvaluationError(f"{label} is a model archive, and has no model.toml")
    return planned


def run_for_each(name: str | None, task: Callable[[ModelFolder], str]) -> None:
    """Run `task` for each chosen folder and print its result. End the command, with 1 if a task failed."""
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
    """List the models.

    Each line has name, version, framework, licence and title. For an archive of TorchServe it has name, version and
    handler.
    """
    for folder in choose_folders(None):
        try:
            described = describe_folder(folder)
        except ModelFolderError as error:
            described = (f"unusable: {error.message}",)
        click.echo("\t".join((folder.name, folder.version, *described)))


def describe_folder(folder: ModelFolder) -> tuple[str, ...]:
    """Return what the list says about a folder."""
    if folder.is_archive:
        return "archive", f"handler {folder.read_archive().module}"
    manifest = folder.read_manifest()
    return manifest.framework, manifest.licence, manifest.title


@models_commands.command("check")
@click.argument("name", required=False)
def check_models(name: str | None) -> None:
    """Check whether models are sound.

    NAME means all versions of a model, NAME/VERSION one version; without NAME all models are checked: hashes, manifest,
    compiled model, and the scores of the example pictures. The manifest is held against the network, unless that was
    done when the model was compiled. The command ends with 1 if one fails.
    """
    run_for_each(name, check)


def check(folder: ModelFolder) -> str:
    """Check a folder and return the result as text. Raises ModelFolderError with the first fault."""
    if folder.is_archive:
        return check_archive(folder)
    settings = services().settings
    difference = check_folder(folder, settings)
    told = "no examples" if difference is None else f"examples within {difference:.1e} of their expected scores"
    try:
        hold_in_process(folder.path, settings)
    except FrameworkMissingError as error:
        told += f"; the manifest is not held against the network: {error.message}"
    return told


def check_archive(folder: ModelFolder) -> str:
    """Check the manifest of an archive, its signature, and its compiled model if there is one."""
    archive = read_trusted_archive(folder)
    if obstacle := find_obstacle(archive):
        return f"an archive that its handler answers: {obstacle}"
    if not (folder.path / ARCHIVE_FOLDER / IR_FILE).exists():
        return f"an archive that is not compiled: 'flask models compile {folder.name}' tries to"
    _, report = read_compiled(archive, hash_archive(archive))
    return f"an archive whose compiled model is within {report.max_probability_difference:.1e} of its handler"


def read_trusted_archive(folder: ModelFolder) -> HandlerArchive:
    """Read an archive. Raises ModelFolderError if it is malformed, or if its program may not be run here."""
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
