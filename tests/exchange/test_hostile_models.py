"""Hostile archives and model files: each is refused with a reason, runs nothing, and leaves nothing behind."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import ModelFolderError
from app.exchange.model_importer import add_model, bring_in
from app.exchange.quarantine import Quarantine
from app.processes.confined_process import run_confined
from tests.exchange.compile_each import compile_each
from tests.exchange.hostile import CANARY, HOSTILE, LOADED, Generator

pytestmark = pytest.mark.slow

MIB = 1 << 20
SUFFIXES = (".keras", ".h5", ".safetensors")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change; links are not followed."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*")) if not p.is_dir()}


def generate(tmp_path: Path, generator: Generator) -> Path:
    for name in ("brought", "models"):
        (tmp_path / name).mkdir()
    return generator(tmp_path / "brought")


def see_refused(tmp_path: Path, source: Path, reason: str) -> None:
    models = tmp_path / "models"
    manifest = None
    if source.is_file() and source.suffix in SUFFIXES:
        manifest = write_manifest(tmp_path, source)
    before = snapshot(source.parent)
    with pytest.raises(ModelFolderError, match=reason) as failure:
        add_model(source, Settings(models=models, instance=tmp_path / "instance"), manifest)
    assert str(models) not in failure.value.message
    assert list(models.iterdir()) == []
    assert snapshot(source.parent) == before
    assert not list(tmp_path.rglob(CANARY))
    assert {path.name for path in tmp_path.iterdir()} <= {"brought", "models", "instance", "model.toml"}


def write_manifest(folder: Path, source: Path) -> Path:
    """The shipped manifest of the framework that the file pretends to be of, without its hash."""
    shipped = "pcam" if source.suffix == ".safetensors" else "isic"
    lines = (PROJECT_ROOT / f"models/{shipped}-classification/1.0/model.toml").read_text().splitlines()
    path = folder / "model.toml"
    text = "\n".join(line for line in lines if not line.startswith("sha256"))
    path.write_text(text.replace("model.keras", f"model{source.suffix}"))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_before_it_is_loaded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    generator, reason = HOSTILE[name]
    source = generate(tmp_path, generator)
    monkeypatch.setattr("subprocess.Popen", started)
    see_refused(tmp_path, source, reason)


@pytest.mark.parametrize("name", ["Keras Lambda", "weights of another network"])
def test_hostile_file_is_refused_by_its_loader(tmp_path: Path, name: str) -> None:
    generator, reason = LOADED[name]
    see_refused(tmp_path, generate(tmp_path, generator), reason)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, str]]]:
    """Every file, brought in as `add_model` does, and why the compiler refuses it: one process for all."""
    roots = {name: tmp_path_factory.mktemp("loaded") for name in LOADED}
    first = next(iter(roots.values()))
    settings = Settings(models=first, instance=first / "instance", max_model_bytes=16 * MIB)
    folders: dict[str, Path] = {}
    with ExitStack() as held:
        for name, root in roots.items():
            source = generate(root, LOADED[name][0])
            manifest = write_manifest(root, source) if source.is_file() else None
            quarantine = held.enter_context(Quarantine(root))
            folders[name] = bring_in(source, manifest, quarantine, settings).folder.path
        reasons = roots["Keras Lambda"] / "reasons.json"
        run_confined(compile_each, [reasons, *folders.values()], settings)
        told = json.loads(reasons.read_text())
        yield {name: (folder, told.get(str(folder), "")) for name, folder in folders.items()}


@pytest.mark.parametrize("name", LOADED)
def test_hostile_file_is_refused_where_it_is_compiled_and_leaves_nothing(
    refusals: dict[str, tuple[Path, str]], name: str
) -> None:
    folder, reason = refusals[name]
    assert re.search(LOADED[name][1], reason)
    assert {path.name for path in folder.iterdir()} <= {"model.toml", *(f"model{end}" for end in SUFFIXES)}
    assert not list(folder.parents[3].rglob(CANARY))


def test_there_are_more_than_30_kinds() -> None:
    assert len(HOSTILE) + len(LOADED) > 30


def test_files_of_the_frameworks_own_making_are_known(tmp_path: Path) -> None:
    import torch

    from app.exchange.model_format import ModelFormat, identify

    network = torch.nn.Linear(2, 2)
    torch.save(network.state_dict(), tmp_path / "weights")
    torch.save(network.state_dict(), tmp_path / "old", _use_new_zipfile_serialization=False)
    torch.save(network, tmp_path / "module")
    torch.export.save(torch.export.export(network, (torch.zeros(1, 2),)), tmp_path / "exported.pt2")
    assert identify(tmp_path / "weights") is ModelFormat.STATE_DICT
    assert identify(tmp_path / "old") is ModelFormat.OLD_TORCH
    assert identify(tmp_path / "module") is ModelFormat.TORCH_PICKLE
    assert identify(tmp_path / "exported.pt2") is ModelFormat.PT2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    source = tmp_path / "model.zip"
    source.touch(mode=0)
    with pytest.raises(ModelFolderError, match="Permission denied"):
        add_model(source, Settings(models=tmp_path / "models", instance=tmp_path))
