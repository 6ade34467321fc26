"""The users of all servers that share a database, and what a server does while that is away."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app.errors import DiskFullError, ServiceUnavailableError, StateStoreError, UsersError
from app.state import schema
from app.state.store_access import StoreAccess
from app.users import Token, User, UserBook, UsersFile
from app.users.user import check_user

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often a server asks whether users have changed."""
MAX_AWAY_S = 3600.0
"""How long a server lets users in by what it read last. Nobody else can be added, and who was removed elsewhere
meanwhile stays in for so long: as long as access tokens commonly last."""
NEVER_CHANGED = 0
CLOSE_S = 2.0


class UsersTable(UserBook):
    """The users in a database; see `UserBook`."""

    def __init__(self, access: StoreAccess) -> None:
        self._access = access

    def read_mark(self) -> int:
        """Return a number that is another one after each change; `NEVER_CHANGED` if there never was one."""
        with self._access.open().look() as connection:
            return read_mark(connection)

    def read(self) -> dict[str, User]:
        """Return the users by name."""
        with self._access.open().look() as connection:
            return read_users(connection)

    @contextmanager
    def change(self) -> Iterator[dict[str, User]]:
        """Change users; see `UserBook.change`."""
        with self._begin() as (connection, _):
            before = read_users(connection)
            users = dict(before)
            yield users
            write_users(connection, before, users)

    def take_over(self, users: Mapping[str, User]) -> bool:
        """Add users if nobody ever changed any here; return whether they were added."""
        with self._begin() as (connection, mark):
            if mark == NEVER_CHANGED:
                write_users(connection, {}, users)
            return mark == NEVER_CHANGED

    @contextmanager
    def _begin(self) -> Iterator[tuple["Connection", int]]:
        """Begin a change, one at a time in all processes; give the mark of the one before."""
        import sqlalchemy as sql

        from app.state.sql_tables import tables

        with self._access.open().write() as connection:
            # The lock of the row excludes other writers on other databases.
            yield connection, connection.scalar(sql.select(tables[schema.USERS_MARK].c.value).with_for_update()) or 0


def read_mark(connection: "Connection") -> int:
    """Return the mark of the last change; see `UsersTable.read_mark`."""
    import sqlalchemy as sql

    from app.state.sql_tables import tables

    return connection.scalar(sql.select(tables[schema.USERS_MARK].c.value)) or NEVER_CHANGED


def forget_users(connection: "Connection") -> None:
    """Empty the tables, as if nobody had ever changed users here."""
    import sqlalchemy as sql

    from app.state.sql_tables import tables

    for name in (schema.USERS, schema.TOKENS):
        connection.execute(sql.delete(tables[name]))
    connection.execute(sql.update(tables[schema.USERS_MARK]).values(value=NEVER_CHANGED))


def read_users(connection: "Connection") -> dict[str, User]:
    """Read the users and their tokens; raises `UsersError` for a row that cannot be."""
    from app.state.state_store import read_rows

    tokens: dict[str, list[Token]] = {}
    for row in sorted(read_rows(connection, schema.TOKENS), key=lambda row: (row["made"], row["id"])):
        token = Token(row["id"], row["digest"], row["made"], row["expires"])
        tokens.setdefault(row["name"], []).append(token)
    users = {}
    for row in sorted(read_rows(connection, schema.USERS), key=lambda row: row["name"]):
        models = tuple(row["models"].split(",")) if row["models"] else ()
        user = User(row["name"], row["role"], row["password_hash"], models, tuple(tokens.get(row["name"], ())))
        try:
            users[user.name] = check_user(user)
        except UsersError as error:
            raise UsersError(f"the database's table {schema.USERS} holds a user who cannot be: {error}") from error
    return users


