"""`flask models pack|add|remove`: brings models from one server to another, and takes them away."""

from dataclasses import replace
from pathlib import Path

import click

from app.api.request.changes import await_workers
from app.api.request.services import services
from app.cli.audit_command import record
from app.cli.model_choice import FILE, await_server, choose_folders, explain, models_commands
from app.engines.process_engine import runs_natively
from app.exchange.model_format import ModelFormat, identify
from app.exchange.model_importer import add_model
from app.exchange.model_importer import propose as propose_manifest
from app.exchange.packing import pack_model
from app.exchange.quarantine import Quarantine
from app.exchange.remote_source import forget_query, is_remote, open_remote
from app.registry.model_changes import Wishes
from app.repository.model_folder import ModelFolder


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
@click.option("--default", "is_default", is_flag=True, help="Make the added version the model's default.")
@click.option(
    "--propose", is_flag=True, help="Add nothing; print a model.toml with all that the file says, to be filled in."
)
def add_folder(source: str, manifest: Path | None, is_default: bool, propose: bool) -> None:
    """Add a model to this server.

    SOURCE is an archive of `models pack`, an archive of TorchServe (.mar), a model folder, or an artifact with
    --manifest. Name it by its path, or by a URL that SCANCER_ALLOWED_URLS allows. The path of a folder among the models
    serves a removed version again.

    The first version of a model is its default. A later one does not take its place without --default.
    """
    if not is_remote(source) and not Path(source).exists():
        raise click.BadParameter(f"Path '{source}' does not exist.", param_hint="'SOURCE'")
    if propose and manifest is not None:
        raise click.UsageError("--propose makes a manifest: leave --manifest out")
    with explain(f"{Path(source).name} is not {'read' if propose else 'added'}"):
        if propose:
            print_proposal(source)
            return
        if is_remote(source):
            with open_remote(source, services().settings) as file:
                click.echo(f"fetched {file.size} bytes, sha256 {file.sha256}")
                add_what_it_is(file.path, forget_query(source), manifest, is_default, file.quarantine)
        else:
            add_what_it_is(Path(source), Path(source).name, manifest, is_default)


def print_proposal(source: str) -> None:
    """Print a manifest for an artifact."""
    settings = services().settings
    if not is_remote(source):
        click.echo(propose_manifest(Path(source), settings), nl=False)
        return
    with open_remote(source, settings) as file:
        click.echo(propose_manifest(file.path, settings), nl=False)


def add_what_it_is(
    source: Path, url: str, manifest: Path | None, is_default: bool, own: Quarantine | None = None
) -> None:
    """Add a model, register an archive of TorchServe, or serve a removed folder again; say what was done."""
    changes, settings = services().changes, services().settings
    before = changes.plan()
    if source.resolve().parent.parent == settings.models.resolve() and source.is_dir():
        url = f"{source.resolve().parent.name}/{source.resolve().name}"
        key, done = changes.register_again(url, Wishes(workers=1)).key, "served again"
    elif manifest is None and identify(source) is ModelFormat.MAR:
        change = changes.register_file(source, url, Wishes(), own=own)
        if not change.workers:  # it names none itself
            changes.scale(*change.key, 1, 1)
        key, done = change.key, "added"
    else:
        folder = add_model(source, settings, manifest, own)
        if note := read_note(folder):
            click.echo(note)
        key, done = (folder.name, folder.version), "added and tried out"
        if key[1] not in changes.plan().versions.get(key[0], {}):  # removed before, with its folder
            changes.register_again(folder.label, Wishes(workers=1))
    name, version = key
    default = before.find_default(name) if name in before.versions and not is_default else version
    change = changes.set_default(name, default)
    record("model added", "/".join(key))
    await_server(replace(change, key=key))
    click.echo(f"ok {name}/{version}: {done}")
    if default != version:
        click.echo(f"{name}/{default} stays the default; 'flask models set-default {name} {version}' changes it")


def read_note(folder: ModelFolder) -> str:
    """Return what was done to find the weights in an artifact; nothing for a model that its framework runs."""
    manifest = folder.read_manifest()
    return "" if runs_natively(manifest) else folder.read_report(manifest).note


@models_commands.command("remove")
@click.argument("name")
def remove_model(name: str) -> None:
    """Unregister the version NAME/VERSION.

    A running server stops serving it. A version that came over the management API is deleted. The folder of any other
    stays: `models add` with its path serves it again.
    """
    model, _, version = name.partition("/")
    change = services().changes.unregister(model, version or None)
    record("model unregistered", "/".join(change.key))
    await_workers(change)
    services().changes.sweep(change)
    label = "/".join(change.key)
    click.echo(f"removed {label}")
    if change.token is None:
        folder = services().settings.models / label
        click.echo(f"{folder} stays; 'flask models add {folder}' serves it again")
