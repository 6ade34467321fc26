"""What the registry lets go: it answers the requests that have it, then ends in a thread of its own."""

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from app.config.settings import Settings
from app.processes.threads import Inbox, start_thread
from app.registry.archive_loader import ArchiveLoader
from app.registry.model_entry import ModelEntry
from app.registry.version_slot import Attempt, describe_fault
from app.state.wanted import Key

log = logging.getLogger(__name__)


class Endings:
    """Ends what the registry lets go, each in a thread of its own, and counts what is ending of each version.

    When nothing of a version is ending any more, the thread of `inbox`, the registry's, calls `on_end`.

    Thread safety: all methods are for the registry's thread.
    """

    def __init__(
        self, settings: Settings, archives: ArchiveLoader, inbox: Inbox, on_end: Callable[[ModelEntry], None]
    ) -> None:
        self._longest_s = settings.prediction_timeout_ms / 1000
        self._archives = archives
        self._inbox = inbox
        self._on_end = on_end
        self.counts: Counter[Key] = Counter()
        self._waiting: list[ModelEntry] = []

    def add(self, entry: ModelEntry) -> None:
        """Let go what an entry holds at the next `begin`."""
        self.counts[entry.key] += 1
        self._waiting.append(entry)

    def begin(self) -> None:
        """Begin to end what was added; the table that requests read must no longer name it."""
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            if not start_thread("unload-model", partial(self._end, entry)):
                self._waiting.append(entry)  # at the next opportunity

    def drop(self, attempt: Attempt | None) -> None:
        """Want the result of an attempt, if any, no longer; one that starts a program counts as ending until it has."""
        if attempt is None:
            return
        attempt.is_dropped = True
        if attempt.program is not None:  # that may take minutes
            attempt.is_awaited = True
            self.counts[attempt.draft.key] += 1
            start_thread("abort-start", partial(self._archives.pools.abort, attempt.program))

    def note_end(self, attempt: Attempt) -> None:
        """Note that a dropped attempt has ended."""
        if attempt.is_awaited:
            self._note(attempt.draft)

    def _end(self, entry: ModelEntry) -> None:
        try:
            if entry.served is not None:
                entry.served.retire(self._longest_s)
            self._archives.let_go(entry)
        except Exception as error:  # noqa: BLE001  # whatever it is, the model is gone for us
            extra = {"model": entry.wanted.name, "version": entry.wanted.version, "reason": describe_fault(error)}
            log.error("model was not let go in order", extra=extra)
        self._inbox.post(self._note, entry)

    def _note(self, entry: ModelEntry) -> None:
        self.counts[entry.key] -= 1
        if not self.counts[entry.key]:
            del self.counts[entry.key]
            self._on_end(entry)
