"""How gunicorn runs the service; `gunicorn.conf.py` in the root hands it over."""

import gc
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from app.config import Settings
from app.logs import make_log_config

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  # gunicorn's heartbeat files, which hold nothing


def make_config(settings: Settings) -> dict[str, Any]:
    """Make gunicorn's settings.

    Also names the folder of the workers' metrics in the environment: `prometheus_client` picks its multi-process mode
    when it is first imported, so this must come before.
    """
    folder = settings.instance / f"metrics-{settings.metrics_address.port}"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[MULTIPROCESS_VARIABLE] = str(folder)
    return {
        "bind": [str(address) for address in settings.addresses],
        "workers": settings.workers,
        "threads": settings.threads,
        "worker_class": "gthread",
        # A model or a framework that is loaded before the fork hangs in the children.
        "preload_app": False,
        "timeout": settings.request_timeout_s,
        "graceful_timeout": settings.graceful_timeout_s,
        "keepalive": settings.keepalive_s,
        "backlog": 128,
        "limit_request_fields": 64,
        # Off: it would open a socket in the home folder of whoever starts the server.
        "control_socket_disable": True,
        "worker_tmp_dir": str(MEMORY_FOLDER) if MEMORY_FOLDER.is_dir() else None,
        # Off: gunicorn's access log prints user names as they came. `app/api/observation.py` writes ours.
        "accesslog": None,
        "logconfig_dict": make_log_config(settings.log_level),
        "on_starting": on_starting,
        "when_ready": when_ready,
        "post_worker_init": post_worker_init,
        "child_exit": child_exit,
    }


def on_starting(server: Any) -> None:
    """Empty the folder of metrics: totals of an earlier run would count again. A reload does not come here."""
    folder = Path(os.environ[MULTIPROCESS_VARIABLE])
    shutil.rmtree(folder)
    folder.mkdir()


def when_ready(server: Any) -> None:
    """Say what an operator should know of this start."""
    from app.api.users import UsersFile

    settings = Settings.from_env()
    log = logging.getLogger("app.start")
    if not UsersFile(settings.instance).read():
        log.warning("there are no users, every request answers 401: run 'flask --app wsgi users add NAME'")


def post_worker_init(worker: Any) -> None:
    """Take what was made at the start out of the garbage collector's rounds.

    Modules and models live as long as the worker; looking through them again and again empties the processor's caches.
    """
    gc.collect()
    gc.freeze()


def child_exit(server: Any, worker: Any) -> None:
    """Take a dead worker's gauges out of the sum; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no annotations
