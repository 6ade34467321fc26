"""The commands: `flask --app wsgi users …`, `flask --app wsgi models …`, `flask --app wsgi settings`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
from flask import Flask
from flask.cli import AppGroup

from app.api.context import services
from app.api.users import ROLES, SHORT_PASSWORD_LENGTH, UsersFile
from app.config import describe_settings
from app.engines.int8_report import Int8Report
from app.errors import AnsweredError, ModelFolderError, OperatorError
from app.repository.compiler import compile_in_process
from app.repository.model_check import check_folder
from app.repository.model_importer import add_model
from app.repository.model_repository import CARD_FILE, ModelFolder, find_model_folders
from app.repository.packing import pack_model
from app.repository.quantizer import quantize_in_process
from app.repository.signing import read_trusted_keys, sign_folder, trust_key, verify_folder

users_commands = AppGroup("users", help="Add, remove and list the users of the API.")
models_commands = AppGroup("models", help="List, add, pack, check and compile the model folders.")


def register_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(users_commands)
    app.cli.add_command(models_commands)
    app.cli.add_command(print_settings)


@click.command("settings")
def print_settings() -> None:
    """Print every setting with its default and meaning, as a Markdown table."""
    click.echo(describe_settings(), nl=False)


@users_commands.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="predict", show_default=True, help="What the user may do.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
def add_user(name: str, role: str, password_stdin: bool) -> None:
    """Add the user NAME, or give NAME a new password and role."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        is_new = UsersFile(services().settings.instance).add(name, role, password)
    except OperatorError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"{'added' if is_new else 'changed'} {name} ({role})")
    if len(password) < SHORT_PASSWORD_LENGTH:
        click.echo(f"warning: the password has fewer than {SHORT_PASSWORD_LENGTH} characters", err=True)


@users_commands.command("remove")
@click.argument("name")
def remove_user(name: str) -> None:
    """Remove the user NAME."""
    try:
        UsersFile(services().settings.instance).remove(name)
    except OperatorError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"removed {name}")


@users_commands.command("list")
def list_users() -> None:
    """List the users and their roles."""
    try:
        users = UsersFile(services().settings.instance).read()
    except OperatorError as error:
        raise click.ClickException(error.message) from None
    for user in users.values():
        click.echo(f"{user.name}\t{user.role}")


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


@models_commands.command("list")
def list_models() -> None:
    """List the model folders: name, version, framework, licence and title."""
    for folder in choose_folders(None):
        try:
            manifest = folder.read_manifest()
        except ModelFolderError as error:
            click.echo(f"{folder.name}\t{folder.version}\tunusable: {error.message}")
            continue
        click.echo("\t".join((folder.name, folder.version, manifest.framework, manifest.licence, manifest.title)))


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


@models_commands.command("set-default")
@click.argument("name")
@click.argument("version")
def set_default_version(name: str, version: str) -> None:
    """Make VERSION the default of the model NAME; a server that runs follows within a second."""
    try:
        services().changes.set_default(name, version)
    except (AnsweredError, OperatorError) as error:
        raise click.ClickException(error.message) from None
    click.echo(f"the default of {name} is {version}")


@models_commands.command("remove")
@click.argument("name")
def remove_model(name: str) -> None:
    """Unregister NAME/VERSION; a folder that the server made is removed, one that was put there stays."""
    model, _, version = name.partition("/")
    try:
        services().changes.unregister(model, version or None)
        services().changes.sweep()
    except (AnsweredError, OperatorError) as error:
        raise click.ClickException(error.message) from None
    click.echo(f"removed {name}")


@models_commands.command("card")
@click.argument("name")
def print_card(name: str) -> None:
    """Print the model card of NAME[/VERSION]."""
    for folder in choose_folders(name):
        try:
            click.echo((folder.path / CARD_FILE).read_text(encoding="utf-8"), nl=False)
        except FileNotFoundError:
            raise click.ClickException(f"{folder.name}/{folder.version} has no {CARD_FILE}") from None


def choose_folder(name: str) -> ModelFolder:
    """The model folder NAME/VERSION, or the newest version of NAME."""
    return list(choose_folders(name))[-1]


@models_commands.command("pack")
@click.argument("name")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The archive; NAME-VERSION.zip if absent."
)
def pack_folder(name: str, output: Path | None) -> None:
    """Write NAME[/VERSION], or the newest version of NAME, as one archive that `models add` takes."""
    folder = choose_folder(name)
    target = output or Path(f"{folder.name}-{folder.version}.zip")
    try:
        pack_model(folder, target)
    except ModelFolderError as error:
        raise click.ClickException(f"{folder.name}/{folder.version}: {error.message}") from None
    except OSError as error:
        raise click.ClickException(f"{target} cannot be written: {error.strerror}") from None
    click.echo(f"packed {folder.name}/{folder.version} as {target}: {target.stat().st_size} bytes")


@models_commands.command("add")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Of a bare weights file."
)
def add_folder(source: Path, manifest: Path | None) -> None:
    """Add a model: an archive of `models pack`, a model folder, or a .keras or .safetensors file with --manifest."""
    try:
        folder = add_model(source, services().settings, manifest)
    except ModelFolderError as error:
        raise click.ClickException(f"{source.name} is not added: {error.message}") from None
    click.echo(f"ok {folder.name}/{folder.version}: added and tried out")


@models_commands.command("sign")
@click.argument("name")
@click.option(
    "--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="As ssh-keygen makes it."
)
def sign_model(name: str, key: Path) -> None:
    """Sign NAME/VERSION, or the newest version of NAME, with an Ed25519 key."""
    folder = choose_folder(name)
    try:
        sign_folder(folder, key)
    except ModelFolderError as error:
        raise click.ClickException(f"{folder.name}/{folder.version} is not signed: {error.message}") from None
    click.echo(f"signed {folder.name}/{folder.version}")


@models_commands.command("verify")
@click.argument("name")
def verify_model(name: str) -> None:
    """Verify the signature of NAME/VERSION, or of the newest version of NAME."""
    folder = choose_folder(name)
    try:
        key = verify_folder(folder, services().settings.instance)
    except ModelFolderError as error:
        raise click.ClickException(f"{folder.name}/{folder.version}: {error.message}") from None
    if key is None:
        raise click.ClickException(f"{folder.name}/{folder.version} is not signed")
    click.echo(f"ok {folder.name}/{folder.version}: signed by {key.name}")


@models_commands.command("trust")
@click.argument("public_key", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
def trust_public_key(public_key: Path | None) -> None:
    """Trust what the owner of PUBLIC_KEY, a file that ends in .pub, signs; without one, list the trusted keys."""
    instance = services().settings.instance
    try:
        if public_key is not None:
            trust_key(instance, public_key.read_text(encoding="utf-8"))
        for key in read_trusted_keys(instance):
            click.echo(f"{key.name}\t{key.text}")
    except (ModelFolderError, OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"the key is not trusted: {error}") from None
