"""Following: folders that come and go, what the store says, and what a worker says of itself."""

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import DiskFullError, ModelNotFoundError, ModelVersionNotFoundError, ServiceUnavailableError
from app.exchange.quarantine import Quarantine
from app.registry.model_changes import ModelChanges, Wishes
from app.registry.model_entry import State
from app.registry.model_follower import ModelFollower
from app.registry.model_loader import ModelLoader
from app.registry.model_registry import ModelRegistry
from app.registry.version_slot import Attempt
from app.state.store_access import StoreAccess
from app.state.wanted import WantedState
from app.state.worker_reports import read_reports
from tests.conftest import within

pytestmark = pytest.mark.slow

NAME = "pcam-classification"


def copy_version(source: Path, target: Path, version: str) -> Path:
    """Copy a model folder and give it another version."""
    shutil.copytree(source, target)
    manifest = (target / "model.toml").read_text()
    (target / "model.toml").write_text(manifest.replace('version = "1.0"', f'version = "{version}"'))
    return target


@dataclass
class Followed:
    """A registry that follows, and the means to change what it follows."""

    settings: Settings
    registry: ModelRegistry
    follower: ModelFollower
    changes: ModelChanges

    def default(self) -> str:
        return self.registry.table.get(NAME).folder.version

    def versions(self) -> list[str]:
        return self.registry.table.versions(NAME)

    def is_ready(self, version: str) -> bool:
        return self.registry.states().get(f"{NAME}/{version}") == State.READY


@pytest.fixture
def followed(models: Path, tmp_path: Path) -> Iterator[Followed]:
    """A follower of a copy of pcam-classification 1.0, and a store folder with 2.0 in it."""
    copy_version(models / NAME / "1.0", tmp_path / "store/two", "2.0")
    settings = Settings(models=models, instance=tmp_path / "instance", store=tmp_path / "store")
    registry = ModelRegistry(settings)
    follower = ModelFollower(settings, registry, StoreAccess(settings))
    access = StoreAccess(settings)
    follower.start()
    yield Followed(settings, registry, follower, ModelChanges(settings, access))
    access.close()
    follower.close()


