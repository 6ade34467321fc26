"""The shapes of TorchServe's management answers; the order of the keys is TorchServe's too."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psutil

from app.config.settings import Settings
from app.registry.model_entry import ModelEntry, State, find_limits
from app.state.worker_reports import WorkerReport

MAX_PAGE = 100
FIRST_WORKER = 9000
READY = "READY"


def make_registered_list(entries: Sequence[ModelEntry], limit: int, token: int) -> dict[str, Any]:
    """Make a page of the list of default versions, from number `token` on; a `limit` out of range counts as 100."""
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


def make_workers(entry: ModelEntry, reports: Sequence[WorkerReport], most: int) -> list[dict[str, Any]]:
    """List the processes that serve a version, at most `most`; every process of the server serves every model."""
    label = "/".join(entry.key)
    serving = [report for report in reports if report.states.get(label) in (State.READY, State.UNLOADING)]
    return [make_worker(place, each.pid, each.started, each.states[label]) for place, each in enumerate(serving[:most])]


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
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
