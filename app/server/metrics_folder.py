"""The folder of the workers' metrics: files that `prometheus_client` maps into memory.

A process that writes into such a file while the disk is full is ended by SIGBUS. So the folder lies in memory. The
arbiter holds a lock on it: a folder without a lock was left by an arbiter that was killed. A worker's files bear a
label, not its process number, so that the next worker counts on from there: no sum goes back.
"""

import os
import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from itertools import count
from pathlib import Path

from app.config.settings import METRICS_BEGINNING, MULTIPROCESS_VARIABLE
from app.processes.locks import try_lock

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  # the folder below it is of a new name, and its owner's alone
LEAST_BYTES = 4 * 1024 * 1024
"""Room that must be left in memory at the start."""
PREFIX = "scancer-metrics-"


class MetricsFolder:
    """The folder of one arbiter, or the one that its operator names; its path is in the environment.

    Make it before a worker starts: `prometheus_client` picks its multi-process mode when it is first imported. It lies
    in `fallback` on a system that has no folder in memory, or none that can be used.
    """

    def __init__(self, fallback: Path) -> None:
        self._lock: int | None = None
        named = os.environ.get(MULTIPROCESS_VARIABLE, "")
        # One of our own names comes from the arbiter that USR2 lets this one replace.
        if named and not Path(named).name.startswith(PREFIX):
            self.path = Path(named)
            self.path.mkdir(parents=True, exist_ok=True)
            for file in self.path.glob("*.db"):
                file.unlink(missing_ok=True)  # the totals of an earlier run, which would count again
            (self.path / METRICS_BEGINNING).touch()
            return
        place = find_memory_folder() or fallback
        sweep(place)
        while self._lock is None:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            self._lock = try_lock(self.path)  # None where another sweeps just now
        (self.path / METRICS_BEGINNING).touch()
        os.environ[MULTIPROCESS_VARIABLE] = str(self.path)

    def leave(self) -> None:
        """Leave the folder to the arbiter: a worker that outlives it must not seem to be one."""
        if self._lock is not None:
            os.close(self._lock)

    def remove(self) -> None:
        """Remove the folder, unless it is the operator's."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)


def find_memory_folder() -> Path | None:
    """Return the system's folder in memory; None if there is none, or it cannot be written, or is nearly full."""
    try:
        figures = os.statvfs(MEMORY_FOLDER)
    except OSError:
        return None
    has_room = figures.f_bavail * figures.f_frsize >= LEAST_BYTES and (figures.f_favail or not figures.f_files)
    return MEMORY_FOLDER if has_room and os.access(MEMORY_FOLDER, os.W_OK | os.X_OK) else None


def sweep(place: Path) -> None:
    """Remove this user's folders that no arbiter holds any more."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or another arbiter sweeps it
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = try_lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def choose_label(taken: Collection[str]) -> str:
    """Choose the label of a new worker's files: the first that is not taken by a living one."""
    return next(label for number in count(1) if (label := f"{os.getpid()}-{number}") not in taken)


def write_metrics_as(label: str) -> None:
    """Have this process write its metrics into the files with a label; call it before the first metric is made."""
    from prometheus_client import values

    forget_gauges(label)  # the last worker's, if the arbiter did not see it end
    values.ValueClass = values.MultiProcessValue(lambda: label)  # type: ignore[no-untyped-call]  # it has no annotations


def forget_gauges(label: str) -> None:
    """Remove the gauges of a worker that has ended: they say what is so, not what was."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(label)  # type: ignore[no-untyped-call]  # as above
