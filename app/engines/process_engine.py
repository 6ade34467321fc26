"""Runs a framework's own engine in a process of its own, so that no worker that answers HTTP imports a framework.

The two ends speak over a socket pair: a line of JSON, then raw bytes. Nothing is pickled. A process that dies or
takes too long is ended, the caller gets an error, and the next call finds a new process.
"""

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from app.arrays import InputBatch, Scores
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.engines.base import build_engine
from app.errors import InferenceError, ModelProcessError, ScancerError
from app.manifest.model_manifest import ModelManifest, read_manifest

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120
MAX_HEADER_BYTES = 64 * 1024


def runs_natively(manifest: ModelManifest) -> bool:
    """Whether a model is served by its own framework; its manifest says so, and no program may."""
    return manifest.engine == "native"


class Channel:
    """One end of the socket pair: messages of a JSON header and an optional array."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._stream = connection.makefile("rwb")

    def send(self, header: dict[str, Any], array: np.ndarray[Any, Any] | None = None) -> None:
        """Send a header; an array's dtype and shape are added to it and its bytes follow."""
        if array is not None:
            header = {**header, "dtype": array.dtype.str, "shape": array.shape}
        self._stream.write(json.dumps(header).encode() + b"\n")
        if array is not None:
            self._stream.write(np.ascontiguousarray(array).data)
        self._stream.flush()

    def receive(self) -> tuple[dict[str, Any], np.ndarray[Any, Any] | None]:
        """Receive one message; raises `EOFError` when the other end is gone."""
        line = self._stream.readline(MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        header = json.loads(line)
        if "dtype" not in header:
            return header, None
        array = np.empty(header["shape"], dtype=np.dtype(header["dtype"]))
        if array.nbytes and self._stream.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise EOFError
        return header, array

    def close(self) -> None:
        """Close this end."""
        self._stream.close()
        self.connection.close()


class ProcessEngine:
    """An engine whose framework lives in a child process."""

    def __init__(self, folder: Path, manifest: ModelManifest, settings: Settings) -> None:
        self._folder = folder
        self._manifest = manifest
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    @property
    def process_id(self) -> int | None:
        """Of the child; None while there is none."""
        return self._process.pid if self._process else None

    def load(self) -> None:
        """Start the process and wait until its model is loaded.

        Raises:
            ModelProcessError: it could not start; the message is the child's own reason.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "app.engines.process_engine", str(theirs.fileno()), str(self._folder)]
        command += [self._manifest.framework, str(self._settings.inference_threads or 1)]
        self._process = subprocess.Popen(command, cwd=PROJECT_ROOT, pass_fds=(theirs.fileno(),))
        theirs.close()
        ours.settimeout(START_TIMEOUT_S)
        self._channel = Channel(ours)
        try:
            header, _ = self._channel.receive()
        except (OSError, EOFError) as error:
            self.close()
            raise ModelProcessError(f"the process of {self._manifest.framework} did not start") from error
        if "error" in header:
            self.close()
            raise ModelProcessError(header["error"])

    def infer(self, batch: InputBatch) -> Scores:
        """Send the batch to the process and wait for its scores.

        Raises:
            InferenceError: the model failed, its process died, or it took longer than `SCANCER_RESPONSE_TIMEOUT_S`.
        """
        try:
            if self._channel is None:
                self.load()
            assert self._channel is not None, "load() opens it"
            self._channel.connection.settimeout(self._settings.response_timeout_s)
            self._channel.send({}, batch)
            header, scores = self._channel.receive()
        except (OSError, EOFError, ValueError, ModelProcessError) as error:
            self.close()
            log.error("model process lost", extra={"model": self._manifest.name, "reason": repr(error)})
            raise InferenceError("The model's process failed; it is started anew for the next request.") from error
        if scores is None:
            raise InferenceError(header["error"])
        return scores

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def serve(descriptor: int, folder: Path, framework: str, threads: int) -> None:
    """The child's life: load, say so, then answer batches until the parent goes."""
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        engine = build_engine(framework, folder, read_manifest(folder), threads)
        engine.load()
    except ScancerError as error:
        channel.send({"error": error.message})
        return
    channel.send({"ready": True})
    while True:
        try:
            _, batch = channel.receive()
        except EOFError:
            return
        assert batch is not None, "the parent sends batches only"
        try:
            channel.send({}, engine.infer(batch))
        except InferenceError as error:
            channel.send({"error": error.message})


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
