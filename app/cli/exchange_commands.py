"""`flask models pack|add|remove`: brings models from one server to another, and takes them away."""

from pathlib import Path

import click

from app.api.request.services import services
from app.cli.model_choice import FILE, choose_folders, explain, models_commands
from app.exchange.model_format import ModelFormat, identify
from app.exchange.model_importer import add_model
from app.exchange.packing import pack_model
from app.exchange.quarantine import Quarantine
from app.exchange.remote_source import forget_query, is_remote, open_remote
from app.registry.model_changes import Wishes


@models_commands.command("pack")
@click.argument("name")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The archive to write. Default: NAME-VERSION.zip."
)
def pack_folder(name: str, output: Path | None) -> None:
    """Pack a model into one archive.

    NAME packs the newest version of a model, NAME/VERSION packs that version. On another server, `models add` takes the
    archive.
    """
    folder = choose_folders(name)[-1]
    target = output or Path(f"{folder.name}-{folder.version}.zip")
    try:
        with explain(folder.label):
            pack_model(folder, target)
    except OSError as error:
        raise click.ClickException(f"{target} cannot be written: {error.strerror}") from None
    click.echo(f"packed {folder.label} as {target}: {target.stat().st_size} bytes")


@models_commands.command("add")
@click.argument("source")
@click.option("--manifest", type=FILE, help="The model.toml of a weights file or program that is added alone.")
def add_folder(source: str, manifest: Path | None) -> None:
    """Add a model to this server.

    SOURCE is an archive of `models pack`, an archive of TorchServe (.mar), a model folder, or an artifact with
    --manifest. Name it by its path, or by a URL that SCANCER_ALLOWED_URLS allows.
    """
    if not is_remote(source) and not Path(source).exists():
        raise click.BadParameter(f"Path '{source}' does not exist.", param_hint="'SOURCE'")
    with explain(f"{Path(source).name} is not added"):
        if is_remote(source):
            with open_remote(source, services().settings) as file:
                click.echo(f"fetched {file.size} bytes, sha256 {file.sha256}")
                done = add_what_it_is(file.path, forget_query(source), manifest, file.quarantine)
        else:
            done = add_what_it_is(Path(source), Path(source).name, manifest)
    click.echo(f"ok {done}")


def add_what_it_is(source: Path, url: str, manifest: Path | None, own: Quarantine | None = None) -> str:
    """Add a model, or register an archive of TorchServe as `POST /models` does, and return what was done."""
    if manifest is None and identify(source) is ModelFormat.MAR:
        changes = services().changes
        change = changes.register_file(source, url, Wishes(), own=own)
        if not change.workers:  # it names none itself
            changes.scale(*change.key, 1, 1)
        return f"{'/'.join(change.key)}: added; a server that runs starts it within seconds"
    folder = add_model(source, services().settings, manifest, own)
    return f"{folder.label}: added and tried out"


@models_commands.command("remove")
@click.argument("name")
def remove_model(name: str) -> None:
    """Unregister the version NAME/VERSION.

    A running server stops serving it. The model folder is deleted if the server made it. A folder stays if somebody put
    it among the models by hand.
    """
    model, _, version = name.partition("/")
    services().changes.unregister(model, version or None)
    services().changes.sweep()
    click.echo(f"removed {name}")
