"""Makes the state of a backup ready for the place where it goes: its schema, its users and its audit trail."""

import logging
from contextlib import closing
from pathlib import Path

import sqlalchemy as sql

from app.config.setting_types import OWN_DATABASE
from app.config.settings import Settings
from app.errors import StateStoreError
from app.state.copying.database_copy import closing_engine, keep_trail, replace_database
from app.state.people.users_table import NEVER_CHANGED, forget_users, read_mark, read_users, write_users
from app.state.state_file import StateFile
from app.state.state_store import StateStore, make_engine, translate_errors
from app.state.store_access import STATE_FILE
from app.users import USERS_FILE, User, UsersFile

log = logging.getLogger(__name__)


def prepare_state(settings: Settings, state: Path, instance: Path, users: dict[str, User], source: str) -> None:
    """Bring a staged state to this release's schema, and try it; raises `StateStoreError` if it cannot be used.

    Args:
        settings: of the place where it goes.
        state: the staged SQLite file; made if the backup had none.
        instance: the staged instance folder.
        users: of the backup's users file.
        source: the kind of database that the backup was made of.
    """
    is_own = settings.database == OWN_DATABASE
    with closing(StateStore(state)) as store:
        with store.write() as connection:
            settle_users(connection, instance if is_own else None, users, source != OWN_DATABASE)
        if is_own:
            keep_present_trail(store, settings.instance / STATE_FILE)
    if is_own:
        StateFile(state).read()
    else:
        replace_database(state, settings.database, is_trial=True)


def settle_users(connection: sql.Connection, instance: Path | None, users: dict[str, User], is_shared: bool) -> None:
    """Put the users where the server to come reads them.

    Args:
        connection: to the staged state.
        instance: the staged instance folder, whose file they go to; None: they go to the tables.
        users: of the backup's users file.
        is_shared: whether they were kept in a database, unless nobody ever changed any there.
    """
    is_told = is_shared and read_mark(connection) != NEVER_CHANGED
    if is_told:
        users = read_users(connection)
        if instance is not None:
            with UsersFile(instance).change() as found:
                found.clear()
                found.update(users)
            (instance / f"{USERS_FILE}.lock").unlink()
    forget_users(connection)
    if instance is None and (users or is_told):
        write_users(connection, {}, users)  # a mark too, so that no users file is taken over where nobody is left


def keep_present_trail(store: StateStore, present: Path) -> None:
    """Add the entries of the audit trail that is there now.

    The state that is there is read as it is: the restore is not decided yet.
    """
    if not present.exists():
        return
    try:
        with translate_errors():
            engine = make_engine(present, only_looks=True)
            with closing_engine(engine), engine.connect() as rows, store.write() as into:
                keep_trail(rows, into)
    except StateStoreError as error:  # what is replaced may be damaged
        log.warning("the audit trail that is replaced is lost", extra={"reason": error.message})
