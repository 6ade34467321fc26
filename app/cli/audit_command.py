"""`flask audit`, and what commands enter in the audit trail."""

import csv
import os
import pwd
import time
from pathlib import Path

import click
from flask.cli import with_appcontext

from app.api.request.services import services
from app.cli.durations import Duration
from app.cli.model_choice import explain
from app.state.people.audit_trail import AuditEntry

COLUMNS = ("time", "user", "action", "subject", "client")


def record(action: str, subject: str) -> None:
    """Enter in the audit trail what a command has done; raises `StateStoreError` or `DiskFullError`."""
    services().audit.write(AuditEntry(f"system:{name_system_user()}", action, subject))


def name_system_user() -> str:
    """Return the name of the system's user who runs this command, or else the number.

    The command `scancer` runs as the service's user, and hands over who called it.
    """
    if caller := os.environ.get("SYSTEM_CALLER"):
        return caller
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not have a name
        return str(os.getuid())


@click.command("audit")
@click.option("--since", type=Duration(has_end=True), help="How far back, e.g. 12h or 7d. Default: from the beginning.")
@click.option("--user", help="Entries of one user alone; of a user of the system, as in system:root.")
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write a CSV file.")
@with_appcontext
def print_audit(since: int | None, user: str | None, file: Path | None) -> None:
    """Show who signed in, who failed to, and who changed what: models, users, tokens.

    Times are in UTC. A user with `system:` in front is one of the machine, who ran a command.
    """
    with explain():
        entries = services().audit.read(0 if since is None else int((time.time() - since) * 1000), user)
    rows = [(write_time(each.at_ms), each.actor, each.action, each.subject, each.client) for each in entries]
    if file is None:
        for row in rows:
            click.echo("\t".join(row))
        return
    try:
        with file.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines, lineterminator="\n").writerows([COLUMNS, *rows])
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"{len(rows)} entries in {file}", err=True)


def write_time(at_ms: int) -> str:
    """Return a time in milliseconds since 1970 as ISO 8601 in UTC."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at_ms // 1000))}.{at_ms % 1000:03d}Z"
