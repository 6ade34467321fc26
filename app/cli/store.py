"""`flask models set-default|remove`: what the servers that share this state store are wanted to serve."""

import click

from app.api.context import services
from app.cli.folders import models_commands
from app.errors import AnsweredError, OperatorError


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
