"""Restores over the database of a newer release, killed at every few statements: it must be newer or restored, whole.

`python -m tests.upkeep.killed_return FOLDER URL` prints how many kills left the newer state, and how many the restored.
"""

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from app.config.settings import Settings
from app.errors import StateStoreError
from app.state.copying.database_copy import reflect
from app.state.state_store import make_engine, read_schema_version
from app.upkeep.backup import write_backup
from app.upkeep.restore import restore_backup
from app.upkeep.swap import finish_restore
from tests.upkeep.installation import look, make_installation, settle_in
from tests.upkeep.killed_upkeep import run_child

STRIDE = 53
NEWER = (
    "ALTER TABLE scancer_versions ADD COLUMN note TEXT",
    "ALTER TABLE scancer_audit ADD COLUMN place TEXT",
    "CREATE TABLE scancer_reviews (id INTEGER PRIMARY KEY, name VARCHAR(255) REFERENCES scancer_defaults (name))",
    "INSERT INTO scancer_reviews SELECT 1, min(name) FROM scancer_defaults",
)
MARKS = {"sqlite": "PRAGMA user_version = 2", "postgresql": "UPDATE scancer_schema SET version = 2"}


def become_newer(url: str) -> None:
    """Bring the database to the schema of a newer release."""
    engine = make_engine(url)
    with engine.begin() as connection:
        for statement in (*NEWER, MARKS[engine.dialect.name]):
            connection.exec_driver_sql(statement)
    engine.dispose()


def read_all(url: str) -> tuple[int, dict[str, list[Any]]]:
    """The schema's version, and the rows of every table."""
    engine = make_engine(url)
    with engine.connect() as connection:
        rows = {
            name: sorted(map(repr, connection.execute(sql.select(table))))
            for name, table in reflect(connection).items()
        }
        version = read_schema_version(connection)
    engine.dispose()
    return version, rows


def die_at(step: int, settings: Settings, file: Path) -> None:
    """Restore, but end at a statement or the end of a transaction."""
    left = [step]

    def count(*_: object) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    for event in ("before_cursor_execute", "commit", "rollback"):
        sql.event.listen(sql.Engine, event, count)
    restore_backup(settings, file)


def main() -> None:
    """Kill restores until one lives."""
    folder, url = Path(sys.argv[1]), sys.argv[2]
    write_backup(make_installation(folder / "made"), folder / "a.tar")
    target = replace(settle_in(folder / "target"), database=url)
    restore_backup(target, folder / "a.tar")
    old, kills, step = look(target), [0, 0], 0
    while True:
        with suppress(sql.exc.DBAPIError):  # it is newer already
            become_newer(url)
        newer = read_all(url)
        child = run_child(lambda step=step: die_at(step, target, folder / "a.tar"))
        _, status = os.waitpid(child, 0)
        finish_restore(target)  # as a server does when it starts
        is_restored = True
        try:
            assert look(target) == old
        except StateStoreError:
            is_restored = False
            assert read_all(url) == newer
        assert is_restored or not kills[1]  # once it is decided, it only goes forward
        if not os.WIFSIGNALED(status):
            assert (status, is_restored) == (0, True)
            print(*kills)
            return
        kills[is_restored] += 1
        step += STRIDE


if __name__ == "__main__":
    main()
