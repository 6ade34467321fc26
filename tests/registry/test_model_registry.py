"""The registry: what is loaded, what is not and why, and what happens to folders that need the slow road."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.compiling.folder_compiler import has_valid_report
from app.config.settings import Settings
from app.errors import InferenceError, ModelNotFoundError, ModelVersionNotFoundError, ServiceUnavailableError
from app.manifest.model_manifest import read_manifest
from app.registry.model_entry import ModelEntry, State
from app.registry.model_registry import LOADED_AT_START, ModelRegistry
from app.repository.model_folder import find_model_folders, order_version
from app.state.wanted import WantedState, WantedVersion, make_plan
from tests.registry.loading import add_version, follow_folders, load_models, settle, work_until


def load(models: Path, instance: Path, **more: object) -> ModelRegistry:
    loaded_at_start = more.pop("loaded_at_start", LOADED_AT_START)
    return load_models(Settings(models=models, instance=instance, **more), loaded_at_start=loaded_at_start)  # type: ignore[arg-type]


class Watched:
    """A registry that remembers each state that a version reached, and that the test has to settle."""

    def __init__(self, settings: Settings) -> None:
        self.seen: list[tuple[str, State]] = []
        self.registry = load_models(settings, lambda entry: self.seen.append((entry.folder.version, entry.state)))


def test_compiled_model_is_ready_at_once(models: Path, tmp_path: Path, pcam_example: bytes) -> None:
    registry = load(models, tmp_path)
    entry = registry.table.get("pcam-classification")
    assert (entry.state, entry.engine, entry.reason) == (State.READY, "openvino", "")
    prediction, _ = registry.table.get_served("pcam-classification").predict(pcam_example)
    assert prediction.decision.class_name in ("normal", "metastatic")
    registry.close()
    assert registry.table.get("pcam-classification").state is State.UNLOADING


def test_default_is_the_newest_version_as_people_count(models: Path, pcam: Path, tmp_path: Path) -> None:
    for version in ("1.9", "1.10"):
        add_version(pcam, version)
    registry = load(models, tmp_path)
    assert registry.table.versions("pcam-classification") == ["1.0", "1.9", "1.10"]
    assert registry.table.get("pcam-classification").folder.version == "1.10"
    assert registry.table.get("pcam-classification", "1.9").folder.version == "1.9"
    assert [entry.folder.version for entry in registry.table.defaults()] == ["1.10"]


@pytest.mark.parametrize(
    "older, newer",
    [("1.0", "1.1"), ("1.9", "1.10"), ("2", "10"), ("1.0-rc1", "1.0-rc2"), ("1.0-rc1", "1.0"), ("1.0", "1.0.1")],
)
def test_versions_are_ordered_as_people_count(older: str, newer: str) -> None:
    assert order_version(older) < order_version(newer)


def test_unknown_model_and_version_are_told_apart(models: Path, tmp_path: Path) -> None:
    registry = load(models, tmp_path)
    with pytest.raises(ModelNotFoundError, match="Model not found: nope"):
        registry.table.get("nope")
    with pytest.raises(ModelVersionNotFoundError, match="version: 9 does not exist for model: pcam-classification"):
        registry.table.get("pcam-classification", "9")


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda folder: (folder / "model.toml").unlink(), "model.toml is missing"),
        (lambda folder: (folder / "model.toml").write_text("="), "is not TOML"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "is not the file"),
    ],
    ids=["no manifest", "broken manifest", "no artifact", "other artifact"],
)
def test_damaged_folder_is_unavailable_with_its_reason_and_the_others_serve(
    models: Path, pcam: Path, tmp_path: Path, damage: object, reason: str
) -> None:
    damage(add_version(pcam, "2.0"))  # type: ignore[operator]
    registry = load(models, tmp_path)
    entry = registry.table.get("pcam-classification", "2.0")
    assert entry.state is State.UNAVAILABLE
    assert reason in entry.reason
    with pytest.raises(ServiceUnavailableError):
        registry.table.get_served("pcam-classification", "2.0")
    assert registry.table.get("pcam-classification", "1.0").state is State.READY


def test_model_that_comes_while_the_server_runs_counts_from_the_first_time_it_is_ready(
    models: Path, pcam: Path, tmp_path: Path
) -> None:
    key, seen = ("late-model", "1.0"), []

    def note(entry: ModelEntry) -> None:
        seen.append((entry.folder.name, entry.state, [each.folder.name for each in registry.table.list_lacking()]))

    registry = ModelRegistry(Settings(models=models, instance=tmp_path), note)
    follow_folders(registry, models)
    late, sound = models / "late-model/1.0", models / "late-model/1.0/model.toml"
    shutil.copytree(pcam, late)
    text = sound.read_text().replace('name = "pcam-classification"', 'name = "late-model"')
    for content in ("=", text, "="):
        sound.write_text(content)
        follow_folders(registry, models, key)
    assert [each for each in seen if each[0] == "late-model" and each[1] is not State.LOADING] == [
        ("late-model", State.UNAVAILABLE, []),
        ("late-model", State.READY, []),
        ("late-model", State.UNAVAILABLE, ["late-model"]),
    ]
    shutil.rmtree(late.parent)
    follow_folders(registry, models)
    assert registry.table.list_lacking() == []
    registry.close()


def test_models_that_are_loaded_at_the_start_are_the_first_that_are_to_be_loaded(models: Path, tmp_path: Path) -> None:
    names = ["a-model", "b-model", "c-model", "d-model"]
    for name in names:
        add_version(models / "pcam-classification/1.0", "1.0", name)
    shutil.rmtree(models / "pcam-classification")
    unloaded = {(name, "1.0"): WantedVersion(name, "1.0", url=name, min_workers=0) for name in names[:2]}
    registry = ModelRegistry(Settings(models=models, instance=tmp_path), loaded_at_start=1)
    registry.apply(make_plan(find_model_folders(models), WantedState(1, unloaded)))
    settle(registry)
    assert [entry.folder.name for entry in registry.table.entries() if entry.is_in_memory] == ["c-model"]
    registry.close()


@pytest.mark.slow
def test_model_that_is_being_compiled_counts_only_if_it_was_there_at_the_start(models: Path, tmp_path: Path) -> None:
    shutil.rmtree(models / "pcam-classification/1.0/compiled")
    manifest = models / "pcam-classification/1.0/model.toml"
    manifest.write_text(manifest.read_text().replace("efficientnet_lite0", "efficientnet_lite9"))
    lacking: list[list[str]] = []

    def note(entry: ModelEntry) -> None:
        if "compiling" in entry.reason:
            lacking.append([each.folder.name for each in registry.table.list_lacking()])

    for is_there_at_start in (False, True):
        registry = ModelRegistry(Settings(models=models, instance=tmp_path), note)
        if not is_there_at_start:
            registry.apply(make_plan([], WantedState()))
        follow_folders(registry, models)
        counted = ["pcam-classification"] * is_there_at_start
        assert lacking.pop() == counted
        assert registry.table.get("pcam-classification").state is State.UNAVAILABLE
        assert [each.folder.name for each in registry.table.list_lacking()] == counted
        registry.close()


def test_artifact_that_is_a_link_is_refused(models: Path, pcam: Path, tmp_path: Path) -> None:
    artifact = pcam / "model.safetensors"
    artifact.rename(tmp_path / "elsewhere")
    artifact.symlink_to(tmp_path / "elsewhere")
    assert "not a plain file" in load(models, tmp_path).table.get("pcam-classification").reason


def test_missing_model_folder_leaves_an_empty_registry(tmp_path: Path) -> None:
    assert load(tmp_path / "absent", tmp_path).table.entries() == []


DAMAGES: dict[str, Callable[[Path], object]] = {
    "absent": lambda folder: shutil.rmtree(folder / "compiled"),
    "changed": lambda folder: (folder / "compiled/model.bin").write_bytes(b"x"),
    "no report": lambda folder: (folder / "compiled/report.json").write_text("{}"),
    "another input": lambda folder: (folder / "model.toml").write_text(
        (folder / "model.toml").read_text().replace("mean = [127.0", "mean = [120.0")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["absent", "changed"])
def test_model_without_a_valid_compiled_one_is_compiled_at_start(
    models: Path, pcam: Path, tmp_path: Path, name: str
) -> None:
    DAMAGES[name](pcam)
    watched = Watched(Settings(models=models, instance=tmp_path))
    assert next(state for _, state in watched.seen) is State.LOADING
    entry = watched.registry.table.get("pcam-classification")
    assert (entry.state, entry.reason) == (State.READY, "")
    assert entry.report is not None
    assert entry.report.max_probability_difference <= 1e-4


@pytest.mark.parametrize("name", DAMAGES)
def test_compiled_model_that_is_not_valid_is_told_by_loader_and_compiler_alike(
    models: Path, pcam: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # so that it is not compiled
    assert has_valid_report(pcam, read_manifest(pcam))
    DAMAGES[name](pcam)
    assert not has_valid_report(pcam, read_manifest(pcam))
    watched = Watched(Settings(models=models, instance=tmp_path))
    assert next(state for _, state in watched.seen) is State.LOADING


def test_without_its_framework_the_reason_says_what_to_install(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(pcam / "compiled")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    watched = Watched(Settings(models=models, instance=tmp_path))
    assert watched.registry.table.get("pcam-classification").reason == (
        "torch is not installed here, and the model is not compiled; run 'pip install -r requirements.txt'"
    )


@pytest.mark.slow
def test_manifest_can_ask_for_the_native_engine_which_serves_in_a_process_of_its_own(
    models: Path, pcam: Path, tmp_path: Path, pcam_example: bytes
) -> None:
    compiled = load(models, tmp_path)
    manifest = (pcam / "model.toml").read_text()
    (pcam / "model.toml").write_text(manifest.replace('framework = "torch"', 'framework = "torch"\nengine = "native"'))
    watched = Watched(Settings(models=models, instance=tmp_path))
    entry = watched.registry.table.get("pcam-classification")
    assert (entry.state, entry.engine) == (State.READY, "torch")
    one, two = (
        registry.table.get_served("pcam-classification").predict(pcam_example)[0].decision.confidence
        for registry in (compiled, watched.registry)
    )
    assert one == pytest.approx(two, abs=1e-4)
    watched.registry.close()
    compiled.close()


def test_model_beyond_those_loaded_at_start_loads_when_first_asked(
    models: Path, tmp_path: Path, pcam_example: bytes
) -> None:
    registry = load(models, tmp_path, loaded_at_start=0)
    before = registry.table.get("pcam-classification")
    assert (before.state, before.reason) == (State.READY, "it is loaded when it is first asked for")
    registry.table.get_served("pcam-classification").predict(pcam_example)
    registry.work(0)
    after = registry.table.get("pcam-classification")
    assert (after.state, after.reason) == (State.READY, "")
    assert after.load_s is not None
    registry.close()


def test_default_versions_are_loaded_before_older_ones(models: Path, pcam: Path, tmp_path: Path) -> None:
    add_version(pcam, "1.1")
    registry = load(models, tmp_path, loaded_at_start=1)
    assert registry.table.get("pcam-classification", "1.1").reason == ""
    assert "first asked" in registry.table.get("pcam-classification", "1.0").reason
    registry.close()


def test_model_that_cannot_be_loaded_when_first_asked_says_so_and_comes_back_when_it_can(
    models: Path, pcam: Path, tmp_path: Path, pcam_example: bytes
) -> None:
    registry = load(models, tmp_path, loaded_at_start=0)
    model = pcam / "compiled" / "model.xml"
    sound = model.read_text()
    model.write_text("<net/>")
    served = registry.table.get_served("pcam-classification")
    with pytest.raises(InferenceError, match="could not be loaded"):
        served.predict(pcam_example)
    registry.work(0)
    entry = registry.table.get("pcam-classification")
    assert entry.state is State.UNAVAILABLE
    assert "was changed" in entry.reason
    with pytest.raises(ServiceUnavailableError):
        registry.table.get_served("pcam-classification")
    model.write_text(sound)
    work_until(registry, lambda: registry.table.get("pcam-classification").state is State.READY, 30)
    registry.table.get_served("pcam-classification").predict(pcam_example)
    registry.close()


def test_weights_that_were_exchanged_before_the_first_request_answer_nobody(
    models: Path, pcam: Path, tmp_path: Path, pcam_example: bytes
) -> None:
    registry = load(models, tmp_path, loaded_at_start=0)
    weights = pcam / "compiled" / "model.bin"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-5000] + bytes(5000))  # OpenVINO loads it
    with pytest.raises(InferenceError, match="could not be loaded"):
        registry.table.get_served("pcam-classification").predict(pcam_example)
    registry.work(0)
    assert "was changed" in registry.table.get("pcam-classification").reason
    weights.write_bytes(sound)
    work_until(registry, lambda: registry.table.get("pcam-classification").state is State.READY, 30)
    registry.table.get_served("pcam-classification").predict(pcam_example)
    registry.close()
