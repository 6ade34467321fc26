"""`flask users …`: the users of the API, their tokens, and the models that they may ask."""

import secrets
import sys
import time
from pathlib import Path

import click

from app.api.request.services import services
from app.cli.audit_command import record
from app.cli.durations import Duration
from app.cli.model_choice import FILE, Commands
from app.errors import UsersError
from app.state.people.users_table import UsersTable, import_users
from app.users import PREDICT, ROLES, Token, UsersFile
from app.users.user_book import find_user

users_commands = Commands("users", help="Add, remove and list the users of the API and their tokens.")


@users_commands.command("add")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=PREDICT,
    show_default=True,
    help="`predict` may ask models; `manage` may also register, change and remove them; `proxy` names other users.",
)
@click.option(
    "--models",
    multiple=True,
    metavar="PATTERN",
    help="Models that the user may ask, e.g. 'pcam-*'; repeat it for more. '*' means all. Without it, a new user may "
    "ask all, and another one what was allowed before.",
)
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
@click.option("--no-password", is_flag=True, help="For a user with tokens alone, or one whom a proxy signs in.")
def add_user(name: str, role: str, models: tuple[str, ...], password_stdin: bool, no_password: bool) -> None:
    """Add a user, or change one.

    A user NAME who exists gets the new password and role, and keeps the tokens. The command asks for the password,
    which has at least 12 characters.
    """
    if no_password and password_stdin:
        raise click.UsageError("--no-password and --password-stdin exclude each other")
    if no_password:
        password = secrets.token_urlsafe(32)  # which nobody will ever know
    elif password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    is_new = services().users.add(name, role, password, models or None)
    record("user added" if is_new else "user changed", f"{name} ({role})")
    click.echo(f"{'added' if is_new else 'changed'} {name} ({role})")


@users_commands.command("remove")
@click.argument("name")
def remove_user(name: str) -> None:
    """Remove a user with all tokens."""
    services().users.remove(name)
    record("user removed", name)
    click.echo(f"removed {name}")


@users_commands.command("list")
def list_users() -> None:
    """List the users: name, role, and the models that a user is kept to."""
    for user in services().users.read().values():
        click.echo("\t".join((user.name, user.role, *([",".join(user.models)] if user.models else []))))


@users_commands.command("import")
@click.option("--file", type=FILE, help="The users file. Default: the one in the instance folder.")
def import_file(file: Path | None) -> None:
    """Add the users of a users file to the database of SCANCER_DATABASE.

    They keep their passwords, roles and tokens. A user whose name is in the database already stays as there.
    """
    table = services().users
    if not isinstance(table, UsersTable):
        raise UsersError("SCANCER_DATABASE is not set: the users are in the file of the instance folder already")
    source = UsersFile(services().settings.instance, file)
    users = source.read()
    if not users:
        raise UsersError(f"{source.path} has no users")
    added = import_users(table, users)
    for name in added:
        record("user imported", f"{name} ({users[name].role})")
    for name in users:
        click.echo(f"added {name}" if name in added else f"kept {name} as in the database")


@users_commands.command("token")
@click.argument("name")
@click.option(
    "--expires",
    default="90d",
    show_default=True,
    help="How long the token counts, e.g. 12h or 90d; or never.",
    type=Duration(),
)
def make_token(name: str, expires: int | None) -> None:
    """Make a token for a user, and print it.

    It is shown this once: the server keeps its SHA-256 alone. A program sends it as "Authorization: Bearer TOKEN". It
    may do what its user may.
    """
    text, token = services().users.add_token(name, expires)
    record("token made", f"{name} {token.id}, expires {describe_end(token)}")
    click.echo(text)
    click.echo(f"token {token.id} of {name} expires {describe_end(token)}; it is not shown again", err=True)


@users_commands.command("tokens")
@click.argument("name")
def list_tokens(name: str) -> None:
    """List the tokens of a user: id, when it was made, and when it expires."""
    for token in find_user(services().users.read(), name).tokens:
        words = "expired" if token.is_expired() else "expires"
        click.echo(f"{token.id}\tmade {describe_second(token.made)}\t{words} {describe_end(token)}")


@users_commands.command("revoke")
@click.argument("name")
@click.argument("token_id", metavar="ID")
def revoke_token(name: str, token_id: str) -> None:
    """Take the token ID from a user; `users tokens NAME` lists the ids."""
    services().users.revoke_token(name, token_id)
    record("token revoked", f"{name} {token_id}")
    click.echo(f"revoked {token_id} of {name}")


def describe_end(token: Token) -> str:
    """Return when a token ends, as text."""
    return "never" if token.expires is None else describe_second(token.expires)


def describe_second(second: int) -> str:
    """Return a second since 1970 as text, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(second))
