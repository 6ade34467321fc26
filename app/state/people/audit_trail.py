"""The audit trail: who signed in, failed to, or changed what, in a table that only grows, and in the log."""

import logging
import queue
import secrets
import threading
import time
from dataclasses import asdict, dataclass, field

from app.errors import DiskFullError, StateStoreError
from app.state import schema
from app.state.store_access import StoreAccess

log = logging.getLogger("app.audit")

MAX_WAITING = 10_000
"""Entries that may wait for a database that is away; the log has those beyond it."""
RETRY_S, CLOSE_S = 1.0, 5.0
WIDTHS = {column.name: column.length for column in schema.TABLES[schema.AUDIT]}


@dataclass(frozen=True)
class AuditEntry:
    """One entry.

    Attributes:
        actor: a user of the API; `system:name` for a user of the machine who ran a command; empty for nobody known.
        action: what was done, in words of this project.
        subject: on what, e.g. a model and its version: neither a picture, nor a file name, nor a secret.
        client: the caller's address; empty for a command.
        at_ms: when, in milliseconds since 1970.
        id: 32 hexadecimal digits: the time in nanoseconds, which orders entries of one millisecond, then chance.
    """

    actor: str
    action: str
    subject: str = ""
    client: str = ""
    at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    id: str = field(default_factory=lambda: f"{time.time_ns():016x}{secrets.token_hex(8)}")


class AuditTrail:
    """Writes entries and reads them.

    Thread safety: all methods may be called from any thread and any process.
    """

    def __init__(self, access: StoreAccess) -> None:
        self._access = access
        self._waiting: queue.Queue[AuditEntry] = queue.Queue(MAX_WAITING)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, entry: AuditEntry) -> None:
        """Log an entry now, and write it soon: whoever asks does not wait for the database."""
        extra = {"event": "audit", "user": entry.actor, "action": entry.action}
        log.info("audit", extra=extra | {"subject": entry.subject, "client": entry.client})
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            log.error(
                "an entry of the audit trail is in the log alone", extra={"reason": "too many wait to be written"}
            )
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="write-audit", daemon=True)
                self._thread.start()

    def write(self, entry: AuditEntry) -> None:
        """Write an entry; raises `StateStoreError` or `DiskFullError`."""
        row = asdict(entry)
        self._access.append(schema.AUDIT, {name: cut(name, value) for name, value in row.items()})

    def read(self, since_ms: int = 0, actor: str | None = None) -> list[AuditEntry]:
        """Return the entries since a time, of one actor or all, from old to new; raises `StateStoreError`."""
        import sqlalchemy as sql

        from app.state.sql_tables import tables

        table = tables[schema.AUDIT]
        query = sql.select(table).where(table.c.at_ms >= since_ms).order_by(table.c.at_ms, table.c.id)
        if actor is not None:
            query = query.where(table.c.actor == actor)
        with self._access.open().look() as connection:
            return [AuditEntry(**row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        """Write what waits, if that takes no longer than `CLOSE_S`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        is_away = False
        while not (self._stop.is_set() and (is_away or self._waiting.empty())):
            try:
                entry = self._waiting.get(timeout=0.1)
            except queue.Empty:
                continue
            while True:
                try:
                    self.write(entry)
                except (StateStoreError, DiskFullError) as error:
                    if not is_away:
                        log.error("the audit trail waits", extra={"reason": error.message})
                    is_away = True
                else:
                    if is_away:
                        log.info("the audit trail is written again")
                    is_away = False
                if not is_away or self._stop.wait(RETRY_S):
                    break
        if left := self._waiting.qsize() + is_away:
            log.error("entries of the audit trail are in the log alone", extra={"reason": f"{left} were not written"})


def cut(name: str, value: str | int) -> str | int:
    """Cut a text to the width of its column, without what a database may refuse for ever."""
    if not isinstance(value, str):
        return value
    return value.encode(errors="replace").decode().replace("\0", "")[: WIDTHS[name]]
