"""The shapes of TorchServe's management answers; the order of the keys is TorchServe's too."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.config.settings import Settings
from app.errors import ModelFolderError
from app.handlers.handler_archive import TORCHSERVE_LIMITS, PoolLimits
from app.manifest.model_specs import BatchSpec
from app.registry.archive_loader import make_default_limits
from app.registry.model_entry import ModelEntry, State
from app.repository.model_folder import ModelFolder
from app.state.worker_reports import WorkerReport

MAX_PAGE = 100
FIRST_WORKER = 9000
READY = "READY"


def make_registered_list(entries: Sequence[ModelEntry], limit: int, token: int) -> dict[str, Any]:
    """Make a page of the list of models.

    Args:
        entries: the default version of every model, by name.
        limit: most models of a page; a number that is not allowed counts as 100.
        token: number of the page's first model.
    """
    limit, token = limit if 0 <= limit <= MAX_PAGE else MAX_PAGE, max(token, 0)
    last = token + limit
    page = {"nextPageToken": str(last)} if last <= len(entries) else {}
    models = [{"modelName": each.folder.name, "modelUrl": each.wanted.url} for each in entries[token:last]]
    return {**page, "models": models}


def make_registered(entry: ModelEntry, reports: Sequence[WorkerReport], settings: Settings) -> dict[str, Any]:
    """Describe a registered version as TorchServe does."""
    wanted, limits = entry.wanted, find_limits(entry, settings)
    pool = entry.handler.describe() if entry.handler else {}
    waiting = pool.get("waiting", 0) + (entry.served.waiting if entry.served else 0)
    is_program = entry.served is None and (entry.archive is not None or entry.folder.is_archive)
    workers = make_handler_workers(pool) if is_program else make_workers(entry, reports, limits.max_workers)
    return {
        "modelName": wanted.name,
        "modelVersion": wanted.version,
        "modelUrl": wanted.url,
        "runtime": "python",
        "minWorkers": limits.min_workers,
        "maxWorkers": limits.max_workers,
        "batchSize": limits.batch_size,
        "maxBatchDelay": limits.max_batch_delay_ms,
        "responseTimeout": round(limits.response_timeout_s),
        "startupTimeout": round(limits.startup_timeout_s),
        "maxRetryTimeoutInSec": 300,
        "clientTimeoutInMills": 0,
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "cpu",
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": False,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
        "loadedAtStartup": wanted.token is None,
        "workers": workers,
        "jobQueueStatus": {
            "remainingCapacity": (limits.queue_size if is_program else settings.queue_size) - waiting,
            "pendingRequests": waiting,
        },
    }


def find_limits(entry: ModelEntry, settings: Settings) -> PoolLimits:
    """Find workers, batches and times of a version.

    In order of precedence: the running archive, the registration's parameters, the manifest, the settings.
    """
    if entry.archive is not None:
        return entry.archive.limits
    wanted = entry.wanted
    if entry.folder.is_archive:
        return replace(read_limits(entry.folder, settings), **wanted.list_pool_limits())  # type: ignore[arg-type]  # by name
    batch = wanted.choose_batch(entry.manifest) if entry.manifest else BatchSpec(1, 0.0)
    return PoolLimits(
        wanted.min_workers,
        wanted.max_workers,
        batch.max_size,
        round(batch.max_delay_ms),
        wanted.response_timeout_s or settings.response_timeout_s,
        wanted.startup_timeout_s or TORCHSERVE_LIMITS.startup_timeout_s,
        settings.queue_size,
    )


def read_limits(folder: ModelFolder, settings: Settings) -> PoolLimits:
    """Read the limits of an archive without workers; the settings' where it has none or cannot be read."""
    default = make_default_limits(settings)
    try:
        return folder.read_archive(default).limits
    except ModelFolderError:
        return default


def make_workers(entry: ModelEntry, reports: Sequence[WorkerReport], most: int) -> list[dict[str, Any]]:
    """List the processes that serve a version, at most `most`; every process of the server serves every model."""
    label = "/".join(entry.key)
    serving = [report for report in reports if report.states.get(label) in (State.READY, State.UNLOADING)]
    return [
        make_worker(number, report.pid, report.started, report.states[label])
        for number, report in enumerate(serving[:most])
    ]


def make_handler_workers(pool: dict[str, Any]) -> list[dict[str, Any]]:
    """List the processes of an archive's handler that exist; one that is not ready is UNLOADING, as in TorchServe."""
    return [
        make_worker(
            each["id"] - 1, each["pid"], each["started_at"], State.READY if each["state"] == READY else State.UNLOADING
        )
        for each in pool.get("workers", ())
        if each["pid"] is not None
    ]


def make_worker(number: int, pid: int, started: float, status: str) -> dict[str, Any]:
    """Describe a process that serves a version as TorchServe does; `started` is in seconds since 1970."""
    return {
        "id": str(FIRST_WORKER + number),
        "startTime": datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds")[:23] + "Z",
        "status": status,
        "memoryUsage": measure_memory(pid),
        "pid": pid,
        "gpu": False,
        "gpuUsage": "N/A",
    }


def measure_memory(pid: int) -> int:
    """Measure the resident bytes of a process; 0 where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
