"""Opens the state store when there is one to open, or something to write into it."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from app.config.setting_types import OWN_DATABASE
from app.config.settings import Settings
from app.errors import OlderStateError, StateStoreError
from app.processes.disk_errors import translate_disk_errors
from app.state.state_file import StateFile
from app.state.wanted import WantedState

if TYPE_CHECKING:
    from app.state.state_store import StateStore

STATE_FILE = "state.db"
T = TypeVar("T")


class StoreAccess:
    """The way to the state store of a server.

    SQLite's file is made at the first change. SQLAlchemy is imported for a change, and to read another database.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_own = settings.database == OWN_DATABASE
        self._file = settings.instance / STATE_FILE
        self._lock = threading.Lock()
        self._store: StateStore | None = None

    def exists(self) -> bool:
        """Whether anything was ever changed, or may have been."""
        return self._store is not None or not self._is_own or self._file.exists()

    def read_generation(self) -> int:
        """Return the number of the last change, 0 if there never was one; raises `StateStoreError`."""
        return self._read(lambda reader: reader.read_generation()) if self.exists() else 0

    def read(self) -> WantedState:
        """Return all that is wanted; raises `StateStoreError`."""
        return self._read(lambda reader: reader.read()) if self.exists() else WantedState()

    def _read(self, read: "Callable[[StateFile | StateStore], T]") -> T:
        """Read the file, brought forward if need be, or the other database."""
        if self._is_own:
            with suppress(OlderStateError):
                return read(StateFile(self._file))
        return read(self.open())

    def open(self) -> "StateStore":
        """Return the store, made if need be; raises `StateStoreError` or `DiskFullError`."""
        from app.state.state_store import StateStore

        with self._lock:
            if self._store is None:
                with translate_disk_errors(StateStoreError, "the instance folder cannot be made"):
                    self._settings.instance.mkdir(parents=True, exist_ok=True)
                self._store = StateStore(self._file if self._is_own else self._settings.database)
            return self._store

    def append(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row to a table that nothing follows; raises `StateStoreError` or `DiskFullError`."""
        if self._is_own and self._store is None and self._file.exists() and StateFile(self._file).insert(table, row):
            return
        self.open().insert(table, row)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None
