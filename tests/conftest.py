"""Fixtures: the first versions of the shipped models, an app with its client, and a real server on free ports."""

import atexit
import base64
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.users import USERS_FILE, UsersFile

USER, PASSWORD = "tester", "correct horse battery"
MANAGER, MANAGER_PASSWORD = "keeper", "staple horse battery"
DATA = PROJECT_ROOT.parent / "shared" / "data"
START_TIMEOUT_S = 60
TESTS = Path(__file__).parent
SLOW_FOLDERS = {"benchmarks", "compiling", "e2e", "engines", "golden"}
SLOW_FIXTURES = {"live", "pools", "serve_archives", "server", "shipped_server"}
"""Fixtures that start a server or the manager of handlers."""
SLOW_MODULE = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)
WORKER, WORKERS = (
    int(os.environ.get(f"PYTEST_XDIST_{name}", default).removeprefix("gw"))
    for name, default in (("WORKER", "gw0"), ("WORKER_COUNT", "1"))
)
PORTS = range(20_000 + WORKER, 32_000, WORKERS)
"""Each worker of pytest takes ports of its own, all below those that the kernel gives to outgoing connections."""
next_ports = islice(cycle(PORTS), random.randrange(len(PORTS)), None)
pytest_plugins = ["tests.handlers.fixtures"]


def is_slow(path: Path) -> bool:
    """Whether a whole file belongs to the slow tier."""
    return bool(SLOW_FOLDERS & set(path.relative_to(TESTS).parts) or SLOW_MODULE.search(path.read_text("utf-8")))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out unread what does not belong to a tier: many slow files import a framework."""
    if collection_path.suffix != ".py":
        return None
    tier = config.option.markexpr
    is_without = tier.split()[-2:] in (["alone"], ["and", "alone"]) and "mark.alone" not in collection_path.read_text(
        "utf-8"
    )
    return True if is_without or ("not slow" in tier and is_slow(collection_path)) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and put its files first: with short files at the end, all workers end at the same time."""
    for item in items:
        if is_slow(item.path) or SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def basic(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    """The header of HTTP Basic auth."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test's own with a short name: sockets lie in it, and their paths may have 107 bytes."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance folder with one user of each role."""
    folder = tmp_path_factory.mktemp("instance")
    UsersFile(folder).add(USER, "predict", PASSWORD)
    UsersFile(folder).add(MANAGER, "manage", MANAGER_PASSWORD)
    return folder


@pytest.fixture
def own_instance(instance: Path, tmp_path: Path) -> Path:
    """An instance folder with the same users, for a server of other models."""
    return copy_users(instance, tmp_path / "instance")


def copy_users(instance: Path, folder: Path) -> Path:
    """Make an instance folder with the users of another; its state stays, as a server may be writing it."""
    folder.mkdir()
    shutil.copy(instance / USERS_FILE, folder)
    return folder


@cache
def find_first_versions() -> Path:
    """A model repository with the versions 1.0 alone: they take any picture, so a test may draw its own."""
    folder = Path(tempfile.mkdtemp(prefix="scancer-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for version in (PROJECT_ROOT / "models").glob("*/1.0"):
        shutil.copytree(version, folder / version.parent.name / version.name)
    return folder


@pytest.fixture(scope="session")
def settings(instance: Path) -> Settings:
    """The default settings, but for the folders."""
    return Settings(instance=instance, models=find_first_versions())


@pytest.fixture(scope="session")
def app(settings: Settings) -> Flask:
    """An app with the first versions loaded."""
    return create_app(settings)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client without credentials; add `headers=basic()`."""
    return app.test_client()


@pytest.fixture(scope="session")
def pcam_example() -> bytes:
    """A drawn patch, PNG, 96x96 RGB."""
    return (PROJECT_ROOT / "models/pcam-classification/1.0/examples/synthetic-normal.png").read_bytes()


@pytest.fixture(scope="session")
def isic_example() -> bytes:
    """A drawn lesion, JPEG, 600x450 RGB."""
    return (PROJECT_ROOT / "models/isic-classification/1.0/examples/synthetic-benign.jpg").read_bytes()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pictures; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"the real pictures are not here: {DATA.relative_to(PROJECT_ROOT.parent)} is absent")
    return DATA


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model repository with a copy of pcam-classification/1.0, which a test may break."""
    folder = tmp_path / "models"
    shutil.copytree(find_first_versions() / "pcam-classification", folder / "pcam-classification")
    return folder


@pytest.fixture
def pcam(models: Path) -> Path:
    """The folder of the copied version."""
    return models / "pcam-classification/1.0"


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    """Wait until something is so; return whether it came to be in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more in this block, as when it has all the files that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def find_free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no other call of this session or of its other workers returns."""
    found: list[int] = []
    while len(found) < count:
        port = next(next_ports)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


@dataclass
class LiveServer:
    """A real gunicorn on free ports, perhaps run by another command, the `prefix`; stop it with `stop`."""

    instance: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    ports: list[int] = field(default_factory=lambda: find_free_ports(3))
    prefix: list[str] = field(default_factory=list)

    @property
    def inference(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def management(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.ports[2]}"

    def start(self, wait_for: str = "/health/ready") -> "LiveServer":
        """Start gunicorn as an operator would, and wait until a path answers 200."""
        self.launch()
        self.wait_until_answered(wait_for)
        return self

    def launch(self) -> None:
        """Start gunicorn and do not wait."""
        names = ("INFERENCE", "MANAGEMENT", "METRICS")
        addresses = {f"SCANCER_{n}_ADDRESS": f"127.0.0.1:{p}" for n, p in zip(names, self.ports, strict=True)}
        own = {"SCANCER_INSTANCE": str(self.instance), "SCANCER_STOP_DELAY_S": "0"}
        own["SCANCER_MODELS"] = str(find_first_versions())
        environment = {**os.environ, **own, **addresses, **self.environment}
        environment = {name: value for name, value in environment.items() if value or name not in addresses}
        with self.log.open("wb") as log:
            command = [*self.prefix, sys.executable, "-m", "gunicorn", "wsgi:app"]
            self.process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log)

    def wait_until_answered(self, path: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a path answers 200."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.inference + path, timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.05)
        raise AssertionError(f"not ready after {timeout_s} s:\n{self.log.read_text()}")

    def stop(self) -> None:
        """Stop gunicorn and wait."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture(scope="session")
def server(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A running server with two workers, shared by all tests that leave it as they found it."""
    live = LiveServer(instance, tmp_path_factory.mktemp("server") / "log", {"SCANCER_WORKERS": "2"})
    try:
        yield live.start()
    finally:
        live.stop()


@pytest.fixture(scope="session")
def shipped_server(tmp_path_factory: pytest.TempPathFactory, instance: Path) -> Iterator[LiveServer]:
    """A running server of all that ships, each model's newest version being the default."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copy(instance / USERS_FILE, folder)
    live = LiveServer(folder, folder / "log", {"SCANCER_WORKERS": "2", "SCANCER_MODELS": str(PROJECT_ROOT / "models")})
    try:
        yield live.start()
    finally:
        live.stop()


@pytest.fixture(scope="session")
def newman() -> str:
    """The path of newman."""
    found = shutil.which("newman", path=str(PROJECT_ROOT / "node_modules/.bin")) or shutil.which("newman")
    if found is None:
        pytest.skip("newman is absent: run 'npm install --no-save newman@6.2.2'")
    return found
