"""`flask models sign|verify|trust`: who vouches for a model."""

from pathlib import Path

import click

from app.api.context import services
from app.cli.folders import choose_folder, models_commands
from app.errors import ModelFolderError
from app.repository.signing import read_trusted_keys, sign_folder, trust_key, verify_folder


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
