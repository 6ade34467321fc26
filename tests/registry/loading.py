"""Registries whose writer is the test's own thread."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.config.settings import Settings
from app.registry.model_entry import ModelEntry, State
from app.registry.model_registry import ModelRegistry
from app.repository.model_folder import find_model_folders
from app.state.wanted import WantedState, make_plan

WAIT_S = 120
MOVING = {State.LOADING.value, State.UNLOADING.value}


def follow_folders(registry: ModelRegistry, models: Path, *changed: tuple[str, str]) -> None:
    """Have a registry follow the folders as they are, and wait until it has; nobody wants anything else of them."""
    folders = find_model_folders(models) if models.is_dir() else []
    registry.apply(make_plan(folders, WantedState()), frozenset(changed))
    settle(registry)


def settle(registry: ModelRegistry, timeout_s: float = WAIT_S) -> None:
    """Work until nothing is being loaded or let go."""
    work_until(registry, lambda: not MOVING & set(registry.states().values()), timeout_s)


def work_until(registry: ModelRegistry, is_so: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Work until something is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, registry.states()
        registry.work(0.05)


def load_models(
    settings: Settings, on_change: Callable[[ModelEntry], None] = lambda _: None, **more: Any
) -> ModelRegistry:
    """A registry that has loaded every folder."""
    registry = ModelRegistry(settings, on_change, **more)
    follow_folders(registry, settings.models)
    return registry


def add_version(folder: Path, version: str, name: str | None = None) -> Path:
    """Copy a model folder to another version, or to another name and version."""
    target = folder.parent.parent / (name or folder.parent.name) / version
    shutil.copytree(folder, target)
    text = (target / "model.toml").read_text().replace(f'version = "{folder.name}"', f'version = "{version}"')
    text = text.replace(f'name = "{folder.parent.name}"', f'name = "{target.parent.name}"')
    (target / "model.toml").write_text(text)
    return target