def write_users(connection: "Connection", before: Mapping[str, User], after: Mapping[str, User]) -> None:
    """Delete the rows of users who have changed or gone, insert those of users who have changed or are new, and write
    a new mark.

    The mark is no count: a copy of the database that is put back and changed anew must not end at one seen before.
    """
    import sqlalchemy as sql

    from app.state.sql_tables import tables

    users, tokens = tables[schema.USERS], tables[schema.TOKENS]
    for name in before:
        if after.get(name) != before[name]:
            for table in (users, tokens):
                connection.execute(sql.delete(table).where(table.c.name == name))
    for name, user in after.items():
        if before.get(name) == user:
            continue
        connection.execute(
            sql.insert(users).values(
                name=name, role=user.role, password_hash=user.password_hash, models=",".join(user.models)
            )
        )
        for token in user.tokens:
            values: dict[str, Any] = {"id": token.id, "digest": token.digest, "made": token.made}
            connection.execute(sql.insert(tokens).values(name=name, expires=token.expires, **values))
    connection.execute(sql.update(tables[schema.USERS_MARK]).values(value=secrets.randbits(62) + 1))


class FollowedUsers:
    """The users of a database as a worker knows them: read again soon after a change, by a thread of its own.

    The first look brings the users of the instance folder's file into a database whose users nobody ever changed. Later
    it does not, so that users who were removed from the database do not come back. `note` is called for each of them.

    Thread safety: all methods may be called from any thread. The thread starts with the first question.
    """

    def __init__(self, table: UsersTable, file: UsersFile, note: Callable[[User], object] = lambda _: None) -> None:
        self._table, self._file, self._note = table, file, note
        self._now: tuple[int | None, dict[str, User]] = None, {}
        self._seen_s = -MAX_AWAY_S
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._fault = ""

    def find_stamp(self) -> object:
        """Return what changes whenever the users do. Raises `ServiceUnavailableError` if the database is away for too
        long, or was never read.
        """
        self.start()
        if time.monotonic() - self._seen_s > MAX_AWAY_S:
            raise ServiceUnavailableError("The users cannot be read now, so nobody can sign in; try again shortly.")
        return self._now[0]

    def read(self) -> dict[str, User]:
        """Return the users by name, as they were read last."""
        return self._now[1]

    def close(self) -> None:
        """Follow no longer; a database that does not answer is not waited for."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def start(self) -> None:
        """Follow from now on; a second call changes nothing."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._look()
                if self._now[0] is not None and not self._now[1]:
                    log.warning("there are no users, every request answers 401: run 'flask users add NAME'")
                self._thread = threading.Thread(target=self._run, name="follow-users", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        """Read what has changed; log a fault when it begins and when it is over."""
        asked_s, fault = time.monotonic(), ""
        try:
            mark = self._table.read_mark()
            if mark == NEVER_CHANGED and (users := self._file.read()):
                if self._table.take_over(users):
                    log.warning("the database took over the users of a file", extra={"reason": ", ".join(users)})
                    for user in users.values():
                        self._note(user)
                mark = self._table.read_mark()
            if mark != self._now[0]:
                self._now = mark, self._table.read()  # the mark first: a change in between is found by the next look
            self._seen_s = asked_s
        except (StateStoreError, DiskFullError, UsersError) as error:
            fault = error.message
        if fault and not self._fault:
            reason = f"{fault}; those who are known come in for {MAX_AWAY_S / 60:.0f} minutes more"
            log.error("users are not followed", extra={"reason": reason})
        elif self._fault and not fault:
            log.info("users are followed again")
        self._fault = fault


def import_users(table: UsersTable, users: Mapping[str, User]) -> list[str]:
    """Add users with their hashes and tokens, but for those whose names are there already; return who was added."""
    with table.change() as kept:
        added = [name for name in users if name not in kept]
        taken = {token.id for user in kept.values() for token in user.tokens}
        for name in added:
            if taken & {token.id for token in users[name].tokens}:
                raise UsersError(f"a token of {name} has the id of another one: revoke it first")
            kept[name] = users[name]
    return added
