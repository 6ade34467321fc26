"""The shapes of TorchServe's management answers; the order of the keys is TorchServe's too."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.config import Settings
from app.repository.model_entry import ModelEntry, State
from app.repository.worker_reports import WorkerReport

MAX_PAGE = 100
FIRST_WORKER = 9000


def make_registered_list(entries: Sequence[ModelEntry], limit: int, token: int) -> dict[str, Any]:
    """A page of the list of models.

    Args:
        entries: the default version of every model, by name.
        limit: how many a page holds; one that is not allowed counts as 100.
        token: number of the first one.
    """
    limit, token = limit if 0 <= limit <= MAX_PAGE else MAX_PAGE, max(token, 0)
    last = token + limit
    page = {"nextPageToken": str(last)} if last <= len(entries) else {}
    models = [{"modelName": each.folder.name, "modelUrl": each.wanted.url} for each in entries[token:last]]
    return {**page, "models": models}


def make_registered(entry: ModelEntry, reports: Sequence[WorkerReport], settings: Settings) -> dict[str, Any]:
    """What TorchServe tells of a registered version."""
    wanted = entry.wanted
    batch = wanted.choose_batch(entry.manifest) if entry.manifest else None
    waiting = entry.served.waiting if entry.served else 0
    return {
        "modelName": wanted.name,
        "modelVersion": wanted.version,
        "modelUrl": wanted.url,
        "runtime": "python",
        "minWorkers": wanted.min_workers,
        "maxWorkers": wanted.max_workers,
        "batchSize": batch.max_size if batch else 1,
        "maxBatchDelay": round(batch.max_delay_ms) if batch else 0,
        "responseTimeout": wanted.response_timeout_s,
        "startupTimeout": wanted.startup_timeout_s,
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
        "workers": make_workers(entry, reports),
        "jobQueueStatus": {"remainingCapacity": settings.queue_size - waiting, "pendingRequests": waiting},
    }


def make_workers(entry: ModelEntry, reports: Sequence[WorkerReport]) -> list[dict[str, Any]]:
    """The processes that serve a version, at most as many as are wanted at most: every process of the server does."""
    label = "/".join(entry.key)
    serving = [report for report in reports if report.states.get(label) in (State.READY, State.UNLOADING)]
    return [
        {
            "id": str(FIRST_WORKER + number),
            "startTime": datetime.fromtimestamp(report.started, UTC).isoformat(timespec="milliseconds")[:23] + "Z",
            "status": report.states[label],
            "memoryUsage": measure_memory(report.pid),
            "pid": report.pid,
            "gpu": False,
            "gpuUsage": "N/A",
        }
        for number, report in enumerate(serving[: entry.wanted.max_workers])
    ]


def measure_memory(pid: int) -> int:
    """Resident bytes of a process; 0 where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
