"""How gunicorn runs the service: its options, and what happens when the server and its workers start and end."""

import ctypes
import gc
import logging
import os
import select
import sys
from functools import partial
from typing import Any

import app.processes.shared_table  # noqa: F401  # made before the fork, so that the workers share it
from app.api.login.rate_limits import check_store
from app.config.setting_types import OWN_DATABASE
from app.config.settings import MIB, Settings
from app.errors import SettingsError, UsersError
from app.handlers.manager_folder import end_manager, find_folder, sweep
from app.logs import configure_logs, make_log_config
from app.processes.exposure import find_exposure
from app.routes import count_threads
from app.server.metrics_folder import (
    MEMORY_FOLDER,
    MetricsFolder,
    choose_label,
    find_memory_folder,
    forget_gauges,
    write_metrics_as,
)
from app.server.tls import load_context
from app.state.database_check import check_database, check_state_file
from app.state.store_access import STATE_FILE
from app.tracing import check_tracing
from app.upkeep.start_checks import check_start
from app.upkeep.swap import claim_restored
from app.users import UsersFile

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
LARGE_BLOCK_BYTES, KEPT_BYTES = 4 * MIB, 32 * MIB
"""Larger blocks go back to the system once they are free, as does what is free at the end of a heap beyond this."""
EPOLL_WORKER = "app.server.gunicorn_worker.SharedPollWorker"
WORKER_TIMEOUT_S, GRACE_S, KEEPALIVE_S = 60, 30, 5
"""Our values of gunicorn's options `--timeout`, `--graceful-timeout` (less the stop delay) and `--keep-alive`."""


def make_config(settings: Settings) -> dict[str, Any]:
    """Make gunicorn's options, and its hooks. Raises `SettingsError` if, at the start, a file of TLS cannot be used."""
    return {
        "bind": [str(address) for address in settings.addresses],
        "workers": settings.workers,
        "threads": count_threads(settings.threads),
        # Where the system has no epoll (macOS), gunicorn's own threads serve.
        "worker_class": EPOLL_WORKER if hasattr(select, "epoll") else "gthread",
        # A model or a framework that is loaded before the fork hangs in the children.
        "preload_app": False,
        "timeout": WORKER_TIMEOUT_S,
        "graceful_timeout": settings.stop_delay_s + GRACE_S,
        "keepalive": KEEPALIVE_S,
        "backlog": 2048,  # a flood of connections must not make a newcomer's first packet wait to be sent again
        "limit_request_fields": 64,
        # Only gunicorn's own threads would look; SCANCER_TRUSTED_PROXIES says whom to believe.
        "forwarded_allow_ips": "",
        # Off: it would open a socket in the home folder of whoever starts the server.
        "control_socket_disable": True,
        # gunicorn's heartbeat files, which hold nothing.
        "worker_tmp_dir": str(found) if (found := find_memory_folder()) else None,
        # Off: gunicorn's access log prints user names as they came. `app/api/request/observation.py` writes ours.
        "accesslog": None,
        "logconfig_dict": make_log_config(settings.log_level, settings.log_format),
        **configure_tls(settings),
        "on_starting": partial(on_starting, settings),
        "when_ready": partial(when_ready, settings),
        "on_reload": on_reload,
        "pre_fork": pre_fork,
        "post_fork": post_fork,
        "post_worker_init": partial(post_worker_init, settings),
        "worker_exit": worker_exit,
        "child_exit": child_exit,
        "on_exit": partial(on_exit, settings),
    }


def configure_tls(settings: Settings) -> dict[str, Any]:
    """Make gunicorn's options of TLS, if there is a certificate. Raises `SettingsError` as `load_context` does."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return {}
    context = load_context(settings.tls_certificate, settings.tls_key)
    return {
        "certfile": str(settings.tls_certificate),
        "keyfile": str(settings.tls_key),
        "ssl_context": lambda _conf, _make_default: context,
    }


def on_starting(settings: Settings, server: Any) -> None:
    """Check folders and database, and claim the instance folder, before anything else; a reload does not come here."""
    try:
        check_start(settings)
        check_folders(settings)
        server.instance_claim = claim_restored(settings)
        check_database(settings.database)
        if settings.database == OWN_DATABASE:
            check_state_file(settings.instance / STATE_FILE)
        check_store(settings.limits_store)
        check_tracing(os.environ)
    except SettingsError as error:
        sys.exit(f"scancer: {error.message}")


def check_folders(settings: Settings) -> None:
    """Make the instance folder, and check that the models' folder is there; raises `SettingsError` for either."""
    try:
        settings.instance.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"SCANCER_INSTANCE={settings.instance} cannot be written: {error.strerror}.") from error
    if not settings.models.is_dir():
        raise SettingsError(f"SCANCER_MODELS={settings.models} is not a folder.")


