"""The folder of a server's manager of handlers: its lock, its socket, and what is left when a manager was killed."""

import os
import shutil
import time
from contextlib import closing, suppress
from pathlib import Path

from app.config.settings import Settings
from app.processes.frames import LOST, SOCKET_FILE, connect
from app.processes.locks import is_held, try_lock

LOCK_FILE = "lock"
PREFIX = "handlers-"
END_S, PAUSE_S = 10.0, 0.02
SERVER_PID = os.getpid()
"""The process that imported this module first: gunicorn's arbiter, whose forked workers inherit the number."""


def find_folder(settings: Settings) -> Path:
    """Return the folder of this server's manager: all workers of one gunicorn share it."""
    return settings.instance / f"{PREFIX}{SERVER_PID}"


def take_lock(folder: Path) -> int | None:
    """Take the lock of a folder, made if need be; return its descriptor, None if another process has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return try_lock(folder / LOCK_FILE, makes_file=True)


def has_manager(folder: Path) -> bool:
    """Whether a manager has the folder."""
    return is_held(folder / LOCK_FILE)


def remove_unheld(folder: Path) -> None:
    """Remove a folder that no manager has."""
    lock = take_lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(settings: Settings) -> None:
    """Remove what managers left that were killed together with their servers."""
    for folder in settings.instance.glob(f"{PREFIX}*"):
        remove_unheld(folder)


def end_manager(folder: Path) -> None:
    """Have the manager end with all its processes, wait for that, and remove what a killed one left."""
    with suppress(*LOST), closing(connect(folder / SOCKET_FILE)) as channel:
        channel.send({"operation": "stop"})
    deadline = time.monotonic() + END_S
    while has_manager(folder) and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
    if folder.exists():
        remove_unheld(folder)
