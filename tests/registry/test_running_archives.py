"""A program that runs answers on until another takes its place, whatever is wanted of it meanwhile."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config.settings import Settings
from app.handlers.manager_folder import end_manager
from app.registry.model_entry import State
from app.registry.model_registry import ModelRegistry
from app.repository.model_folder import find_model_folders
from app.state.wanted import Key, WantedState, WantedVersion, make_plan
from tests.handlers.archives import make_archive, make_config
from tests.registry.loading import settle, work_until

KEY = ("program", "1.0")
SLOW = "import time\ntime.sleep(1)\ndef handle(data, context):\n    return ['yes']\n"

pytestmark = pytest.mark.slow


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ModelRegistry]:
    """A registry whose writer is the test, with one program that is slow to start and takes one request more."""
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "i", programs="all")
    settings.instance.mkdir()
    files = {"slow.py": SLOW, "c.yaml": make_config(minWorkers=1, maxWorkers=1, jobQueueSize=1)}
    make_archive(settings.models, KEY[0], "slow.py", files, config_file="c.yaml")
    registry = ModelRegistry(settings)
    want(registry, settings.models, 1)
    settle(registry)
    yield registry
    registry.close()
    manager = registry.archives.pools.link.manager
    assert manager is not None
    end_manager(registry.archives.pools.link.folder)
    assert manager.wait(10) == 0


def want(registry: ModelRegistry, models: Path, workers: int, *changed: Key) -> None:
    wanted = WantedVersion(*KEY, url="program", min_workers=workers, max_workers=workers)
    plan = make_plan(find_model_folders(models), WantedState(workers, {KEY: wanted}))
    registry.apply(plan, frozenset(changed))


def replace_folder(models: Path, **files: str) -> None:
    """Put another archive into the place of the first, by one rename; `files` are written into it before."""
    others = models.parent / secrets.token_hex(4)
    other = make_archive(others / "models", KEY[0], "slow.py", {"slow.py": SLOW})
    for name, content in files.items():
        (other / name).write_text(content)
    (models / "program/1.0").rename(others / "before")
    other.rename(models / "program/1.0")


def test_pool_that_is_scaled_is_admitted_to_by_its_new_size(registry: ModelRegistry, tmp_path: Path) -> None:
    handler = registry.table.get("program").handler
    assert handler is not None
    assert handler.places == 2
    want(registry, tmp_path / "models", 3)
    settle(registry)
    assert (handler.places, registry.table.get("program").holds) == (4, handler)


def test_folder_that_is_replaced_while_its_pool_is_scaled_leaves_the_program_answering_meanwhile(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    running = registry.table.get("program").handler
    want(registry, tmp_path / "models", 2)
    replace_folder(tmp_path / "models")
    want(registry, tmp_path / "models", 2, KEY)

    def is_replaced() -> bool:
        handler = registry.table.get("program").handler
        assert handler is not None
        assert handler.enter(), "what the table names is not let go"
        handler.leave()
        return handler is not running

    work_until(registry, is_replaced)
    settle(registry)
    assert registry.table.get("program").state is State.READY


def test_folder_that_is_replaced_by_a_broken_one_is_unavailable_and_comes_back(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    replace_folder(tmp_path / "models", **{"MAR-INF/MANIFEST.json": "{"})
    want(registry, tmp_path / "models", 1, KEY)
    work_until(registry, lambda: registry.table.get("program").state is State.UNAVAILABLE)
    assert "MANIFEST.json" in registry.table.get("program").reason
    settle(registry)
    replace_folder(tmp_path / "models")
    want(registry, tmp_path / "models", 1, KEY)
    work_until(registry, lambda: registry.table.get("program").state is State.READY)
