"""What each worker process says of itself: the generation it has reached, and the state of each model in it.

A report is a small file in the instance folder. Its worker holds a lock on a second file for as long as it lives, so
that a dead worker's report is known at once, however it died, and is removed by whoever looks next.
"""

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.config.settings import MULTIPROCESS_VARIABLE
from app.errors import StateStoreError
from app.processes.atomic import write_file
from app.processes.locks import is_held, make_locked
from app.state.wanted import Key

FOLDER = "workers"
LOCK_SUFFIX, REPORT_SUFFIX = ".lock", ".json"


@dataclass(frozen=True)
class WorkerReport:
    """What a worker says.

    Attributes:
        started: seconds since 1970.
        generation: the last change that it follows; models that load slowly may still be loading.
        states: the state of each model by `name/version`.
        contents: what of the files answers, by `name/version`: two workers that say the same answer the same.
        metrics: the folder of the server's metrics; empty outside of a server.
    """

    pid: int
    started: float
    generation: int = -1
    states: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    metrics: str = ""


class ReportWriter:
    """Writes the reports of this process; raises `StateStoreError` if the instance folder cannot be written."""

    def __init__(self, instance: Path) -> None:
        self._folder = instance / FOLDER
        self._started, self._metrics = time.time(), os.environ.get(MULTIPROCESS_VARIABLE, "")
        self._last: WorkerReport | None = None
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._path, self._lock = self._folder / (name + REPORT_SUFFIX), self._folder / (name + LOCK_SUFFIX)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = make_locked(self._lock)
        except OSError as error:
            raise StateStoreError(f"{self._folder} cannot be written: {error.strerror}") from error

    def write(self, generation: int, states: dict[str, str], contents: dict[str, str]) -> None:
        """Say how far this worker is, if that is anything new; raises `StateStoreError` if it cannot be written."""
        report = WorkerReport(os.getpid(), self._started, generation, states, contents, self._metrics)
        if report == self._last:
            return
        try:
            write_file(self._path, json.dumps(asdict(report)))
        except OSError as error:
            raise StateStoreError(f"{self._folder} cannot be written: {error.strerror}") from error
        self._last = report

    def close(self) -> None:
        """Take the report back."""
        remove(self._lock)
        os.close(self._descriptor)


def read_reports(instance: Path) -> list[WorkerReport]:
    """The reports of all workers that live, by process number; those of dead ones are removed."""
    reports = []
    for lock in (instance / FOLDER).glob("*" + LOCK_SUFFIX):
        if not is_held(lock):
            remove(lock)
            continue
        try:
            reports.append(WorkerReport(**json.loads(lock.with_suffix(REPORT_SUFFIX).read_text(encoding="utf-8"))))
        except FileNotFoundError:  # it has only just begun
            reports.append(WorkerReport(int(lock.name.split("-")[0]), time.time()))
    return sorted(reports, key=lambda report: report.pid)


def find_ready(instance: Path) -> frozenset[Key]:
    """The versions that some worker of this server has READY."""
    states = [state for report in read_reports(instance) for state in report.states.items()]
    return frozenset(
        (name, version) for key, state in states if state == "READY" for name, _, version in [key.partition("/")]
    )


def remove(lock: Path) -> None:
    """Remove a worker's files, and the lock last, by which they are found."""
    for path in (*lock.parent.glob(f".{lock.stem}.*"), lock.with_suffix(REPORT_SUFFIX), lock):
        path.unlink(missing_ok=True)
