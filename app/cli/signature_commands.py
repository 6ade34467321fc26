"""`flask models sign|verify|trust`: signs models, verifies signatures, and keeps the list of trusted keys."""

from pathlib import Path

import click

from app.api.request.services import services
from app.cli.audit_command import record
from app.cli.model_choice import FILE, choose_folders, explain, models_commands
from app.config.settings import Settings
from app.errors import ModelFolderError, ModelNotFoundError
from app.exchange.archive_signing import sign_archive, verify_archive
from app.registry.model_arrivals import find_source
from app.repository.signing import read_trusted_keys, sign_folder, trust_key, verify_folder


def find_archive(name: str, settings: Settings) -> Path | None:
    """Find an archive by its path or by its name in `SCANCER_STORE`; None if `name` is a model or nothing is found."""
    if Path(name).is_file():
        return Path(name)
    if (settings.models / name).exists():
        return None
    try:
        return find_source(name, settings.store)
    except ModelNotFoundError:
        return None


@models_commands.command("sign")
@click.argument("name")
@click.option("--key", type=FILE, required=True, help="Private Ed25519 key, as `ssh-keygen -t ed25519` makes it.")
def sign_model(name: str, key: Path) -> None:
    """Sign a model or an archive.

    NAME is a model (its newest version is signed), NAME/VERSION, the path of an archive, or the name of an archive in
    SCANCER_STORE.
    """
    settings = services().settings
    if (source := find_archive(name, settings)) is not None:
        with explain(f"{name} is not signed"):
            click.echo(f"signed {name}: {sign_archive(source, key, settings)}")
        return
    folder = choose_folders(name)[-1]
    with explain(f"{folder.label} is not signed"):
        sign_folder(folder, key)
    click.echo(f"signed {folder.label}")


@models_commands.command("verify")
@click.argument("name")
def verify_model(name: str) -> None:
    """Verify the signature of a model or archive.

    NAME is a model (its newest version is verified), NAME/VERSION, the path of an archive, or the name of an archive in
    SCANCER_STORE. The command ends with 1 unless a trusted key has signed it.
    """
    settings = services().settings
    content = ""
    if (source := find_archive(name, settings)) is not None:
        with explain(name):
            label, key = verify_archive(source, settings)
        content = f"{label}, "
    else:
        folder = choose_folders(name)[-1]
        name = folder.label
        with explain(name):
            key = verify_folder(folder, settings.instance)
    if key is None:
        raise click.ClickException(f"{name} is not signed")
    click.echo(f"ok {name}: {content}signed by {key.name}")


@models_commands.command("trust")
@click.argument("public_key", type=FILE, required=False)
def trust_public_key(public_key: Path | None) -> None:
    """Trust a key, or list the trusted keys.

    With PUBLIC_KEY, a file that ends in .pub, this server trusts whatever that key signs. In both cases the command
    prints all trusted keys.
    """
    instance = services().settings.instance
    try:
        if public_key is not None:
            trusted = trust_key(instance, public_key.read_text(encoding="utf-8"))
            record("key trusted", f"key {trusted.name} {trusted.text}")
        for key in read_trusted_keys(instance):
            click.echo(f"{key.name}\t{key.text}")
    except (ModelFolderError, OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"the key is not trusted: {error}") from None
