"""Runs a framework's own engine in a process of its own, so that no worker that answers HTTP imports a framework.

The two ends exchange messages over a socket pair. A process that dies or takes too long is ended, the caller gets an
error, and the next call starts a new process.
"""

import hashlib
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.arrays import InputBatch, Scores
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.engines.base import Engine, build_engine
from app.errors import InferenceError, IntegrityError, ModelProcessError, ProcessStartError, ScancerError
from app.manifest.model_manifest import ModelManifest, read_manifest
from app.processes.confinement import describe_exit, make_environment
from app.processes.frames import LOST, Channel, Message
from app.processes.plain_files import hash_files

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120
END_S = 1.0


def runs_natively(manifest: ModelManifest) -> bool:
    """Whether a model is served by its own framework."""
    return manifest.engine == "native"


def _send_array(channel: Channel, array: NDArray[Any]) -> None:
    channel.send({"shape": array.shape}, [array.tobytes()])


def _read_array(message: Message, dtype: type[np.generic]) -> NDArray[Any]:
    return np.frombuffer(message.blobs[0], dtype).reshape(message.header["shape"])


class ProcessEngine:
    """An engine whose framework lives in a child process.

    A child reads the files anew. One that cannot load them, or finds others than `manifest` speaks of, answers nothing:
    `on_fault` is called with the error, and whoever is told closes this engine.
    """

    def __init__(
        self,
        folder: Path,
        manifest: ModelManifest,
        settings: Settings,
        on_fault: Callable[[Exception, float], None] = lambda *_: None,
    ) -> None:
        self._folder = folder
        self._on_fault = on_fault
        self._manifest = manifest
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    @property
    def process_id(self) -> int | None:
        """Of the child; None while there is none."""
        return self._process.pid if self._process else None

    def load(self) -> None:
        """Start the process and wait for its model; raises `ModelProcessError` with the child's reason if it fails."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "app.engines.process_engine", str(theirs.fileno()), str(self._folder)]
        command += [self._manifest.framework, str(self._settings.inference_threads or 1), identify(self._manifest)]
        self._process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=make_environment(), pass_fds=(theirs.fileno(),))
        theirs.close()
        ours.settimeout(START_TIMEOUT_S)
        self._channel = Channel(ours)
        try:
            header = self._channel.receive().header
        except LOST as error:
            raise ProcessStartError(
                f"the process of {self._manifest.framework} did not start: {self._describe_loss(error)}"
            ) from error
        if "error" in header:
            self.close()
            raise ModelProcessError(header["error"])

    def _describe_loss(self, error: Exception) -> str:
        """End the process, and say why it was lost."""
        assert self._process is not None, "load() starts it"
        try:
            if isinstance(error, TimeoutError):
                return f"it took longer than {START_TIMEOUT_S} s"
            return describe_exit(self._process.wait(END_S))  # its end of the socket closes a moment earlier
        except subprocess.TimeoutExpired:
            return f"its connection broke ({error!r})"
        finally:
            self.close()

    def infer(self, batch: InputBatch) -> Scores:
        """Send the batch to the process and wait for its scores.

        Raises `InferenceError` if the model failed, or its process died or took over `SCANCER_RESPONSE_TIMEOUT_S`.
        """
        try:
            if self._channel is None:
                self.load()
            assert self._channel is not None, "load() opens it"
            self._channel.connection.settimeout(self._settings.response_timeout_s)
            _send_array(self._channel, batch)
            reply = self._channel.receive()
            if "error" not in reply.header:
                return _read_array(reply, np.float32)
        except (*LOST, ValueError, ModelProcessError) as error:
            self.close()
            log.error("model process lost", extra={"model": self._manifest.name, "reason": repr(error)})
            if isinstance(error, ModelProcessError) and not isinstance(error, ProcessStartError):
                self._on_fault(error, 0.0)
            raise InferenceError("The model's process failed; it is started anew for the next request.") from error
        raise InferenceError(reply.header["error"])

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def identify(manifest: ModelManifest) -> str:
    """Return a text that differs between two manifests."""
    return hashlib.sha256(repr(manifest).encode()).hexdigest()


def load(folder: Path, framework: str, threads: int, identity: str) -> Engine:
    """Load the model whose manifest has this identity; raises `ModelFolderError`, for changed files too."""
    manifest = read_manifest(folder)
    engine = build_engine(framework, folder, manifest, threads)
    engine.load()
    if identify(manifest) != identity or hash_files(folder / manifest.artifact.file) != manifest.artifact.sha256:
        raise IntegrityError("its files were changed since it was loaded; they are being read again")
    return engine


def serve(descriptor: int, folder: Path, framework: str, threads: int, identity: str) -> None:
    """The child's life: load, say so, then answer batches until the parent goes."""
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        engine = load(folder, framework, threads, identity)
    except ScancerError as error:
        channel.send({"error": error.message})
        return
    channel.send({"ready": True})
    while True:
        try:
            batch = _read_array(channel.receive(), np.uint8)
        except EOFError:
            return
        try:
            _send_array(channel, engine.infer(batch))
        except InferenceError as error:
            channel.send({"error": error.message})


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
