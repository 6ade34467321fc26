"""A gunicorn of its own for a measurement: free ports, one user, the shipped models."""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.config.setting_types import PROJECT_ROOT
from app.users import UsersFile

USER, PASSWORD = "benchmark", "a benchmark's password"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 60


def find_free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def sum_cpu_s(pids: list[int]) -> float:
    """User and system time that several processes have had so far, in seconds."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS_PER_S


class MeasuredServer:
    """Starts on entering, stops on leaving.

    Args:
        variables: of its environment, beside the settings.
        settings: by their names, in lower case and without `SCANCER_`.
    """

    def __init__(self, variables: Mapping[str, str] | None = None, **settings: str) -> None:
        self._variables = variables or {}
        self._settings = settings

    def __enter__(self) -> "MeasuredServer":
        self._folder = tempfile.TemporaryDirectory()
        UsersFile(Path(self._folder.name)).add(USER, "predict", PASSWORD)
        self.ports = find_free_ports(3)
        names = ("INFERENCE", "MANAGEMENT", "METRICS")
        environment = {f"SCANCER_{n}_ADDRESS": f"127.0.0.1:{p}" for n, p in zip(names, self.ports, strict=True)}
        environment |= {"SCANCER_INSTANCE": self._folder.name}
        environment |= {f"SCANCER_{name.upper()}": value for name, value in self._settings.items()}
        with (Path(self._folder.name) / "log").open("wb") as log:
            started = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "wsgi:app"],
                cwd=PROJECT_ROOT,
                env={**os.environ, **environment, **self._variables},
                stdout=log,
                stderr=log,
            )
        while self.request("GET", "/health/ready")[0] != 200:
            if time.monotonic() > started + START_TIMEOUT_S or self.process.poll() is not None:
                raise RuntimeError((Path(self._folder.name) / "log").read_text())
            time.sleep(0.01)
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self._folder.cleanup()

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection to the inference address."""
        return http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=60)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Send one request on a connection of its own; status 0 if nobody answers yet."""
        connection = self.connect()
        try:
            connection.request(method, path, body, make_headers())
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError:
            return 0, None
        finally:
            connection.close()

    def predict(self, model: str, body: bytes, count: int) -> None:
        """Send predictions on one connection, one after the other; drawn pictures are answered too."""
        connection = self.connect()
        for _ in range(count):
            connection.request("PUT", f"/predictions/{model}?unfit=answer", body, make_headers())
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"answered {response.status}")
        connection.close()

    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def cpu_s(self) -> float:
        """User and system time of all server processes so far, in seconds."""
        return sum_cpu_s([self.process.pid, *self.worker_pids()])

    def rss_bytes(self, pid: int) -> int:
        """Resident memory of a process."""
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_headers() -> dict[str, str]:
    """The header of Basic auth."""
    return {"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
