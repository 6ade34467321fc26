"""An HTTP worker's side of the manager: connects to it, or starts it, and asks."""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.config import HANDLERS_VARIABLE, Settings
from app.errors import DeadlineError, ModelProcessError
from app.handlers.archive import HandlerArchive
from app.handlers.batch import WORKER_DIED, Answer, fail
from app.handlers.frames import SOCKET_FILE, BrokenMessageError, Channel, Message
from app.pipeline.patience import LATE, Patience
from app.setting_types import PROJECT_ROOT

log = logging.getLogger(__name__)

START_S, PAUSE_S = 30.0, 0.02
MAX_PATH_BYTES = 100  # sockaddr_un holds 108 on Linux, 104 on macOS
LOOK_S = 0.5
"""How often a waiting thread looks whether its caller has gone."""
LOST = (OSError, EOFError, BrokenMessageError)


class PoolClient:
    """Asks the manager of this server; there is one in each HTTP worker.

    The manager is started when it is first needed, and anew if it has died, with all models that were registered here.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = find_folder(settings)
        self._lock = threading.Lock()
        self._attachment: Channel | None = None
        self._manager: subprocess.Popen[bytes] | None = None
        self._registered: dict[str, HandlerArchive] = {}

    def register(self, archive: HandlerArchive) -> None:
        """Have a model's pool made, unless it is there, and wait until its workers are ready.

        Raises:
            ModelProcessError: a worker, or the manager, cannot be started; the message is the reason.
        """
        with self._lock:
            self._attach()
        reply = self._order({"operation": "register", **self._describe_archive(archive)})
        if "error" in reply:
            raise ModelProcessError(reply["error"])
        with self._lock:
            self._registered[make_key(archive)] = archive

    def scale(self, archive: HandlerArchive, **limits: float) -> None:
        """Change fields of the model's `PoolLimits` while it runs; returns when the workers are as asked.

        Raises:
            ModelProcessError: a new worker cannot be started, or the model has no pool.
        """
        reply = self._order({"operation": "scale", "key": make_key(archive), "limits": limits})
        if reply:
            raise ModelProcessError(reply.get("error", "the model has no pool"))

    def describe(self, archive: HandlerArchive) -> dict[str, Any]:
        """Return the model's workers and waiting requests; empty if it has no pool."""
        reply = self._order({"operation": "describe", "key": make_key(archive)})
        return {} if "no_worker" in reply else reply

    def unregister(self, archive: HandlerArchive) -> None:
        """End the model's pool."""
        with self._lock:
            if self._registered.pop(make_key(archive), None) is not None:
                self._order({"operation": "unregister", "key": make_key(archive)})

    def predict(
        self, archive: HandlerArchive, request: Mapping[str, Any], parts: Sequence[bytes], patience: Patience
    ) -> Answer | None:
        """Have a request answered.

        Args:
            archive: the model's.
            request: its `id`, its `headers`, and of each part `name` and `type`.
            parts: the bytes of the parts.
            patience: how long the caller waits.

        Returns:
            The answer; None if there is no worker, or too many requests wait.

        Raises:
            DeadlineError: the caller waits no longer.
        """
        message = {"operation": "predict", "key": make_key(archive), "request": request}
        reply = self._try_predict(message, parts, patience)
        if reply is None or "unknown" in reply.header:
            self._recover(archive)
            reply = self._try_predict(message, parts, patience)
        if reply is None or "answer" not in reply.header:
            return None
        return reply.header["answer"], reply.blobs[0]

    def close(self) -> None:
        """Let the manager go; it ends when no HTTP worker is left."""
        with self._lock:
            if self._attachment is not None:
                self._attachment.close()
                self._attachment = None

    def _try_predict(self, message: Mapping[str, Any], parts: Sequence[bytes], patience: Patience) -> Message | None:
        """Send a prediction and wait; return None if there is no manager to send it to."""
        try:
            channel = self._connect()
        except OSError:
            return None
        try:
            channel.send(message, parts)
            wait_for(channel.connection, patience)
            return channel.receive()
        except LOST as error:
            log.error("the manager of handlers is lost", extra={"reason": type(error).__name__})
            header, body = fail(500, WORKER_DIED)
            return Message({"answer": header}, [body])
        finally:
            channel.close()

    def _recover(self, archive: HandlerArchive) -> None:
        """Start the manager anew with everything that was registered, unless another thread has."""
        with self._lock:
            try:
                self._attach(is_new=True)
                for each in self._registered.values():
                    self._order({"operation": "register", **self._describe_archive(each)})
            except ModelProcessError as error:
                log.error("handlers cannot be run", extra={"model": archive.name, "reason": error.message})

    def _describe_archive(self, archive: HandlerArchive) -> dict[str, Any]:
        return {
            "key": make_key(archive),
            "archive": archive.to_json(),
            "memory_bytes": self._settings.handler_memory_bytes,
            "threads": self._settings.inference_threads or 1,
        }

    def _order(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message of management and wait for the reply; raises `ModelProcessError` if there is no manager."""
        try:
            channel = self._connect()
            try:
                channel.send(message)
                return channel.receive().header
            finally:
                channel.close()
        except LOST as error:
            raise ModelProcessError("the manager of handlers is lost") from error

    def _connect(self) -> Channel:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._folder / SOCKET_FILE))
        except OSError:
            connection.close()
            raise
        return Channel(connection)

    def _attach(self, is_new: bool = False) -> None:
        """Hold a connection, so that the manager stays; start it if there is none."""
        if self._attachment is not None and not is_new:
            return
        if len(os.fsencode(self._folder / SOCKET_FILE)) > MAX_PATH_BYTES:
            raise ModelProcessError(f"SCANCER_INSTANCE has a path that is too long for a socket: {self._folder}")
        deadline = time.monotonic() + START_S
        while True:
            try:
                channel = self._connect()
                channel.send({"operation": "attach"})
                channel.receive()
            except LOST as error:
                if time.monotonic() > deadline:
                    raise ModelProcessError("the manager of handlers does not start") from error
                if self._manager is None or self._manager.poll() is not None:
                    self._manager = self._start_manager()
                time.sleep(PAUSE_S)
            else:
                break
        if self._attachment is not None:
            self._attachment.close()
        self._attachment = channel

    def _start_manager(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "app.handlers.manager", str(self._folder), self._settings.log_level]
        return subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=find_log(), start_new_session=True)


def find_folder(settings: Settings) -> Path:
    """The folder of this server's manager: all workers of one gunicorn share it."""
    named = os.environ.get(HANDLERS_VARIABLE)
    return Path(named) if named else settings.instance / f"handlers-{os.getpid()}"


def find_log() -> int | None:
    """The descriptor that this process logs to; None for its standard error."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError):
        return None


def make_key(archive: HandlerArchive) -> str:
    """What the manager knows a model version by: one folder, one pool."""
    return str(archive.path)


def wait_for(connection: socket.socket, patience: Patience) -> None:
    """Wait until there is something to read; raises `DeadlineError` when the caller waits no longer."""
    while True:
        left_s = patience.until - time.perf_counter()
        if left_s <= 0:
            raise DeadlineError(LATE)
        connection.settimeout(min(LOOK_S, left_s))
        try:
            connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            patience.check_presence()
        else:
            connection.settimeout(None)
            return
