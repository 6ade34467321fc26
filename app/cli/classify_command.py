"""`flask classify`: pictures and folders become a table."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import click

from app.api.predict.answers import ANSWER, REFUSE
from app.api.request.services import NOTICE, services
from app.cli.classifying.answer_table import FAILED, AnswerTable, Asked, make_row, open_table
from app.cli.classifying.local_model import LocalModel
from app.cli.classifying.picture_paths import find_paths
from app.cli.model_choice import explain
from app.cli.progress import show_progress
from app.config.cpu_count import count_cores

CONNECTIONS = 8
AHEAD = 4
"""Groups of pictures that each job may be ahead of the table, so that no job waits for another one's answer."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Source(Protocol):
    """What answers pictures: a model on this machine, or a server. `group` pictures are asked together."""

    asked: Asked
    jobs: int
    group: int

    def ask(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """Return a JSON answer for each picture."""

    def close(self) -> None:
        """Let go of what answers."""


@click.command("classify")
@click.argument("name")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True)
@click.option(
    "--csv",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The table to write. If it is there, the command goes on with it. Default: standard output.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    help=f"Pictures that are worked on at a time. Default: one a core; {CONNECTIONS} with --url.",
)
@click.option(
    "--unfit",
    type=click.Choice([REFUSE, ANSWER]),
    default=REFUSE,
    show_default=True,
    help="What becomes of a picture that is not of the model's kind: a row without a class, or a class all the same.",
)
@click.option("--url", help="Ask a server, such as http://127.0.0.1:8080, instead of this machine.")
@click.option(
    "--user", envvar="CLASSIFY_USER", help="The user at the server; the password is CLASSIFY_PASSWORD, or asked."
)
def classify(
    name: str,
    paths: tuple[str, ...],
    file: Path | None,
    jobs: int | None,
    unfit: str,
    url: str | None,
    user: str | None,
) -> None:
    """Classify pictures with model NAME, or NAME/VERSION, and write a table of them as CSV.

    PATH is a picture, a folder with all folders in it, or a pattern such as 'scans/*.png'. A picture that cannot be
    read becomes a row with its error, and the command ends with 1. A table that a stopped command left is continued.

    Research use only. Not for diagnosis.
    """
    takes_unfit = unfit == ANSWER
    with explain(), ExitStack() as stack:
        found = find_paths(paths)
        source = open_server(url, name, user, jobs, takes_unfit) if url else open_model(name, jobs, takes_unfit)
        stack.enter_context(closing(source))
        stream = stack.enter_context(open_table(file)) if file else sys.stdout.buffer
        table = AnswerTable(stream, source.asked)
        if file:
            with explain(str(file)):
                left = table.resume(found.pictures, source.group)
        else:
            left = found.pictures
            table.begin()
        with show_progress(f"{source.asked.model}/{source.asked.version}", len(left), sys.stderr) as advance:
            for group, answers in ask_in_order(source, left):
                table.add([make_row(*pair, source.asked) for pair in zip(group, answers, strict=True)])
                advance(len(group))
    click.echo(summarize(table, found.others), err=True)
    sys.exit(int(table.outcomes[FAILED] > 0))


def open_model(name: str, jobs: int | None, takes_unfit: bool) -> Source:
    """Load the model that would answer at /predictions/NAME; raises as `LocalModel`."""
    model, _, version = name.partition("/")
    planned = services().changes.plan().find_version(model, version or None)
    return LocalModel(planned, services().settings, jobs or count_cores(), takes_unfit)


def open_server(url: str, name: str, user: str | None, jobs: int | None, takes_unfit: bool) -> Source:
    """Connect to a server; raises as `ServerClient`."""
    from app.cli.classifying.server_client import ServerClient  # here, for urllib3 is not needed otherwise

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise click.BadParameter("it must be like https://host:port, without user and password", param_hint="--url")
    login = None
    if user:
        password = os.environ.get("CLASSIFY_PASSWORD") or click.prompt("Password", hide_input=True, err=True)
        login = user, password
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            click.echo(f"warning: {url} is not encrypted: anybody on the way can read the password", err=True)
    return ServerClient(url, name, login, jobs or CONNECTIONS, takes_unfit)


def ask_in_order(source: Source, paths: Sequence[str]) -> Iterator[tuple[Sequence[str], list[dict[str, Any]]]]:
    """Yield groups of pictures with their answers, in order, while the next ones are worked on."""
    pending: deque[tuple[Sequence[str], Future[list[dict[str, Any]]]]] = deque()
    pool = ThreadPoolExecutor(source.jobs)
    try:
        for start in range(0, len(paths), source.group):
            group = paths[start : start + source.group]
            pending.append((group, pool.submit(source.ask, group)))
            if len(pending) > AHEAD * source.jobs:
                first, answers = pending.popleft()
                yield first, answers.result()
        while pending:
            first, answers = pending.popleft()
            yield first, answers.result()
    finally:
        pool.shutdown(cancel_futures=True)


def summarize(table: AnswerTable, others: int) -> str:
    """Return what became of the pictures, in one line and the notice."""
    counts = "; ".join(f"{count} {outcome}" for outcome, count in table.outcomes.most_common())
    passed = f"\npassed over, as no pictures by their names: {others}" if others else ""
    return f"{table.outcomes.total()} pictures: {counts or 'none'}{passed}\n{NOTICE}"