class RegisteringAccess(StoreAccess):
    """A store that somebody registers a version in after a follower has looked at the folders, before it reads."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._changes = ModelChanges(settings, StoreAccess(settings))
        self._is_following = False
        self.generation = 0

    def read_generation(self) -> int:
        self._is_following = True
        return super().read_generation()

    def read(self) -> WantedState:
        if self._is_following and not self.generation:
            self.generation = self._changes.register("two", Wishes(workers=1)).generation
        return super().read()


def test_version_registered_while_a_worker_looks_at_the_folders_is_not_reported_as_followed_without_it(
    models: Path, tmp_path: Path
) -> None:
    copy_version(models / NAME / "1.0", tmp_path / "store/two", "2.0")
    settings = Settings(models=models, instance=tmp_path / "instance", store=tmp_path / "store")
    access = RegisteringAccess(settings)
    follower = ModelFollower(settings, ModelRegistry(settings), access)
    follower.start()
    try:
        (report,) = read_reports(settings.instance)
        assert access.generation
        assert report.generation < access.generation or f"{NAME}/2.0" in report.states
        assert within(10, lambda: follower.registry.states().get(f"{NAME}/2.0") == State.READY)
        assert within(10, lambda: read_reports(settings.instance)[0].generation == access.generation)
    finally:
        follower.close()


def test_without_a_store_nothing_is_written_but_the_report(followed: Followed) -> None:
    assert followed.default() == "1.0"
    assert {path.name for path in followed.settings.instance.iterdir()} == {"workers"}


def test_quarantine_of_a_killed_worker_goes_when_another_starts_and_a_held_one_stays(
    models: Path, tmp_path: Path
) -> None:
    settings = Settings(models=models, instance=tmp_path / "instance")
    registry = ModelRegistry(settings)
    follower = ModelFollower(settings, registry, StoreAccess(settings))
    with Quarantine(models) as held:
        (models / ".incoming-left/unpacked").mkdir(parents=True)
        follower.start()
        assert {path.name for path in models.glob(".incoming-*")} == {held.path.name}
    follower.close()


def test_without_a_store_sqlalchemy_is_not_imported(models: Path, tmp_path: Path) -> None:
    # Left at once: threads still warm the models up.
    code = "import os, sys; from wsgi import app; print('sqlalchemy' in sys.modules, flush=True); os._exit(0)"
    environment = {**os.environ, "SCANCER_MODELS": str(models), "SCANCER_INSTANCE": str(tmp_path / "instance")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_folder_that_comes_is_served_beside_the_default_and_one_that_goes_is_not(followed: Followed) -> None:
    new = copy_version(followed.settings.store / "two", followed.settings.models / NAME / "3.0", "3.0")
    manifest = (new / "model.toml").read_text()
    (new / "model.toml").write_text(manifest.replace('version = "2.0"', 'version = "3.0"'))
    assert within(5, lambda: followed.is_ready("3.0"))
    assert followed.default() == "1.0"
    followed.changes.set_default(NAME, "3.0")
    assert within(5, lambda: followed.default() == "3.0")
    shutil.rmtree(new)
    assert within(5, lambda: followed.versions() == ["1.0"])
    assert followed.default() == "1.0"


def test_default_that_stayed_when_a_folder_came_stays_after_a_restart(followed: Followed) -> None:
    copy_version(followed.settings.models / NAME / "1.0", followed.settings.models / NAME / "2.0", "2.0")
    assert within(5, lambda: followed.is_ready("2.0"))
    registry = ModelRegistry(followed.settings)
    follower = ModelFollower(followed.settings, registry, StoreAccess(followed.settings))
    follower.start()
    try:
        assert (registry.table.versions(NAME), registry.table.get(NAME).folder.version) == (["1.0", "2.0"], "1.0")
    finally:
        follower.close()


def test_version_that_somebody_scales_is_loaded_whatever_was_wanted_of_it_before(followed: Followed) -> None:
    copy_version(followed.settings.store / "two", followed.settings.models / NAME / "2.0", "2.0")
    assert within(5, lambda: followed.is_ready("2.0"))
    for workers in (0, 1):
        followed.changes.scale(NAME, "2.0", workers, workers)
        assert within(5, lambda: followed.registry.table.get(NAME, "2.0").is_in_memory is bool(workers))  # noqa: B023
    registry = ModelRegistry(followed.settings)  # another worker
    follower = ModelFollower(followed.settings, registry, StoreAccess(followed.settings))
    follower.start()
    try:
        assert not registry.table.get(NAME, "2.0").is_in_memory
        followed.changes.scale(NAME, "2.0", 1, 2)
        assert within(5, lambda: registry.table.get(NAME, "2.0").is_in_memory)
    finally:
        follower.close()


def test_default_that_is_chosen_before_its_folder_is_whole_waits_for_it(followed: Followed) -> None:
    for version in ("0.8", "1.1"):
        copy_version(followed.settings.models / NAME / "1.0", followed.settings.models / NAME / version, version)
    assert within(5, lambda: all(followed.is_ready(version) for version in ("0.8", "1.0", "1.1")))
    seen = {followed.default()}
    copy_version(followed.settings.store / "two", followed.settings.models / NAME / "2.0", "2.0")
    followed.changes.set_default(NAME, "2.0")
    assert within(5, lambda: seen.add(followed.default()) or followed.default() == "2.0")
    assert seen <= {"1.0", "2.0"}


def test_folder_that_comes_takes_the_place_of_a_default_that_cannot_answer(followed: Followed) -> None:
    shutil.rmtree(followed.settings.models / NAME / "1.0")
    assert within(5, lambda: not followed.versions())
    broken = followed.settings.models / NAME / "1.0"
    broken.mkdir()
    (broken / "model.toml").write_text("=")
    assert within(5, lambda: followed.versions() == ["1.0"])
    copy_version(followed.settings.store / "two", followed.settings.models / NAME / "2.0", "2.0")
    assert within(5, lambda: followed.default() == "2.0")


def test_registration_leaves_the_version_that_answers_the_default_not_a_newer_broken_one(followed: Followed) -> None:
    broken = followed.settings.models / NAME / "1.9"
    broken.mkdir()
    (broken / "model.toml").write_text("=")
    assert within(5, lambda: followed.versions() == ["1.0", "1.9"])
    followed.changes.register("two", Wishes(workers=1))
    assert within(5, lambda: followed.is_ready("2.0"))
    assert followed.default() == "1.0"


@pytest.mark.parametrize("name", ["model.toml", "model.safetensors"])
def test_changed_file_of_a_served_model_is_said_and_forgotten_when_it_is_as_it_was(
    followed: Followed, caplog: pytest.LogCaptureFixture, name: str, tmp_path: Path
) -> None:
    path = followed.settings.models / NAME / "1.0" / name
    path.rename(tmp_path / name)
    path.write_bytes((tmp_path / name).read_bytes() + b"\n")
    reason = f"changed since it was loaded, and read at the next load or start: {name}"
    assert within(5, lambda: followed.registry.table.get(NAME).reason == reason)
    assert followed.registry.table.get(NAME).state is State.READY
    assert [record.reason for record in caplog.records if "were changed" in record.message] == [reason]  # type: ignore[attr-defined]
    (tmp_path / name).rename(path)
    assert within(5, lambda: not followed.registry.table.get(NAME).reason)


def test_only_what_answers_counts_as_changed(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    folder = followed.settings.models / NAME / "1.0"
    for name in ("MODEL_CARD.md", "examples/expected.json", "compiled/report.json"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    for path in folder.rglob("*"):
        path.touch()
    time.sleep(1)
    change_threshold(folder, 0.2)
    assert within(5, lambda: bool(followed.registry.table.get(NAME).reason))
    assert len([record for record in caplog.records if "were changed" in record.message]) == 1
    assert followed.registry.table.get(NAME).reason.endswith(": model.toml")


def test_compiled_model_that_was_made_anew_counts_as_changed_unless_it_is_the_same(followed: Followed) -> None:
    compiled = followed.settings.models / NAME / "1.0/compiled"
    for path in compiled.iterdir():
        (path.with_suffix(".new")).write_bytes(path.read_bytes())
        path.with_suffix(".new").rename(path)
    assert not within(1, lambda: bool(followed.registry.table.get(NAME).reason))
    (compiled / "model.xml").write_bytes((compiled / "model.xml").read_bytes() + b"\n")
    assert within(5, lambda: followed.registry.table.get(NAME).reason.endswith(": compiled"))


def change_threshold(folder: Path, threshold: float) -> None:
    manifest = folder / "model.toml"
    text, count = re.subn(r"(?m)^threshold = .*", f"threshold = {threshold}", manifest.read_text())
    assert count == 1
    manifest.write_text(text)


def read_threshold(registry: ModelRegistry) -> float | None:
    return registry.table.get_served(NAME).manifest.output.threshold


def list_told(settings: Settings) -> set[str]:
    """What the workers say that they answer by."""
    return {report.contents[f"{NAME}/1.0"] for report in read_reports(settings.instance)}


def test_changed_files_that_another_worker_answers_by_are_loaded(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    change_threshold(followed.settings.models / NAME / "1.0", 0.2)
    registry = ModelRegistry(followed.settings)
    follower = ModelFollower(followed.settings, registry, StoreAccess(followed.settings))
    follower.start()
    try:
        assert read_threshold(registry) == 0.2
        assert within(2, lambda: read_threshold(followed.registry) == 0.2)
        assert within(1, lambda: not followed.registry.table.get(NAME).reason)
        assert within(2, lambda: len(list_told(followed.settings)) == 1)  # or a report of before would count
        change_threshold(followed.settings.models / NAME / "1.0", 0.3)
        assert not within(1, lambda: 0.3 in (read_threshold(registry), read_threshold(followed.registry)))
    finally:
        follower.close()
    assert len([record for record in caplog.records if "another worker" in record.message]) == 1


def test_model_that_somebody_loads_is_read_again_if_its_files_have_changed(followed: Followed) -> None:
    served = followed.registry.table.get_served(NAME)
    change = followed.changes.set_loaded(NAME, is_loaded=True)[-1]
    instance = followed.settings.instance
    assert within(5, lambda: read_reports(instance)[0].generation == change.generation)
    assert followed.registry.table.get_served(NAME) is served
    change_threshold(followed.settings.models / NAME / "1.0", 0.2)
    change = followed.changes.set_loaded(NAME, is_loaded=True)[-1]
    assert within(5, lambda: read_reports(instance)[0].generation == change.generation)
    assert within(5, lambda: followed.is_ready("1.0"))
    assert read_threshold(followed.registry) == 0.2


def test_other_folder_in_the_place_of_a_served_one_is_loaded_once(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Attempt] = []
    load = ModelLoader.load
    monkeypatch.setattr(
        ModelLoader, "load", lambda self, attempt, on_load: loads.append(attempt) or load(self, attempt, on_load)
    )
    place = followed.settings.models / NAME / "1.0"
    copy_version(place, followed.settings.store / "new", "1.0")
    change_threshold(followed.settings.store / "new", 0.2)
    place.rename(followed.settings.store / "old")
    (followed.settings.store / "new").rename(place)
    assert within(5, lambda: bool(followed.versions()) and read_threshold(followed.registry) == 0.2)
    time.sleep(1)
    assert len(loads) == 1


def test_folder_that_is_still_being_copied_is_not_loaded_before_it_is_whole(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.registry.folder_scan.SETTLE_S", 1.0)
    source, target = followed.settings.store / "two", followed.settings.models / NAME / "2.0"
    target.mkdir()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        assert "2.0" not in followed.versions()
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.relative_to(source))
        time.sleep(0.6)
    assert within(5, lambda: followed.is_ready("2.0"))


def test_folder_that_cannot_be_served_is_tried_again_when_it_changes(followed: Followed) -> None:
    target = copy_version(followed.settings.models / NAME / "1.0", followed.settings.models / NAME / "2.0", "2.0")
    (target / "model.safetensors").rename(followed.settings.store / "kept")
    assert within(5, lambda: "2.0" in followed.versions())
    assert within(5, lambda: followed.registry.table.get(NAME, "2.0").state is State.UNAVAILABLE)
    assert followed.default() == "1.0"
    (followed.settings.store / "kept").rename(target / "model.safetensors")
    assert within(5, lambda: followed.is_ready("2.0"))


@pytest.mark.alone
def test_changes_are_followed_within_a_second(followed: Followed, pcam_example: bytes) -> None:
    followed.changes.register("two", Wishes(workers=1))
    assert within(2, lambda: followed.is_ready("2.0"))  # the first change imports SQLAlchemy
    assert followed.default() == "1.0"
    followed.changes.set_default(NAME, "2.0")
    assert within(1, lambda: followed.default() == "2.0")
    followed.changes.scale(NAME, None, 0, 0)
    assert within(1, lambda: followed.registry.table.get(NAME).served is None)
    with pytest.raises(ServiceUnavailableError, match=f'^Model "{NAME}" has no worker to serve inference request. Pl'):
        followed.registry.table.get_served(NAME)
    with pytest.raises(ServiceUnavailableError, match=f'^Model "{NAME}" Version 2.0" has no worker'):
        followed.registry.table.get_served(NAME, "2.0")
    followed.changes.scale(NAME, None, 2, 2)
    assert within(1, lambda: followed.registry.table.get(NAME).served is not None)
    with followed.registry.table.lend(NAME) as entry:
        assert entry.served.predict(pcam_example)[0].decision.class_name in ("normal", "metastatic")
    followed.changes.set_default(NAME, "1.0")
    followed.changes.unregister(NAME, "2.0")
    assert within(1, lambda: followed.versions() == ["1.0"])
    with pytest.raises(ModelVersionNotFoundError):
        followed.registry.table.get(NAME, "2.0")


@pytest.mark.slow
def test_version_that_is_compiled_takes_its_place_when_it_is_ready_whatever_was_said_meanwhile(
    followed: Followed, pcam_example: bytes
) -> None:
    shutil.rmtree(followed.settings.store / "two/compiled")
    followed.changes.register("two", Wishes(workers=1))
    followed.changes.set_default(NAME, "2.0")
    assert within(3, lambda: "2.0" in followed.versions())
    assert followed.registry.table.get(NAME, "2.0").state is State.LOADING
    assert followed.default() == "1.0"
    followed.changes.scale(NAME, "2.0", 3, 3)
    assert within(120, lambda: followed.default() == "2.0")
    assert followed.registry.table.get(NAME).wanted.min_workers == 3
    followed.registry.table.get_served(NAME).predict(pcam_example)


def test_model_that_is_let_go_answers_who_has_it_first(followed: Followed, pcam_example: bytes) -> None:
    with followed.registry.table.lend(NAME) as entry:
        served = entry.served
        followed.changes.unregister(NAME, None)
        assert within(2, lambda: followed.versions() == [])
        assert followed.registry.states() == {f"{NAME}/1.0": "UNLOADING"}
        with pytest.raises(ModelNotFoundError), followed.registry.table.lend(NAME):
            pass
        served.predict(pcam_example)
        time.sleep(0.3)
        served.predict(pcam_example)
    assert within(2, lambda: followed.registry.states() == {})
    with pytest.raises(ServiceUnavailableError, match="unloaded"):
        served.predict(pcam_example)


@pytest.mark.slow
def test_requests_never_fail_while_the_default_goes_to_and_fro(followed: Followed, pcam_example: bytes) -> None:
    followed.changes.register("two", Wishes(workers=1))
    assert within(2, lambda: followed.is_ready("2.0"))
    answered: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            with followed.registry.table.lend(NAME) as entry:
                entry.served.predict(pcam_example)
                answered.append(entry.served.manifest.version)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        for version, other in (("2.0", "1.0"), ("1.0", "2.0")):
            followed.changes.set_default(NAME, version)
            assert within(2, lambda version=version: followed.default() == version)  # type: ignore[misc]
            followed.changes.scale(NAME, other, 0, 0)
            assert within(2, lambda other=other: followed.registry.table.get(NAME, other).served is None)  # type: ignore[misc]
            followed.changes.scale(NAME, other, 1, 1)
            assert within(2, lambda other=other: followed.registry.table.get(NAME, other).served is not None)  # type: ignore[misc]
    alive = [thread.is_alive() for thread in threads]
    done.set()
    for thread in threads:
        thread.join()
    assert alive == [True] * 4
    assert set(answered) == {"1.0", "2.0"}


def test_folder_that_was_unregistered_stays_and_is_served_again_when_registered(followed: Followed) -> None:
    followed.changes.unregister(NAME, None)
    assert within(2, lambda: followed.versions() == [])
    assert (followed.settings.models / NAME / "1.0/model.toml").exists()
    followed.changes.register(f"{NAME}/1.0", Wishes(workers=1, batch_size=3, max_batch_delay_ms=7))
    assert within(2, lambda: followed.is_ready("1.0"))
    served = followed.registry.table.get_served(NAME)
    assert (served.manifest.batch.max_size, served.manifest.batch.max_delay_ms) == (3, 7.0)


def test_removal_is_forgotten_with_the_folder(followed: Followed, tmp_path: Path) -> None:
    followed.changes.unregister(NAME, None)
    folder = followed.settings.models / NAME / "1.0"
    folder.rename(tmp_path / "away")
    store = StoreAccess(followed.settings)
    assert within(5, lambda: not store.open().read().versions)
    store.close()
    (tmp_path / "away").rename(folder)
    assert within(5, lambda: followed.versions() == ["1.0"])


def test_what_was_registered_and_is_unregistered_leaves_no_file(followed: Followed) -> None:
    before = sorted(followed.settings.models.rglob("*"))
    followed.changes.register("two", Wishes(workers=1, model_name="another-name"))
    assert within(2, lambda: "another-name/2.0" in followed.registry.states())
    followed.changes.unregister("another-name", None)
    followed.changes.sweep()
    assert sorted(followed.settings.models.rglob("*")) == before


def test_full_disk_leaves_nothing_behind(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(followed.settings.models.rglob("*"))

    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fill)  # the copy is there in part, as it is when a disk fills up
    with pytest.raises(DiskFullError):
        followed.changes.register("two", Wishes(workers=1))
    monkeypatch.undo()
    assert sorted(followed.settings.models.rglob("*")) == before
    followed.changes.register("two", Wishes(workers=1))


def test_store_that_breaks_leaves_the_models_serving(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    followed.changes.set_default(NAME, "1.0")
    with caplog.at_level(logging.INFO):
        (followed.settings.instance / "state.db-wal").unlink()
        (followed.settings.instance / "state.db").write_bytes(b"no database" * 1000)
        assert within(3, lambda: "models are not followed" in caplog.text)
        time.sleep(0.6)
    assert caplog.text.count("models are not followed") == 1
    assert followed.registry.table.get_served(NAME)


def test_worker_reports_its_generation_and_states_while_it_lives(followed: Followed) -> None:
    change = followed.changes.set_default(NAME, "1.0")
    instance = followed.settings.instance
    assert within(2, lambda: read_reports(instance)[0].generation == change.generation)
    report = read_reports(instance)[0]
    assert (report.pid, report.states) == (os.getpid(), {f"{NAME}/1.0": "READY"})
    followed.follower.close()
    assert read_reports(instance) == []


def test_report_of_a_killed_worker_is_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from app.state.worker_reports import ReportWriter\n"
        "writer = ReportWriter(pathlib.Path(sys.argv[1])); writer.write(3, {'a/1': 'READY'}, {})\n"
        "print('in', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        reports = read_reports(tmp_path)
        assert [(each.pid, each.generation, each.states) for each in reports] == [(child.pid, 3, {"a/1": "READY"})]
        child.kill()
        child.wait()
        assert read_reports(tmp_path) == []
        assert list((tmp_path / "workers").iterdir()) == []


def test_leftovers_of_a_killed_registration_go_at_the_next_start(models: Path, tmp_path: Path) -> None:
    settings = Settings(models=models, instance=tmp_path / "instance")
    access = StoreAccess(settings)
    token = f".incoming-abcd {NAME}/2.0"
    with access.open().change() as draft:
        draft.strays.add(token)
    access.close()
    copy_version(models / NAME / "1.0", models / NAME / "2.0", "2.0")
    (models / NAME / "2.0/.registered").write_text(token)
    (models / ".incoming-abcd" / NAME).mkdir(parents=True)
    registry = ModelRegistry(settings)
    follower = ModelFollower(settings, registry, StoreAccess(settings))
    follower.start()
    assert registry.table.versions(NAME) == ["1.0"]
    assert [path.name for path in models.iterdir()] == [NAME]
    assert [path.name for path in (models / NAME).iterdir()] == ["1.0"]
    follower.close()


def test_another_database_is_used_by_its_url(tmp_path: Path) -> None:
    access = StoreAccess(Settings(instance=tmp_path / "instance", database=f"sqlite:///{tmp_path}/elsewhere.db"))
    assert access.exists()
    with access.open().change() as draft:
        draft.defaults[NAME] = "1.0"
    access.close()
    assert (tmp_path / "elsewhere.db").exists()
    assert list((tmp_path / "instance").iterdir()) == []
