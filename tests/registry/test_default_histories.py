"""Versions that come, break, are repaired and go, in any order: which of them answers who names none."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.config.settings import Settings
from app.registry.model_changes import ModelChanges
from app.registry.model_entry import State
from app.registry.model_follower import ModelFollower
from app.registry.model_registry import ModelRegistry
from app.repository.model_folder import find_model_folders
from app.state.store_access import StoreAccess
from tests.conftest import within
from tests.registry.test_model_follower import NAME

pytestmark = pytest.mark.slow

HISTORIES = {
    "a newer one comes": ["put 1.0; start: 1.0", "put 1.1: 1.0", "restart: 1.0"],
    "a broken one comes and is repaired": ["put 1.0; start: 1.0", "spoil 1.1: 1.0", "put 1.1: 1.0", "restart: 1.0"],
    "a broken one is there at the start": ["put 1.0; spoil 1.1; start: 1.0", "put 1.1: 1.0", "restart: 1.0"],
    "a good and a broken one come at once": ["start:", "put 1.0; spoil 1.1: 1.0", "put 1.1: 1.0", "restart: 1.0"],
    "it is repaired while no server runs": ["put 1.0; spoil 1.1; start: 1.0", "stop; put 1.1; start: 1.0"],
    "several come at once": ["start:", "put 1.0; put 1.1: 1.1", "put 1.2: 1.1", "restart: 1.1"],
    "one comes while no server runs": ["put 1.0; start: 1.0", "stop; put 1.1; start: 1.1", "put 1.2: 1.1"],
    "the newest breaks": ["put 1.0; put 1.1; start: 1.1", "spoil 1.1: 1.1", "put 1.1: 1.1"],
    "the default goes": ["put 1.0; put 1.1; start: 1.1", "remove 1.1: 1.0", "put 1.1: 1.0", "restart: 1.0"],
    "the default goes, and another comes": ["put 1.0; put 1.1; start: 1.1", "remove 1.1; put 1.2: 1.0"],
    "it goes while no server runs": ["put 1.0; put 1.1; start: 1.1", "stop; remove 1.1; start: 1.0", "put 1.1: 1.0"],
    "a chosen one goes while no server runs": [
        "put 1.0; put 1.1; start: 1.1",
        "choose 1.0: 1.0",
        "stop; remove 1.0; start: 1.1",
        "put 1.0: 1.1",
    ],
    "all go while no server runs, and an older one comes": [
        "put 1.0; put 1.1; start: 1.1",
        "stop; remove 1.0; remove 1.1; put 0.9; start: 0.9",
        "put 1.1: 0.9",
    ],
    "a chosen one goes": ["put 1.0; put 1.1; start: 1.1", "choose 1.0: 1.0", "remove 1.0: 1.1", "put 1.0: 1.1"],
    "nothing answers": ["spoil 1.0; start: 1.0", "spoil 1.1; put 0.9: 0.9", "put 1.0; put 1.1: 0.9"],
    "a choice moves it": ["put 1.0; spoil 1.1; start: 1.0", "put 1.1: 1.0", "choose 1.1: 1.1", "put 1.2: 1.1"],
    "all go": ["put 1.0; start: 1.0", "remove 1.0:", "put 1.0; put 1.1: 1.1"],
}


class Server:
    """The part of a server that follows its models, which are placed by a test."""

    def __init__(self, example: Path, place: Path) -> None:
        self._example = example
        self._aside = place / "aside"
        self._settings = Settings(models=place / "models", instance=place / "instance")
        (place / "models" / NAME).mkdir(parents=True)
        self._aside.mkdir()
        self.started: ModelFollower | None = None

    def put(self, version: str, is_broken: bool = False) -> None:
        """Put a version among the models, whole at once, in place of the one that is there."""
        made = self._aside / version
        shutil.copytree(self._example, made, copy_function=os.link)
        text = (made / "model.toml").read_text()
        (made / "model.toml").unlink()
        (made / "model.toml").write_text(
            "=" if is_broken else text.replace('version = "1.0"', f'version = "{version}"')
        )
        self.remove(version)
        made.rename(self._settings.models / NAME / version)

    def spoil(self, version: str) -> None:
        """Put a version that cannot be loaded."""
        self.put(version, is_broken=True)

    def remove(self, version: str) -> None:
        """Take a version away, if it is there."""
        if (self._settings.models / NAME / version).exists():
            (self._settings.models / NAME / version).rename(self._aside / "gone")
            shutil.rmtree(self._aside / "gone")

    def choose(self, version: str) -> None:
        """Make a version the default."""
        ModelChanges(self._settings, StoreAccess(self._settings)).set_default(NAME, version)

    def start(self) -> None:
        """Start to follow."""
        self.started = ModelFollower(self._settings, ModelRegistry(self._settings), StoreAccess(self._settings))
        self.started.start()

    def stop(self) -> None:
        """Follow no longer."""
        if self.started is not None:
            self.started.close()
        self.started = None

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    @property
    def default(self) -> str:
        """The version that answers now; empty where there is none."""
        assert self.started is not None
        return self.started.registry.table.now.defaults.get(NAME, "")

    def has_followed(self) -> bool:
        """Whether every version that lies there answers, or cannot."""
        assert self.started is not None
        versions = {folder.version: folder for folder in find_model_folders(self._settings.models)}
        entries = self.started.registry.table.now.entries.get(NAME, {})
        wanted = {
            version: State.UNAVAILABLE if (folder.path / "model.toml").read_text() == "=" else State.READY
            for version, folder in versions.items()
        }
        return {version: entry.state for version, entry in entries.items()} == wanted


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_what_comes_never_moves_a_default_that_answers(pcam: Path, tmp_path: Path, history: list[str]) -> None:
    server = Server(pcam, tmp_path / "served")
    with ExitStack() as at_end:
        at_end.callback(server.stop)
        for step in history:
            actions, _, wanted = step.partition(":")
            for action in actions.split(";"):
                verb, *version = action.split()
                getattr(server, verb)(*version)
            seen = [server.default]
            assert within(20, lambda: seen.append(server.default) or server.has_followed()), step  # noqa: B023
            assert within(5, lambda: server.default == wanted.strip()), (step, server.default)  # noqa: B023
            assert seen[0] != wanted.strip() or set(seen) == {seen[0]}, (step, seen)
