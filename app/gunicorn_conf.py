"""How gunicorn runs the service; `gunicorn.conf.py` in the root hands it over."""

import ctypes
import gc
import logging
import logging.config
import os
import select
import sys
from typing import Any

from app.config.settings import HANDLERS_VARIABLE, PREFIX, Settings
from app.config.torchserve_properties import read_config
from app.errors import SettingsError, UsersError
from app.handlers.manager_folder import end_manager, find_folder, sweep
from app.logs import make_log_config
from app.server.instance_claim import claim_instance
from app.server.metrics_folder import MEMORY_FOLDER, MetricsFolder
from app.server.tls import load_context
from app.users import UsersFile

M_ARENA_MAX = -8  # malloc.h of glibc
EPOLL_WORKER = "app.server.gunicorn_worker.SharedPollWorker"


def make_config(settings: Settings) -> dict[str, Any]:
    """Make gunicorn's settings.

    Raises:
        SettingsError: a folder, or a file of TLS, cannot be used.
    """
    try:
        settings.instance.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"SCANCER_INSTANCE={settings.instance} cannot be written: {error.strerror}.") from error
    if not settings.models.is_dir():
        raise SettingsError(f"SCANCER_MODELS={settings.models} is not a folder.")
    ts_remarks = adopt_ts_config(settings)
    os.environ[HANDLERS_VARIABLE] = str(settings.instance / f"handlers-{os.getpid()}")
    return {
        "bind": [str(address) for address in settings.addresses],
        "workers": settings.workers,
        "threads": settings.threads,
        # Where the system has no epoll (macOS), gunicorn's own threads serve.
        "worker_class": EPOLL_WORKER if hasattr(select, "epoll") else "gthread",
        # A model or a framework that is loaded before the fork hangs in the children.
        "preload_app": False,
        "timeout": settings.request_timeout_s,
        "graceful_timeout": settings.stop_delay_s + settings.graceful_timeout_s,
        "keepalive": settings.keepalive_s,
        "backlog": 128,
        "limit_request_fields": 64,
        # Off: it would open a socket in the home folder of whoever starts the server.
        "control_socket_disable": True,
        # gunicorn's heartbeat files, which hold nothing.
        "worker_tmp_dir": str(MEMORY_FOLDER) if MEMORY_FOLDER.is_dir() else None,
        # Off: gunicorn's access log prints user names as they came. `app/api/request/observation.py` writes ours.
        "accesslog": None,
        "logconfig_dict": make_log_config(settings.log_level),
        "on_starting": on_starting,
        "post_fork": post_fork,
        "when_ready": lambda server: when_ready(server, ts_remarks),
        "on_reload": on_reload,
        "post_worker_init": post_worker_init,
        "worker_exit": worker_exit,
        "child_exit": child_exit,
        "on_exit": on_exit,
        **configure_tls(settings),
    }


def configure_tls(settings: Settings) -> dict[str, Any]:
    """Make gunicorn's settings of TLS, if it is wanted.

    Raises:
        SettingsError: the files cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return {}
    context = load_context(settings.tls_certificate, settings.tls_key)
    return {
        "certfile": str(settings.tls_certificate),
        "keyfile": str(settings.tls_key),
        "ssl_context": lambda _conf, _make_default: context,
    }


def adopt_ts_config(settings: Settings) -> list[str]:
    """Put what TorchServe's file gives into the environment; return what is to be said of its other keys.

    Workers read the environment when they start, at any time: they must not meet another file than the arbiter did.
    """
    if settings.ts_config is None:
        return []
    given, remarks = read_config(settings.ts_config, os.environ)
    for name, (_, text) in given.items():
        os.environ.setdefault(PREFIX + name.upper(), text)
    os.environ.pop(f"{PREFIX}TS_CONFIG", None)
    return remarks


def on_starting(server: Any) -> None:
    """Claim the instance folder, before anything is touched; a reload does not come here."""
    try:
        server.instance_claim = claim_instance(Settings.from_env())
    except SettingsError as error:
        sys.exit(f"scancer: {error.message}")
    except OSError as error:
        sys.exit(f"scancer: SCANCER_INSTANCE cannot be written: {error}")


def post_fork(server: Any, _worker: Any) -> None:
    """Leave the arbiter's locks to it: a worker that outlives it must not hold back the next server."""
    os.close(server.instance_claim)
    server.metrics_folder.leave()


def when_ready(server: Any, ts_remarks: list[str]) -> None:
    """Make the folder of metrics, and say what an operator should know of this start, also of TorchServe's file.

    Only here is it certain that no other server of these addresses uses the folder: they are bound. No worker is there
    yet, and a reload does not come here.
    """
    settings = Settings.from_env()
    try:
        server.metrics_folder = MetricsFolder(settings.instance)
    except OSError as error:
        sys.exit(f"scancer: the folder of metrics cannot be made: {error}")
    sweep(settings)
    log = logging.getLogger("app.start")
    for remark in ts_remarks:
        log.warning("a key of SCANCER_TS_CONFIG is not taken", extra={"reason": remark})
    if settings.programs != "off":
        log.warning("programs that come with models are run", extra={"reason": f"SCANCER_PROGRAMS={settings.programs}"})
    if settings.auth == "off":
        log.warning("nobody is asked for a password: SCANCER_AUTH=off")
        return
    try:
        users = UsersFile(settings.instance).read()
    except UsersError as error:
        log.error("nobody can log in", extra={"reason": error.message})
        return
    if not users:
        log.warning("there are no users, every request answers 401: run 'flask --app wsgi users add NAME'")


def on_reload(server: Any) -> None:
    """Tell the old workers that others take over."""
    if server.cfg.worker_class_str == EPOLL_WORKER:
        from app.server.gunicorn_worker import note_reload

        note_reload()


def post_worker_init(worker: Any) -> None:
    """Settle a worker that has loaded everything: what it counts, what it collects, logs and prints."""
    worker.count_refusal = worker.wsgi.extensions["scancer"].metrics.count_refusal
    # Modules and models live as long as the worker; looking through them again and again empties the caches.
    gc.collect()
    gc.freeze()
    # Our lines say nothing of these (Python's logging guide, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    share_heaps()
    silence_native_libraries()


def share_heaps() -> None:
    """Have all threads share two heaps where the C library is glibc, which would give every other thread its own.

    A heap keeps the room of the largest picture that was ever decoded in it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_ARENA_MAX, 2)


def silence_native_libraries() -> None:
    """Keep what C libraries print out of the log: libtiff writes bytes of damaged pictures to file descriptor 2.

    Python's own standard error, and with it the log, moves to a copy of the descriptor.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    logging.config.dictConfig(make_log_config(Settings.from_env().log_level))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def worker_exit(server: Any, worker: Any) -> None:
    """Let the worker's engines go, and with them the processes of natively run models."""
    if worker.wsgi is not None:
        services = worker.wsgi.extensions["scancer"]
        services.follower.close()
        services.registry.close()


def child_exit(server: Any, worker: Any) -> None:
    """Take a dead worker's gauges out of the sum; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no annotations


def on_exit(server: Any) -> None:
    """End the manager of handlers, if there is one, with all its processes, and the metrics; the workers have ended."""
    server.metrics_folder.remove()
    end_manager(find_folder(Settings.from_env()))
