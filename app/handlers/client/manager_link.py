"""An HTTP worker's hold on the manager: starts it when it is needed, and anew when it has died."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import DeadlineError, ModelProcessError
from app.handlers.manager_folder import find_folder, has_manager
from app.pipeline.patience import ENDLESS, LATE, Patience
from app.processes.frames import LOST, SOCKET_FILE, Channel, connect
from app.processes.turns import give_way

log = logging.getLogger(__name__)

START_S, PAUSE_S, RETRY_S = 30.0, 0.02, 1.0
MAX_PATH_BYTES = 100  # sockaddr_un holds 108 on Linux, 104 on macOS


class ManagerLink:
    """Keeps a connection open by which the manager knows that this HTTP worker is there, and the other way round.

    `client` is the name that this HTTP worker has there; `list_orders` returns what a new manager must be told.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, settings: Settings, client: str, list_orders: Callable[[], list[dict[str, Any]]]) -> None:
        self._settings = settings
        self._client = client
        self._list_orders = list_orders
        self.folder = find_folder(settings)
        self.manager: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._attachment: Channel | None = None
        self._watcher: threading.Thread | None = None
        self._is_closed = threading.Event()

    def connect(self) -> Channel:
        """Connect to the manager; raises `OSError` if there is none."""
        return connect(self.folder / SOCKET_FILE)

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and return the reply; raises what is in `LOST` if there is no manager."""
        give_way()
        with closing(self.connect()) as channel:
            channel.send(message)
            return channel.receive().header

    def revive(self, patience: Patience = ENDLESS) -> None:
        """Attach to a manager that knows what was registered here; start one if there is none. Raises
        `ModelProcessError` if it cannot be started, `DeadlineError` if others were at it for too long.
        """
        if not patience.acquire(self._lock):
            raise DeadlineError(LATE)
        try:
            if self._is_closed.is_set() or (self._attachment is not None and not self._attachment.is_at_end()):
                return
            self._drop_attachment()
            self._attachment = self._attach()
            self.tell_all()
        finally:
            self._lock.release()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="watch-manager", daemon=True)
            self._watcher.start()

    def tell_all(self) -> None:
        """Have the manager know all that was registered here; raises `ModelProcessError` if there is none."""
        try:
            self.ask({"operation": "restore", "orders": self._list_orders()})
        except LOST as error:
            raise ModelProcessError("the manager of handlers is lost") from error

    def close(self) -> None:
        """Let the manager go."""
        self._is_closed.set()
        with self._lock:
            if self._attachment is not None:
                self._attachment.shut_down()
        if self._watcher is not None:
            self._watcher.join()
        self._drop_attachment()

    def _drop_attachment(self) -> None:
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None

    def _watch(self) -> None:
        """Have a manager that died replaced, also if no request comes meanwhile."""
        while not self._is_closed.is_set():
            attachment = self._attachment
            if attachment is not None:
                attachment.wait_for_end()
            try:
                self.revive()
            except ModelProcessError as error:
                log.error("handlers cannot be run", extra={"reason": error.message})
                self._is_closed.wait(RETRY_S)

    def _attach(self) -> Channel:
        if len(os.fsencode(self.folder / SOCKET_FILE)) > MAX_PATH_BYTES:
            raise ModelProcessError(f"SCANCER_INSTANCE has a path that is too long for a socket: {self.folder}")
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self._introduce()
            except LOST as error:
                if time.monotonic() > deadline or self._is_closed.is_set():
                    if self.manager is not None:  # nobody else knows of it yet
                        self.manager.terminate()
                    raise ModelProcessError("the manager of handlers does not start") from error
                self._start_unless_started()
                time.sleep(PAUSE_S)

    def _introduce(self) -> Channel:
        """Connect to the manager, and have it know that this HTTP worker is there for as long as the connection is."""
        channel = self.connect()
        try:
            channel.send({"operation": "attach", "client": self._client})
            channel.receive()
        except LOST:
            channel.close()
            raise
        return channel

    def _start_unless_started(self) -> None:
        """Start a manager unless one has the folder, here or in another HTTP worker."""
        if (self.manager is None or self.manager.poll() is not None) and not has_manager(self.folder):
            module = "app.handlers.manager.pool_manager"
            logs = self._settings.log_level, self._settings.log_format
            command = [sys.executable, "-m", module, str(self.folder), *logs]
            self.manager = subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=find_log(), start_new_session=True)


def find_log() -> int | None:
    """The descriptor that this process logs to; None for its standard error."""
    with suppress(OSError, ValueError):
        return sys.stderr.fileno()
    return None
