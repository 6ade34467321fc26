"""`flask users …`: adds, removes and lists the users of the API."""

import sys

import click

from app.api.request.services import services
from app.cli.model_choice import Commands
from app.users import ROLES, UsersFile

users_commands = Commands("users", help="Add, remove and list the users of the API.")


@users_commands.command("add")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="predict",
    show_default=True,
    help="`predict` may ask models; `manage` may also register, change and remove them.",
)
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
def add_user(name: str, role: str, password_stdin: bool) -> None:
    """Add a user, or change one.

    A user NAME who exists gets the new password and role. The command asks for the password, which has at least 12
    characters.
    """
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    is_new = UsersFile(services().settings.instance).add(name, role, password)
    click.echo(f"{'added' if is_new else 'changed'} {name} ({role})")


@users_commands.command("remove")
@click.argument("name")
def remove_user(name: str) -> None:
    """Remove a user."""
    UsersFile(services().settings.instance).remove(name)
    click.echo(f"removed {name}")


@users_commands.command("list")
def list_users() -> None:
    """List the users and their roles."""
    for user in UsersFile(services().settings.instance).read().values():
        click.echo(f"{user.name}\t{user.role}")
