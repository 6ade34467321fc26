"""`flask models pack|add`: models from one server to another."""

from pathlib import Path

import click

from app.api.context import services
from app.cli.folders import choose_folder, models_commands
from app.errors import DiskFullError, ModelFolderError, RequestError
from app.repository.model_importer import add_model
from app.repository.packing import pack_model
from app.repository.remote_source import is_remote, open_remote


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
@click.argument("source")
@click.option(
    "--manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Of a bare weights file."
)
def add_folder(source: str, manifest: Path | None) -> None:
    """Add a model: an archive of `models pack`, a model folder, or a .keras or .safetensors file with --manifest.

    SOURCE is a path, or a URL that SCANCER_ALLOWED_URLS allows.
    """
    settings = services().settings
    try:
        if is_remote(source):
            with open_remote(source, settings) as file:
                click.echo(f"fetched {file.size} bytes, sha256 {file.sha256}")
                folder = add_model(file.path, settings, manifest)
        elif Path(source).exists():
            folder = add_model(Path(source), settings, manifest)
        else:
            raise click.BadParameter(f"Path '{source}' does not exist.", param_hint="'SOURCE'")
    except (ModelFolderError, RequestError, DiskFullError) as error:
        raise click.ClickException(f"{Path(source).name} is not added: {error.message}") from None
    click.echo(f"ok {folder.name}/{folder.version}: added and tried out")
