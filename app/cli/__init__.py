"""The commands: `flask users …`, `flask models …`, `flask classify …`, `flask audit`, `flask backup` and others."""

import click
from flask import Flask

from app.cli import (  # each adds its commands to models_commands
    compile_commands,  # noqa: F401
    example_commands,  # noqa: F401
    exchange_commands,  # noqa: F401
    signature_commands,  # noqa: F401
)
from app.cli.audit_command import print_audit
from app.cli.classify_command import classify
from app.cli.measuring import (
    calibration_commands,  # noqa: F401
    evaluation_commands,  # noqa: F401
    fit_commands,  # noqa: F401
    report_commands,  # noqa: F401
    watch_commands,  # noqa: F401
)
from app.cli.model_choice import models_commands
from app.cli.upkeep_commands import backup, capacity, doctor, restore
from app.cli.user_commands import users_commands
from app.config.settings_document import describe_settings


def register_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(users_commands)
    app.cli.add_command(models_commands)
    app.cli.add_command(print_audit)
    app.cli.add_command(classify)
    app.cli.add_command(backup)
    app.cli.add_command(restore)
    app.cli.add_command(doctor)
    app.cli.add_command(capacity)
    app.cli.add_command(print_settings)


@click.command("settings")
def print_settings() -> None:
    """Print all settings as Markdown.

    Each row names an environment variable, its default, its allowed values and its meaning.
    """
    click.echo(describe_settings(), nl=False)
