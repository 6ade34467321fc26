"""Finds out at the start whether the database of `SCANCER_DATABASE` can keep the state, and says what to mend.

The check runs in a process of its own: SQLAlchemy and database drivers must not be loaded before gunicorn forks.
"""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from app.config.setting_types import OWN_DATABASE, PROJECT_ROOT
from app.errors import DiskFullError, OlderStateError, SettingsError, StateStoreError
from app.state.state_file import StateFile

CHECK_TIMEOUT_S = 30
LOOK, REACH = "--look", "--reach"
PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""What to install for a driver, where the package has another name than the module."""


def check_database(url: str) -> None:
    """Open the database of `SCANCER_DATABASE` as a server will, and make the tables that it lacks.

    The file of `sqlite` is made when it is needed; see `check_state_file`. Raises `SettingsError` if the database
    cannot be used; the message says what to do and names no password.
    """
    if url != OWN_DATABASE:
        run_check(url)


def look_at_database(url: str) -> str:
    """Say how the database of `SCANCER_DATABASE` is, and change nothing in it. Raises as `check_database`."""
    return run_check(url, LOOK)


def check_reachable(url: str) -> None:
    """Find out whether the database of `SCANCER_DATABASE` answers, whichever release's state it holds, and change
    nothing in it. Raises as `check_database`.
    """
    run_check(url, REACH)


def run_check(url: str, *options: str) -> str:
    """Run this module; return what it says, or raise `SettingsError` with it."""
    command = [sys.executable, "-m", "app.state.database_check", *options]
    try:
        # By standard input: other users of the machine can read a command line, and the URL may hold a password.
        done = subprocess.run(
            command, cwd=PROJECT_ROOT, input=url, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SettingsError(
            f"SCANCER_DATABASE cannot be used: its server does not answer within {CHECK_TIMEOUT_S} s."
        ) from None
    if done.returncode:
        raise SettingsError(f"SCANCER_DATABASE cannot be used: {done.stdout.strip() or 'the check of it failed'}.")
    return done.stdout.strip()


def check_state_file(path: Path) -> None:
    """Bring the SQLite file of the state, if it is there, to this release's schema.

    Raises `SettingsError` if it is damaged, or was written by a later release.
    What may pass by itself, such as a lock or a full disk, is no reason not to start.
    """
    if not os.path.lexists(path):
        return
    try:
        StateFile(path).read()
    except OlderStateError:
        check_database(f"sqlite:///{quote(str(path))}")  # a path may hold a question mark
    except StateStoreError as error:
        cause = error.__cause__
        if isinstance(cause, sqlite3.Error) and (cause.sqlite_errorcode & 0xFF) in PASSING:
            return
        raise SettingsError(
            f"{path} cannot be used: {error.message}. Restore a backup, or move it and its -wal and -shm away: "
            "the server then wants what lies in SCANCER_MODELS, as at its first start."
        ) from error


def explain(url: str, error: BaseException) -> str:
    """Say why a database cannot be opened, without the URL's password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    if isinstance(error, NoSuchModuleError):
        return f"SQLAlchemy has no dialect {make_url(url).drivername}; postgresql+psycopg, for example, is one"
    if isinstance(error, (ArgumentError, ValueError)):
        return "it is no URL of the form dialect+driver://user:password@host:port/name"
    parsed = make_url(url)
    if isinstance(error, ImportError):
        driver = error.name or parsed.drivername.partition("+")[2]
        return f"its driver is not installed: run \"pip install '{PACKAGES.get(driver, driver)}'\""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    for secret in filter(None, (parsed.password, parsed.query.get("password"))):
        reason = reason.replace(str(secret), "***")
    return reason


def main() -> int:
    """Check the database whose URL stands on standard input; print the reason if it cannot be used."""
    url = sys.stdin.read()
    try:
        if LOOK in sys.argv:
            from app.state.copying.database_copy import describe_database

            print(describe_database(url))
        elif REACH in sys.argv:
            from app.state.copying.database_copy import look_at

            with look_at(url):
                pass
        else:
            from app.state.state_store import StateStore

            StateStore(url).close()
    except (StateStoreError, DiskFullError, ValueError) as error:  # SQLAlchemy's ValueError: a port that is no number
        print(explain(url, error.__cause__ or error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