def when_ready(settings: Settings, server: Any) -> None:
    """Make the folder of metrics, import the code, and log what an operator should know of this start."""
    try:  # no other server of these addresses uses the folder: they are bound
        server.metrics_folder = MetricsFolder(settings.instance)
    except OSError as error:
        sys.exit(f"scancer: the folder of metrics cannot be made: {error}")
    sweep(settings)
    import_parts()
    log = logging.getLogger("app.start")
    if MEMORY_FOLDER.exists() and find_memory_folder() is None:
        reason = f"{MEMORY_FOLDER} cannot be written, or is nearly full"
        log.warning("the metrics lie on a disk, and workers end if it is full", extra={"reason": reason})
    for remark in settings.ts_remarks:
        log.warning("a key of SCANCER_TS_CONFIG counts in part or not at all", extra={"reason": remark})
    if settings.programs != "off":
        log.warning("programs that come with models are run", extra={"reason": f"SCANCER_PROGRAMS={settings.programs}"})
    far = [str(address) for address in settings.addresses if not address.is_loopback]
    if settings.trusted_proxies and far:
        reason = f"SCANCER_TRUSTED_PROXIES={settings.trusted_proxies}: let only proxies reach {', '.join(far)}"
        log.warning("whoever reaches the server is believed to be a proxy", extra={"reason": reason})
    if settings.auth == "off":
        log.warning("nobody is asked for a password: SCANCER_AUTH=off")
        return
    warn_of_users(settings, log)


def warn_of_users(settings: Settings, log: logging.Logger) -> None:
    """Log what an operator should know of the users."""
    users_file = UsersFile(settings.instance)
    if settings.database != OWN_DATABASE:
        if users_file.path.exists():
            reason = (
                f"SCANCER_DATABASE keeps the users. {users_file.path} is read only into a database that never had any; "
                "'flask users import' adds those of the file later. Move the file away to end this warning."
            )
            log.warning("the users file does not count", extra={"reason": reason})
        return
    try:
        users = users_file.read()
    except UsersError as error:
        log.error("nobody can log in", extra={"reason": error.message})
        return
    _, advice = find_exposure(users_file.path.stat().st_mode, users_file.path) if users else (False, "")
    if advice:
        log.warning("password hashes are for the server alone", extra={"reason": advice})
    if not users:
        log.warning("there are no users, every request answers 401: run 'flask users add NAME'")


def import_parts() -> None:
    """Import what every worker is made of, once. No framework is among it, and numpy ends its own threads at a fork."""
    import app.api.blueprints
    import app.api.login.worker_storage
    import app.cli
    import app.state.state_store
    import app.web.pages  # noqa: F401

    gc.freeze()  # a collection in a worker would write into what all share


def on_reload(server: Any) -> None:
    """Tell the old workers that others take over."""
    if server.cfg.worker_class_str == EPOLL_WORKER:
        from app.server.gunicorn_worker import note_reload

        note_reload()


def pre_fork(server: Any, worker: Any) -> None:
    """Choose where the new worker counts: where one that has ended did, so that the files become no more."""
    worker.metrics_label = choose_label({each.metrics_label for each in server.WORKERS.values()})


def post_fork(server: Any, worker: Any) -> None:
    """Leave the arbiter's locks to it: a worker that outlives it must not hold back the next server."""
    os.close(server.instance_claim)
    server.metrics_folder.leave()
    write_metrics_as(worker.metrics_label)


def post_worker_init(settings: Settings, worker: Any) -> None:
    """Settle a worker that has loaded everything: what it counts, what it collects, logs and prints."""
    worker.count_refusal = worker.wsgi.extensions["scancer"].metrics.count_refusal
    worker.is_streamed = worker.wsgi.router.is_streamed
    followed = worker.wsgi.extensions["scancer"].followed
    if settings.auth == "on":
        if followed is not None:
            followed.start()
        worker.is_known = worker.wsgi.extensions["authenticator"].knows
    # Modules and models live as long as the worker; looking through them again and again empties the caches.
    gc.collect()
    gc.freeze()
    # Our lines say nothing of these (Python's logging guide, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    bound_heaps()
    silence_native_libraries(settings)


def bound_heaps() -> None:
    """Keep glibc from holding on to memory: it would give every other thread a heap of its own, which keeps the room of
    the largest picture decoded in it, and take blocks as large as the largest one freed from these heaps.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def silence_native_libraries(settings: Settings) -> None:
    """Keep what C libraries print out of the log: libtiff writes bytes of damaged pictures to file descriptor 2.

    Python's own standard error, and with it the log, moves to a copy of the descriptor.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    configure_logs(settings.log_level, settings.log_format)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def worker_exit(server: Any, worker: Any) -> None:
    """Let the worker's engines go, and with them the processes of natively run models; then send its last spans."""
    if worker.wsgi is not None:
        services = worker.wsgi.extensions["scancer"]
        services.audit.close()
        if services.followed is not None:
            services.followed.close()
        services.follower.close()
        if (tracing := worker.wsgi.extensions["tracing"]) is not None:
            tracing.close()


def child_exit(_server: Any, worker: Any) -> None:
    """Take a dead worker's gauges out of the sums; its counters stay."""
    forget_gauges(worker.metrics_label)


def on_exit(settings: Settings, server: Any) -> None:
    """Remove the metrics, and end the manager of handlers with all its processes; the workers have ended."""
    server.metrics_folder.remove()
    end_manager(find_folder(settings))
