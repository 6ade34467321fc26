"""`flask models set-default|remove`: changes which versions the servers of this state store serve."""

import click

from app.api.request.services import services
from app.cli.evaluation_commands import find_best
from app.cli.model_choice import models_commands


@models_commands.command("set-default")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--best", is_flag=True, help="Choose the version with the best AUC in the reports of `models evaluate`.")
def set_default_version(name: str, version: str | None, best: bool) -> None:
    """Choose the default version of a model.

    Give a VERSION, or --best. Requests that name no version get the default. A running server follows within a second.
    """
    if best == (version is not None):
        raise click.UsageError("give a VERSION, or --best")
    version = version or find_best(name)
    services().changes.set_default(name, version)
    click.echo(f"the default of {name} is {version}")


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
