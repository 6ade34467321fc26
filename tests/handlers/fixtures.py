"""A client of a manager of its own, which has ended when the test is over."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import create_app
from app.config.settings import MIB, Settings
from app.handlers.client.pool_client import PoolClient
from app.handlers.handler_answers import Answer
from app.handlers.handler_archive import HandlerArchive, read_archive
from app.handlers.manager_folder import end_manager
from app.pipeline.patience import Patience
from app.registry.model_entry import State
from app.users import USERS_FILE
from tests.handlers.archives import make_archive, make_config

Ask = Callable[..., Answer | None]
ServeArchives = Callable[..., Flask]


@pytest.fixture(scope="module")
def serve_archives(tmp_path_factory: pytest.TempPathFactory, instance: Path) -> Iterator[ServeArchives]:
    """Serve a model repository of archives, programs and all unless the settings say otherwise; each has settled."""
    apps: list[Flask] = []

    def start(models: Path, **settings: Any) -> Flask:
        folder = tmp_path_factory.mktemp("i")
        shutil.copy(instance / USERS_FILE, folder)
        app = create_app(Settings(models=models, instance=folder, **{"programs": "all", **settings}))
        apps.append(app)
        registry = app.extensions["scancer"].registry
        deadline = time.monotonic() + 120
        while any(entry.state is State.LOADING for entry in registry.entries()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return app

    yield start
    for app in apps:
        follower = app.extensions["scancer"].follower
        follower.close()
        pools = follower.registry.archives.pools
        if pools.link.manager is not None:  # else all were compiled
            end_manager(pools.link.folder)
            assert pools.link.manager.wait(10) == 0


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[PoolClient]:
    client = PoolClient(Settings(instance=tmp_path / "i", model_memory_bytes=1024 * MIB))
    yield client
    client.close()
    end_manager(client.link.folder)
    assert not client.link.folder.exists()
    if client.link.manager is not None:
        # The one that a test killed, if the client was closed before it had another.
        assert client.link.manager.wait(10) in (0, -signal.SIGTERM, -signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path, pools: PoolClient) -> Callable[..., HandlerArchive]:
    """Make an archive of one handler without a model, and have its pool started."""

    def start_pool(code: str, name: str = "m", **config: Any) -> HandlerArchive:
        files: dict[str, str | bytes] = {"handler.py": code, "config.yaml": make_config(**config)}
        folder = make_archive(tmp_path / "models", name, "handler.py", files, config_file="config.yaml")
        archive = read_archive(folder, name, "1.0")
        pools.register(archive)
        return archive

    return start_pool


@pytest.fixture
def ask(pools: PoolClient) -> Ask:
    """Ask a pool; the body is text. What the answer tells of times is left out."""

    def ask_pool(archive: HandlerArchive, text: str = "", timeout_s: float = 30) -> Answer | None:
        request = {"id": "id-1", "headers": {}, "parts": [{"name": "body", "type": "text/plain"}]}
        answer = pools.predict(archive, request, [text.encode()], Patience(time.perf_counter() + timeout_s))
        if answer is None:
            return None
        return {name: value for name, value in answer[0].items() if name not in ("queue_s", "handler_s")}, answer[1]

    return ask_pool


def has_ended(process: int) -> bool:
    """Whether a process ends within a moment; one that nobody has waited for counts as ended."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    os.kill(process, 9)
    return False
