"""The folder of the workers' metrics: files that `prometheus_client` maps into memory.

Where such a file cannot grow, whoever writes into it is ended by SIGBUS, so the folder lies in memory: a full disk must
not end every worker. The arbiter holds a lock on it for as long as it lives; what a killed one left is found by that.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from app.config.settings import MULTIPROCESS_VARIABLE
from app.processes.locks import lock_folder

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  # the folder below it is of a new name, and its owner's alone
PREFIX = "scancer-metrics-"


class MetricsFolder:
    """The folder of one arbiter, or the one that its operator names; its path is in the environment.

    To be made before a worker starts: `prometheus_client` picks its multi-process mode when it is first imported.

    Args:
        fallback: where it lies on a system that has no folder in memory.
    """

    def __init__(self, fallback: Path) -> None:
        self._lock: int | None = None
        named = os.environ.get(MULTIPROCESS_VARIABLE, "")
        # One of our own names comes from the arbiter that USR2 lets this one replace.
        if named and not Path(named).name.startswith(PREFIX):
            self.path = Path(named)
            empty(self.path)
            return
        place = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK | os.X_OK) else fallback
        sweep(place)
        while self._lock is None:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            self._lock = lock_folder(self.path)  # None where another sweeps just now
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


def empty(folder: Path) -> None:
    """Make an operator's folder, without the totals of an earlier run, which would count again."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


def sweep(place: Path) -> None:
    """Remove this user's folders that no arbiter holds any more."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or another arbiter sweeps it
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = lock_folder(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
