"""The slow road: what it writes, and when it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from app.compiling import compilation
from app.compiling.folder_compiler import compile_in_process, compile_model, make_comparison_batch
from app.config.settings import Settings
from app.engines.compiled.compile_report import CompileReport, read_report
from app.errors import CompiledModelError, IntegrityError, ManifestError, ModelFolderError
from app.manifest.model_manifest import read_manifest
from tests.conftest import find_first_versions


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompileReport]:
    """A model folder that was compiled where a killed compilation had left something, and the report."""
    folder = tmp_path_factory.mktemp("models") / "pcam-classification"
    shutil.copytree(find_first_versions() / "pcam-classification", folder)
    (folder / "1.0/.compiling-1/compiled").mkdir(parents=True)
    return folder / "1.0", compile_in_process(folder / "1.0", Settings(instance=folder.parent))


def test_report_says_what_was_compared_with_what(compiled: tuple[Path, CompileReport]) -> None:
    _, report = compiled
    assert report.images == 32 + 3
    assert report.max_probability_difference <= report.tolerance == 1e-4
    assert report.framework.startswith("torch 2.")
    assert report.converter.startswith("openvino 20")


def test_leftovers_of_a_killed_compilation_are_taken_away(compiled: tuple[Path, CompileReport]) -> None:
    folder, _ = compiled
    assert sorted(path.name for path in folder.iterdir()) == [
        "MODEL_CARD.md",
        "compiled",
        "examples",
        "model.safetensors",
        "model.toml",
    ]


def test_compiled_model_that_strays_is_refused_with_both_numbers(pcam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (pcam / "compiled/report.json").read_text()
    monkeypatch.setattr(compilation, "TOLERANCE", 1e-12)
    with pytest.raises(
        CompiledModelError, match=r"differ from those of torch by \d\.\d\de-0\d; at most 1e-12 is allowed"
    ):
        compile_model(pcam)
    assert (pcam / "compiled/report.json").read_text() == kept
    assert not list(pcam.glob(".compiling*"))


def test_scores_that_are_not_what_the_manifest_says_are_refused(pcam: Path) -> None:
    manifest = (pcam / "model.toml").read_text()
    (pcam / "model.toml").write_text(manifest.replace("[output]", '[output]\nscores = "probabilities"'))
    with pytest.raises(ManifestError, match=r"the network's lie from -?\d.* to \d.* or do not add up to 1"):
        compile_model(pcam)
    assert not list(pcam.glob(".compiling*"))


def test_report_over_the_tolerance_is_not_served(pcam: Path) -> None:
    path = pcam / "compiled/report.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "max_probability_difference": 2e-4, "tolerance": 1.0}))
    with pytest.raises(CompiledModelError, match=r"differ from the framework's by 0\.0002, more than 0\.0001"):
        read_report(pcam, read_manifest(pcam))


def test_artifact_is_verified_before_it_is_loaded(pcam: Path) -> None:
    with (pcam / "model.safetensors").open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(IntegrityError, match="is not the file"):
        compile_model(pcam)


def test_failure_in_the_process_comes_back_as_its_reason(pcam: Path) -> None:
    manifest = (pcam / "model.toml").read_text()
    (pcam / "model.toml").write_text(manifest.replace("efficientnet_lite0", "efficientnet_lite9"))
    with pytest.raises(CompiledModelError, match="architecture efficientnet_lite9 is not one of"):
        compile_in_process(pcam, Settings(instance=pcam.parent))


def test_compilation_is_ended_at_its_timeout(pcam: Path) -> None:
    with pytest.raises(CompiledModelError, match="took longer than 0 s"):
        compile_in_process(pcam, Settings(instance=pcam.parent, compile_timeout_s=0))


def test_comparison_pictures_are_the_same_every_time(pcam: Path) -> None:
    manifest = read_manifest(pcam)
    one, two = (make_comparison_batch(manifest, pcam) for _ in range(2))
    assert one.shape == (35, 96, 96, 3)
    assert (one == two).all()


def test_unwritable_folder_is_a_reason_and_no_crash(pcam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ModelFolderError, match="cannot be written: Permission denied"):
        compile_model(pcam)
