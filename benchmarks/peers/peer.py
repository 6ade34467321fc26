"""A peer: another server, set up in its own environment and folder, started, asked and stopped."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.config.setting_types import PROJECT_ROOT
from benchmarks.server import sum_cpu_s

START_TIMEOUT_S, STOP_TIMEOUT_S = 120, 30
EAGER_FILES = ("eager_model.py", "torch_architectures.py", "model.toml", "model.safetensors")
"""What a server of a PyTorch model needs of ours."""


@dataclass(frozen=True)
class Case:
    """A model and a picture of it."""

    models: Path
    model: str
    pictures: tuple[Path, ...]
    """The first one is the load; all are compared."""

    @property
    def folder(self) -> Path:
        """The model's own folder."""
        return self.models / self.model / "1.0"


@dataclass(frozen=True)
class Setup:
    """What a peer is set up with."""

    environment: Path
    folder: Path
    """Its own, where it is started; empty at first."""
    ports: list[int]
    case: Case
    batch_size: int
    delay_ms: int

    def bin(self, name: str) -> Path:
        """A program of the environment."""
        return self.environment / "bin" / name

    def copy_files(self, *names: str) -> Path:
        """Lay out files of this package, of the engines and of the model; return where."""
        for name in names:
            homes = Path(__file__).parent, PROJECT_ROOT / "app/engines", self.case.folder
            shutil.copy(next(home / name for home in homes if (home / name).exists()), self.folder)
        return self.folder


@dataclass(frozen=True)
class Peer:
    """How a peer is started and asked."""

    distribution: str
    """Names it in the table, with its installed version."""
    command: Sequence[str | Path]
    path: str
    encode: Callable[[bytes], bytes] = bytes
    """Makes a request's body of a picture."""
    decode: Callable[[Any], dict[str, float]] = dict
    """Takes the probabilities out of an answer."""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/octet-stream"})
    settings: dict[str, str] = field(default_factory=dict)
    """Environment variables."""


class PeerServer:
    """A peer that runs, with the interface that `run_wrk` asks of a server."""

    def __init__(self, peer: Peer, process: subprocess.Popen[bytes], ports: list[int]) -> None:
        self.peer, self.process, self.ports = peer, process, ports

    def pids(self) -> list[int]:
        """Itself and all its descendants."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                queue += [int(child) for child in children.read_text().split()]
        return found

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return sum_cpu_s(self.pids())

    def ask(self, picture: bytes) -> dict[str, float]:
        """Send one picture."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[0]}{self.peer.path}",
            data=self.peer.encode(picture),
            headers=self.peer.headers,
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
            return self.peer.decode(json.loads(answer.read()))

    def stop(self) -> None:
        """Stop all of it; what does not stop when asked is killed."""
        pids = self.pids()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def start_peer(peer: Peer, setup: Setup, picture: bytes) -> Iterator[tuple[PeerServer, float]]:
    """Start a peer, wait for its first answer, and stop it in the end; yields it and the seconds it took."""
    log_file = setup.folder / "log"
    started = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            peer.command,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", **peer.settings},
            cwd=setup.folder,
            start_new_session=True,
        )
    server = PeerServer(peer, process, setup.ports)
    try:
        while True:
            try:
                server.ask(picture)
                break
            except (urllib.error.URLError, ConnectionError) as error:
                if process.poll() is not None or time.monotonic() > started + START_TIMEOUT_S:
                    raise RuntimeError(log_file.read_text()[-5000:]) from error
                time.sleep(0.05)
        yield server, time.monotonic() - started
    finally:
        server.stop()
