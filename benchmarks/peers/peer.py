"""A peer: another server, set up in its own environment and folder, started, asked and stopped."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.config.setting_types import PROJECT_ROOT
from benchmarks.server import sum_cpu_s

START_TIMEOUT_S, STOP_TIMEOUT_S = 120, 30
LAST_LINES = 30
ENGINE = PROJECT_ROOT / "app/engines/pytorch"
NETWORK_FILES = ("torch_architectures.py", "torchvision_operators.py")
EAGER_FILES = ("eager_model.py", *NETWORK_FILES, "model.toml", "model.safetensors")
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
        """The folder of the model's newest version."""
        return max((self.models / self.model).iterdir())


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
        """Lay out files of this package, of PyTorch's engine and of the model; return where.

        A peer cannot import `app`, so the engine's files are changed to import each other from where they lie.
        """
        for name in names:
            home = ENGINE if name in NETWORK_FILES else Path(__file__).parent
            source = home / name if (home / name).exists() else self.case.folder / name
            shutil.copy(source, self.folder)
            if home == ENGINE:
                text = source.read_text(encoding="utf-8").replace("from app.engines.pytorch.", "from ")
                (self.folder / name).write_text(text, encoding="utf-8")
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

    def ask(self, picture: bytes, timeout_s: float = START_TIMEOUT_S) -> dict[str, float]:
        """Send one picture."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[0]}{self.peer.path}",
            data=self.peer.encode(picture),
            headers=self.peer.headers,
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return self.peer.decode(json.loads(answer.read()))

    def stop(self) -> None:
        """Ask all of its processes to end, and kill those that have not within `STOP_TIMEOUT_S`."""
        strays = set(self.pids())  # a process may have left the group
        ends = time.monotonic() + STOP_TIMEOUT_S
        signal_group(self.process.pid, signal.SIGTERM)
        while self.process.poll() is None and time.monotonic() < ends:
            time.sleep(0.05)
        while signal_group(self.process.pid, 0) and time.monotonic() < ends:
            time.sleep(0.05)
        signal_group(self.process.pid, signal.SIGKILL)
        for pid in strays - {self.process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a group of processes; return whether there is one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def start_peer(peer: Peer, setup: Setup, picture: bytes) -> Iterator[tuple[PeerServer, float]]:
    """Start a peer, wait for its first answer, and stop it in the end; yields it and the seconds it took.

    Raises:
        RuntimeError: the peer ended or gave no answer; the message holds the last lines of its log.
    """
    log_file = setup.folder / "log"
    started = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            peer.command,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(setup.folder), **peer.settings},
            cwd=setup.folder,
            start_new_session=True,
        )
    server = PeerServer(peer, process, setup.ports)
    try:
        wait_until_answered(server, log_file, picture)
        yield server, time.monotonic() - started
    finally:
        server.stop()


def wait_until_answered(server: PeerServer, log_file: Path, picture: bytes) -> None:
    """Ask until the first answer comes; see `start_peer`."""
    ends = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            server.ask(picture, max(1.0, ends - time.monotonic()))
            return
        except (OSError, http.client.HTTPException) as error:
            code = server.process.poll()
            if code is None and time.monotonic() < ends:
                time.sleep(0.05)
                continue
            what = f"gave no answer within {START_TIMEOUT_S} s ({error})" if code is None else f"ended with code {code}"
            lines = log_file.read_text(errors="replace").splitlines()[-LAST_LINES:]
            raise RuntimeError("\n".join([f"{server.peer.distribution} {what}; its log ends so:", *lines])) from error
