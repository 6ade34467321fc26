"""`flask models set-default|remove`: what the servers that share this state store are wanted to serve."""

import click

from app.api.request.services import services
from app.cli.evaluation_commands import find_best
from app.cli.model_choice import models_commands
from app.errors import AnsweredError, OperatorError


@models_commands.command("set-default")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--best", is_flag=True, help="The version with the best AUC, by the reports of `models evaluate`.")
def set_default_version(name: str, version: str | None, best: bool) -> None:
    """Make VERSION, or the best one, the default of the model NAME; a server that runs follows within a second."""
    if best == (version is not None):
        raise click.UsageError("give a VERSION, or --best")
    try:
        version = version or find_best(name)
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
