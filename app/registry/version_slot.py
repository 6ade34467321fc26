"""What the registry keeps of one version: what is wanted of it, what answers, and the attempts to join both."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from app.errors import InferenceError, ScancerError
from app.handlers.handler_archive import HandlerArchive
from app.registry.model_entry import ModelEntry, State
from app.state.wanted import PlannedVersion

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
PAUSE_FACTOR = 10
"""A pause is at least this many times as long as the attempt took: a failing compilation takes a tenth of a core."""
MAX_REASON_LENGTH = 300


class SlowRoadError(Exception):
    """A version cannot be loaded at once: it must be compiled first, or its framework started."""


@dataclass(eq=False)
class Attempt:
    """One try to load or scale one version.

    The thread that tries writes `draft` and calls `tell`; the registry's thread reads what `tell` posts.

    Attributes:
        draft: the version's entry as far as the attempt has come.
        on_progress: posts a change of `draft` to the registry.
        is_quick: whether it takes a moment: nothing is compiled, and no process started.
        is_scaling: whether a running program gets other limits; it answers on if that fails.
        is_fresh: False for a repetition after a failure; the version then stays UNAVAILABLE meanwhile.
        is_dropped: whether nobody wants the result any more.
        is_awaited: whether the end of a dropped attempt is waited for.
        is_for_command: whether a command asks alone, and no caller: nobody would wait for a batch of a new size.
        program: the archive whose program the attempt starts, once it does.
        began_s: `time.monotonic()` of the beginning.
    """

    planned: PlannedVersion
    draft: ModelEntry
    on_progress: "Callable[[Attempt, ModelEntry], None]"
    is_quick: bool = False
    is_scaling: bool = False
    is_fresh: bool = True
    is_dropped: bool = False
    is_awaited: bool = False
    is_for_command: bool = False
    program: HandlerArchive | None = None
    began_s: float = field(default_factory=time.monotonic)

    def tell(self, reason: str) -> None:
        """Say how far the attempt is."""
        self.draft = replace(self.draft, reason=reason)
        self.on_progress(self, self.draft)


class VersionSlot:
    """One version in this worker.

    Attributes:
        planned: what is wanted.
        entry: what is published.
        tried: what the last attempt was for; None before the first.
        loaded_by: the attempt that `entry` came of.
        fault: why the last attempt failed; empty after one that did not.
        failures: how many failed in a row.
        is_eager: whether the model is loaded before a prediction asks for it.
        is_stale: whether the folder is another one than the last attempt read.
        is_leaving: whether the version is no longer wanted.

    Thread safety: for the registry's thread alone.
    """

    def __init__(self, planned: PlannedVersion) -> None:
        self.planned = planned
        self.entry = ModelEntry(planned.folder, planned.wanted, State.LOADING, "it is about to be loaded")
        self.tried: PlannedVersion | None = None
        self.attempt: Attempt | None = None
        self.loaded_by: Attempt | None = None
        self.fault = ""
        self.failures = 0
        self.is_eager = False
        self.is_stale = False
        self.is_leaving = False
        self._retry_at_s = 0.0

    @property
    def state(self) -> State:
        """How far this worker is with what is wanted: READY only if what answers is that."""
        if self.is_leaving:
            return State.UNLOADING
        if self.planned.wanted.is_loaded:
            if self.is_behind or (self.attempt is not None and self.attempt.is_fresh):
                return State.LOADING
            if self.fault:
                return State.UNAVAILABLE
        return self.entry.state

    @property
    def is_behind(self) -> bool:
        """Whether what is wanted now needs another attempt, though the last one may have succeeded."""
        tried, planned = self.tried, self.planned
        if tried is None or self.is_stale:
            return True
        if self.entry.served is not None:
            return not planned.wanted.is_loaded_as(tried.wanted) or (self.is_eager and not self.entry.is_in_memory)
        if planned.wanted.fault != tried.wanted.fault:
            return True
        return planned.list_pool_limits() != tried.list_pool_limits()

    @property
    def is_due(self) -> bool:
        """Whether the pause after a failure is over."""
        return bool(self.failures) and time.monotonic() >= self._retry_at_s

    def want(self, planned: PlannedVersion, is_changed: bool, is_eager: bool) -> None:
        """Note what is wanted now; with `is_eager` the version is loaded before a prediction asks for it."""
        self.is_stale |= is_changed or planned.wanted.token != self.planned.wanted.token
        self.is_eager |= is_eager
        self.planned = planned

    def takes(self, attempt: Attempt, entry: ModelEntry) -> bool:
        """Whether what an attempt loaded is still what is wanted."""
        wanted = self.planned.wanted
        is_as_wanted = entry.handler is not None or wanted.is_loaded_as(attempt.planned.wanted)
        return is_as_wanted and wanted.is_loaded and not self.is_stale

    def fail(self, attempt: Attempt, reason: str) -> None:
        """Note that an attempt failed, and when the next one is due."""
        self.failures += 1
        self.fault, self.is_eager = reason, True
        doubled_s: float = min(FIRST_PAUSE_S * 2 ** min(self.failures - 1, 10), LONGEST_PAUSE_S)
        now_s = time.monotonic()
        self._retry_at_s = now_s + max(doubled_s, PAUSE_FACTOR * (now_s - attempt.began_s))

    def renew(self) -> ModelEntry:
        """The entry with what is wanted now; the limits of a running program change only with its pool."""
        entry, archive = self.entry, self.entry.archive
        if archive is not None and entry.handler is None and not self.planned.wanted.fault:
            archive = self.planned.limit(archive)
        return replace(entry, wanted=self.planned.wanted, archive=archive)


def describe_fault(error: Exception) -> str:
    """Say in one line why an attempt failed."""
    if isinstance(error, InferenceError) and error.__cause__ is not None:
        return f"its first inference failed: {shorten(error.__cause__)}"
    if isinstance(error, ScancerError):
        return error.message
    if isinstance(error, MemoryError):
        return "there is not enough memory to load it"
    if isinstance(error, OSError) and error.strerror:
        return f"a file cannot be read: {error.strerror}"
    return shorten(error)


def shorten(error: BaseException) -> str:
    """Return the type and the beginning of the text of an error that is not ours."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_LENGTH]
